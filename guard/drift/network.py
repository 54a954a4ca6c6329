"""The network a key is used from. A stolen key is mostly used from somewhere else.

The first network of a key is its baseline. Another one casts doubt on identity, until a call from there was
executed on a proof of possession, which vouches for the machine wherever it now is.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final

from guard.drift.profile import Profile
from guard.drift.profiles import Profiles
from guard.model import Band, Call, Doubt, Finding, ProofClass
from guard.reasons import Code, Reason

SIGNAL: Final = "network"
_IPV4_PREFIX: Final = 24
_IPV6_PREFIX: Final = 64
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""Where IPv4 addresses stand in IPv6 (RFC 6052)."""
_LAST_32: Final = 0xFFFFFFFF
_SHOWN: Final = 3


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """The network an address belongs to: its IPv4 /24 or IPv6 /64; empty for no address (stdio).

    An IPv4 address mapped or translated into IPv6 is that IPv4 address. What is no address stands for itself, so that
    it can only ever match itself.
    """
    if not address:
        return ""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return f"unknown {address[:64]!a}"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed in _NAT64:
            parsed = ipaddress.IPv4Address(int(parsed) & _LAST_32)
        elif parsed.ipv4_mapped:
            parsed = parsed.ipv4_mapped
    prefix = _IPV4_PREFIX if parsed.version == 4 else _IPV6_PREFIX  # noqa: PLR2004 - IP version four
    return str(ipaddress.ip_network((parsed, prefix), strict=False))


class NetworkSignal:
    """Finds calls from a network the credential was never used from."""

    def __init__(self, profiles: Profiles) -> None:
        """Judge by `profiles`; the profile of a call's credential must be loaded."""
        self._profiles = profiles

    def assess(self, call: Call) -> tuple[Finding, ...]:
        """One finding of doubt about identity, or none.

        Raises:
            KeyError: the profile of this credential was not loaded.
        """
        network = network_of(call.source.address)
        known = self._profiles[call.principal.credential].networks
        if not network or not known or network in known:
            return ()
        before = ", ".join(known[-_SHOWN:]) + (f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else "")
        reason = Reason(Code.NEW_NETWORK, by=SIGNAL, evidence=f"{network}; so far {before}")
        return (Finding(signal=SIGNAL, cause=Doubt.IDENTITY, band=Band.UNUSUAL, reason=reason),)

    def learn(self, call: Call, proven: frozenset[str]) -> bool:
        """Learn the network of an executed call: the first one as baseline, another only on possession.

        Raises:
            KeyError: the profile of this credential was not loaded.
        """
        network, key = network_of(call.source.address), call.principal.credential
        known = self._profiles[key].networks
        if not network or network in known or (known and ProofClass.POSSESSION not in proven):
            return False

        def fold(into: Profile, whole: Profile) -> bool:
            del whole
            return into.with_network(network)

        return self._profiles.learn(key, fold)
