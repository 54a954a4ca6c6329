"""One network from which the keys of many agents turn up that were never used there: a stolen bundle of keys.

An agent is a stranger at a network that none of its own calls came from before. Many strangers at one network within
an hour are doubted, each of them, until it proves possession. A key that was made lately is no stranger anywhere: its
first use has to be somewhere, and whoever sets up a fleet starts many at once.

What turned up is known to this process only.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from guard.drift.network import network_of
from guard.drift.profile import DAY
from guard.drift.profiles import Profiles
from guard.model import SET_BACK, Band, Call, Doubt, Finding, ProofClass
from guard.reasons import Code, Reason

SIGNAL: Final = "hopping"
WINDOW: Final = 3600.0
"""Seconds for which a stranger counts."""
ALARMING: Final = 4
"""How many times more strangers than are unusual are alarming."""
NETWORKS: Final = 1024
"""Networks whose strangers are remembered; the one that had none for longest makes room."""
_EACH: Final = 256
"""Strangers at one network that are told apart."""
_SHOWN: Final = 3


class HoppingSignal:
    """Finds networks that come up with the keys of many agents."""

    def __init__(self, profiles: Profiles, most: int) -> None:
        """Judge by `profiles`; more than `most` strangers at one network are unusual."""
        self._profiles, self._most = profiles, most
        self._strangers: OrderedDict[str, dict[str, float]] = OrderedDict()

    def assess(self, call: Call) -> tuple[Finding, ...]:
        """One finding of doubt about identity, or none.

        Raises:
            KeyError: the profile of this credential was not loaded.
        """
        network = network_of(call.source.address)
        if not network:
            return ()
        there = self._strangers.get(network)
        if network not in self._profiles[call.principal.credential].networks and self._strange(call):
            there = self._turned_up(network, call)
        if there is None or len(there) <= self._most:
            return ()
        while there and call.received - there[first := next(iter(there))] > WINDOW:
            del there[first]
        if len(there) <= self._most or call.principal.subject not in there:
            return ()
        others = sorted(there.keys() - {call.principal.subject})
        named = ", ".join(others[:_SHOWN]) + (f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else "")
        said = f"{network}: {len(there)} agents that were never there, within an hour; also {named}"
        band = Band.ALARMING if len(there) > ALARMING * self._most else Band.UNUSUAL
        reason = Reason(Code.MANY_KEYS, by=SIGNAL, evidence=said)
        return (Finding(signal=SIGNAL, cause=Doubt.IDENTITY, band=band, reason=reason),)

    def counts(self, call: Call) -> bool:
        """Whether this agent is a stranger where it calls from, so that others may make it a doubtful one."""
        there = self._strangers.get(network_of(call.source.address))
        return there is not None and call.principal.subject in there

    def learn(self, call: Call, proven: frozenset[str]) -> None:
        """On possession the agent is no stranger there."""
        if ProofClass.POSSESSION in proven and (there := self._strangers.get(network_of(call.source.address))):
            there.pop(call.principal.subject, None)

    def _strange(self, call: Call) -> bool:
        """Whether being somewhere for the first time says anything about this key."""
        age = call.received - call.principal.since
        made_lately = not self._profiles[call.principal.credential].networks and -SET_BACK <= age <= DAY
        return not made_lately

    def _turned_up(self, network: str, call: Call) -> dict[str, float]:
        """The strangers at a network, with this one."""
        there = self._strangers.setdefault(network, {})
        self._strangers.move_to_end(network)
        if len(self._strangers) > NETWORKS:
            self._strangers.popitem(last=False)
        there.pop(call.principal.subject, None)
        if len(there) >= _EACH:
            del there[next(iter(there))]
        there[call.principal.subject] = call.received  # the latest stands last
        return there
