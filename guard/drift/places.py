"""A key that is used from two places at once: somebody else has it, too.

Two networks count as at once when a call from one runs while another comes from the other, or when the key goes back
and forth between them within `WINDOW`. Going away, or there and back once (a VPN that is switched on and off), is a
move. Where one of the places is not known to the key, that one is doubted and the other is not. A proof of possession
from there says that the workload is at both, and is remembered for the pair.

What is in flight is known to this process only.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import groupby
from typing import Final, NamedTuple

from guard.drift.client import family
from guard.drift.network import network_of
from guard.drift.profile import Profile
from guard.drift.profiles import PROFILES, Profiles
from guard.model import Band, Call, Doubt, Finding, ProofClass
from guard.reasons import Code, Reason

SIGNAL: Final = "places"
WINDOW: Final = 900.0
"""Seconds within which going back and forth counts as being at both."""
RETURNS: Final = 2
"""Returns to a place within the window that are more than a move and back."""
_STAYS: Final = 16
"""Stays of one key that are remembered."""


class _Stay(NamedTuple):
    """One stay at a network, until the time `left`; `beside` are the networks where a call ran when it began."""

    network: str
    left: float
    beside: frozenset[str]


class _Uses:
    """Where one key is used: its stays, the last one at `address`, and the calls in flight by network."""

    __slots__ = ("address", "last", "network", "running", "stays")

    def __init__(self) -> None:
        self.address = self.network = ""
        self.last = 0.0
        self.stays: list[_Stay] = []
        self.running: dict[str, str] = {}

    def arrive(self, address: str, now: float) -> None:
        """Be used from this address now."""
        self.address, network = address, network_of(address)
        if network == self.network:
            return
        if self.stays:
            self.stays[-1] = self.stays[-1]._replace(left=self.last)
        beside = frozenset(self.running.values()) - {network}
        self.stays = [one for one in self.stays if not now - one.left > WINDOW][1 - _STAYS :]
        self.stays.append(_Stay(network, now, beside))
        self.network = network


class PlaceSignal:
    """Finds keys that are used from two networks at once."""

    def __init__(self, profiles: Profiles) -> None:
        """Judge by `profiles`; the profile of a call's credential must be loaded."""
        self._profiles = profiles
        self._uses: OrderedDict[str, _Uses] = OrderedDict()

    def assess(self, call: Call) -> tuple[Finding, ...]:
        """One finding of doubt about identity, or none; the call is in flight until it `ended`.

        Raises:
            KeyError: the profile of this credential was not loaded.
        """
        address = call.source.address
        if not address:
            return ()
        uses = self._uses.get(call.principal.credential) or self._new(call.principal.credential)
        if uses.address != address and call.id not in uses.running:  # a call that was held comes here again
            uses.arrive(address, call.received)
        uses.last = call.received
        uses.running.setdefault(call.id, uses.network)
        if len(uses.stays) == 1:
            return ()
        here = uses.running[call.id]
        others, said = self._beside(here, uses, call)
        if not others:
            return ()
        profile, name = self._profiles[call.principal.credential], family(call.source.client)
        stranger = here not in profile.networks and bool(profile.networks)
        foreign = stranger and bool(name and profile.clients) and name not in profile.clients
        reason = Reason(Code.TWO_PLACES, by=SIGNAL, evidence=said + (", and with other software" if foreign else ""))
        band = Band.ALARMING if foreign else Band.UNUSUAL
        return (Finding(signal=SIGNAL, cause=Doubt.IDENTITY, band=band, reason=reason),)

    def learn(self, call: Call, proven: frozenset[str]) -> bool:
        """Learn on possession that the workload is at these places at once.

        Raises:
            KeyError: the profile of this credential was not loaded.
        """
        key = call.principal.credential
        if ProofClass.POSSESSION not in proven or (uses := self._uses.get(key)) is None:
            return False
        here = network_of(call.source.address)
        pairs = [pair(here, other) for other in sorted(self._beside(here, uses, call)[0])]

        def fold(into: Profile, whole: Profile) -> bool:
            del whole
            known = into.together
            for one in pairs:
                into.with_pair(one)
            return into.together != known

        return bool(pairs) and self._profiles.learn(key, fold)

    def ended(self, call: Call) -> None:
        """The call is in flight no more."""
        if (uses := self._uses.get(call.principal.credential)) is not None:
            uses.running.pop(call.id, None)

    def _new(self, key: str) -> _Uses:
        if len(self._uses) >= PROFILES:
            self._uses.popitem(last=False)
        uses = self._uses[key] = _Uses()
        return uses

    def _beside(self, here: str, uses: _Uses, call: Call) -> tuple[frozenset[str], str]:
        """The other networks the key is at, as far as that says anything about this one, and how that shows."""
        profile, now = self._profiles[call.principal.credential], call.received
        known = profile.networks

        def counts(other: str) -> bool:
            return pair(here, other) not in profile.together and (here not in known or other in known)

        lasting = uses.stays[-1]
        recent = [
            one
            for one in uses.stays
            if (one is lasting or not now - one.left > WINDOW) and (one.network == here or counts(one.network))
        ]
        at_once = {other for one in recent if one.network == here for other in one.beside if counts(other)}
        at_once |= {one.network for one in recent if here in one.beside}
        if at_once:
            return frozenset(at_once), f"a call from {here} while one from {', '.join(sorted(at_once))} was running"
        turns = [at_home for at_home, _ in groupby(one.network == here for one in recent)]
        if len(turns) - 2 < RETURNS:  # the first stay of each is no return
            return frozenset(), ""
        others = frozenset(one.network for one in recent) - {here}
        said = f"{here} and {', '.join(sorted(others))} in turns, {len(turns) - 2} returns within {WINDOW:.0f} s"
        return others, said


def pair(one: str, other: str) -> str:
    """The name of two networks a key is used from at once."""
    return " ".join(sorted((one, other)))
