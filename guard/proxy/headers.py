"""Which headers cross the guard, and which answers may stand in them. Pure; names are lower-case bytes.

A header crosses unless it belongs to one hop (RFC 9110 §7.6.1), carries the caller's credential, or claims
who or where the caller is: an upstream that trusts its neighbour would believe such a claim.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
FRAMING: Final = frozenset({b"connection", b"content-length", b"transfer-encoding", b"trailer", b"upgrade", b"te"})
"""What no configuration may set: the client of the tool server frames its own messages."""

_OWN: Final = frozenset({b"accept-encoding", b"content-length", b"expect", b"host"})
_CREDENTIALS: Final = frozenset({b"authorization", b"cookie", b"cookie2"})
_CLAIMS: Final = frozenset(
    {
        b"cf-connecting-ip",
        b"cf-connecting-ipv6",
        b"client-ip",
        b"fastly-client-ip",
        b"forwarded",
        b"from",
        b"remote-user",
        b"true-client-ip",
        b"via",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"x-http-method-override",
        b"x-original-host",
        b"x-original-method",
        b"x-original-url",
        b"x-real-ip",
        b"x-remote-addr",
        b"x-remote-ip",
        b"x-remote-user",
        b"x-rewrite-url",
        b"x-user",
    }
)
_CLAIM_PREFIXES: Final = (
    b"guard-",
    b"x-agent-",
    b"x-amzn-oidc-",
    b"x-auth-request-",
    b"x-authenticated-",
    b"x-authentik-",
    b"x-client-cert",
    b"x-forwarded-",
    b"x-goog-authenticated-",
    b"x-goog-iap-",
    b"x-guard-",
    b"x-ms-client-principal",
    b"x-remote-",
    b"x-ssl-client-",
    b"x-user-",
)
_DROPPED: Final = HOP_BY_HOP | _OWN | _CREDENTIALS | _CLAIMS


@lru_cache(maxsize=1024)
def crosses(name: bytes) -> bool:
    """Whether a caller's header of this name is passed on to the tool server.

    A name with an underscore never is: CGI and WSGI servers fold `Mcp_Name` into `Mcp-Name`.
    """
    return not (name in _DROPPED or b"_" in name or name.startswith(_CLAIM_PREFIXES))


def connection_named(headers: Headers) -> frozenset[bytes]:
    """The names a `Connection` header declares to be of one hop only; empty for nearly every message."""
    named: frozenset[bytes] = frozenset()
    for name, value in headers:
        if name == b"connection":
            named |= frozenset(token.strip().lower() for token in value.split(b","))
    return named


def outgoing(headers: Headers, replaced: frozenset[bytes]) -> bytes:
    """The header lines of a caller's request that go upstream; `replaced` are the names the configuration sets."""
    left_out = connection_named(headers) | replaced
    return b"".join(
        [b"%b: %b\r\n" % (name, value) for name, value in headers if crosses(name) and name not in left_out]
    )


def returning(headers: Headers) -> list[tuple[bytes, bytes]]:
    """The headers of a tool server's answer that go back to the caller, in their order."""
    kept = [pair for pair in headers if pair[0] not in HOP_BY_HOP]
    if len(kept) == len(headers):  # `Connection`, which would name others, is one of them
        return kept
    left_out = connection_named(headers)
    return [pair for pair in kept if pair[0] not in left_out]


def is_stream(headers: Headers) -> bool:
    """Whether an answer says that it is an event stream."""
    return b"text/event-stream" in b",".join([value for name, value in headers if name == b"content-type"]).lower()


def first(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes:
    """The first value of a header; empty when there is none."""
    for name, value in headers:
        if name == wanted:
            return value
    return b""


@lru_cache(maxsize=64)
def is_json(content_type: bytes) -> bool:
    """Whether a Content-Type says JSON in UTF-8: `application/json`, alone or with `charset=utf-8`."""
    media, _, parameter = content_type.lower().partition(b";")
    if media.strip() != b"application/json":
        return False
    return parameter.strip().replace(b'"', b"") in {b"", b"charset=utf-8"}
