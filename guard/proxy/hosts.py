"""Under which names a listener may be addressed: the defence against DNS rebinding."""

from __future__ import annotations

import ipaddress
from typing import Final

from guard.listeners import Listener

_LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")


class HostNames:
    """The names of one listener: loopback, its own address and `allowed_hosts`, any of them with any port.

    An entry of `allowed_hosts` with a port counts with that port only.
    """

    def __init__(self, listener: Listener) -> None:
        own = f"[{listener.host}]" if ":" in listener.host else listener.host
        self._names = frozenset(name.lower() for name in (*_LOOPBACK, own, *listener.allowed_hosts))

    def cover(self, authority: str, address: str) -> bool:
        """Whether a Host header (or an Origin's authority) is one of the names.

        Args:
            authority: as the caller sent it.
            address: the local address of the caller's connection. Asking for that address itself is safe:
                a web page that was rebound asks for its name.
        """
        authority = authority.lower()
        if authority in self._names:
            return True
        name, colon, port = authority.rpartition(":")
        if not (colon and port.isascii() and port.isdecimal()):
            name = authority
        return name in self._names or (_is_address(name) and name.strip("[]") == address)

    def cover_origin(self, origin: str, address: str) -> bool:
        """Whether an Origin header names a page that this listener itself could have served."""
        scheme, separator, authority = origin.lower().partition("://")
        return bool(separator) and scheme in {"http", "https"} and self.cover(authority, address)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
