"""Named networks: address ranges that conditions ask for as `networks.NAME`."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, TypeAlias

MAX_RANGES: Final = 64
"""Ranges one network may list."""

Range: TypeAlias = IPv4Network | IPv6Network


@lru_cache(maxsize=4096)
def peer(text: str) -> IPv4Address | IPv6Address | None:
    """The address of a peer, None when it is none; one of IPv4 that is mapped into IPv6 is that of IPv4."""
    try:
        parsed = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped:
        return parsed.ipv4_mapped
    return parsed


@dataclass(frozen=True, slots=True)
class Network:
    """Some address ranges under one name."""

    ranges: tuple[Range, ...]

    def holds(self, address: str) -> bool | None:
        """Whether the address lies in one of the ranges; None when there is no address to look at (stdio)."""
        parsed = peer(address)
        if parsed is None:
            return None
        return any(parsed.version == one.version and parsed in one for one in self.ranges)


def address_range(text: str) -> Range:
    """Read `10.0.0.0/8`, `2001:db8::/32` or one address.

    Raises:
        ValueError: what to write instead.
    """
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError('a network is written like "10.0.0.0/8" or "2001:db8::/32"') from None
    raise ValueError(f'the address has bits beyond its prefix; write "{meant}"')
