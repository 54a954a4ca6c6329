"""What the guard says of itself as a protected resource (RFC 9728), one document for each `/mcp/<server>`.

A tool server's own metadata names the tool server, so a client that compares it with the URL it was given would
refuse to go on. Agents' credentials are made by the guard's operator: no authorization server is named.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from guard.config import Proxy

_WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"


class Metadata:
    """The documents of one listener, and the header that leads to them."""

    def __init__(self, proxy: Proxy, servers: Iterable[str]) -> None:
        self._base = proxy.public_url
        self._scheme = "https" if proxy.tls_cert else "http"
        self._servers = {f"{_WELL_KNOWN}/mcp/{name}".encode(): name for name in servers}

    def server(self, target: bytes) -> str:
        """The server whose document lies at this target; "" when none does."""
        return self._servers.get(target, "")

    def document(self, server: str, host: str) -> bytes:
        """The document of a server, for a client that asked under this Host."""
        return json.dumps(
            {
                "resource": f"{self._url(host)}/mcp/{server}",
                "resource_name": f"{server}, behind guard",
                "bearer_methods_supported": ["header"],
            }
        ).encode()

    def challenge(self, server: str, host: str, *, error: str = "", first: bool) -> bytes:
        """`WWW-Authenticate` of a 401 (RFC 6750 section 3).

        Args:
            server: the server that was asked for.
            host: the Host header, known to be one of this listener's names.
            error: the error code; a request without a credential gets none.
            first: whether this is the client's first contact: within a session, nothing leads it elsewhere.
        """
        parts = ['Bearer realm="guard"']
        if error:
            parts.append(f'error="{error}"')
        if first:
            parts.append(f'resource_metadata="{self._url(host)}{_WELL_KNOWN}/mcp/{server}"')
        return ", ".join(parts).encode("latin-1")

    def _url(self, host: str) -> str:
        return self._base or f"{self._scheme}://{host.lower()}"
