"""The software a key is used with, as it calls itself. Easily forged, so it only ever raises a doubt.

Versions come and go and do not count. The first name of a key is its baseline; another one casts doubt on identity
until a call from it ran on a proof of possession. A client that says no name is not judged by it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from guard.drift.profile import Profile
from guard.drift.profiles import Profiles
from guard.model import Band, Call, Doubt, Finding, ProofClass
from guard.reasons import Code, Reason

SIGNAL: Final = "client"
_LONGEST: Final = 64
_SHOWN: Final = 3


@lru_cache(maxsize=1024)
def family(client: str) -> str:
    """The name without version, in lower case."""
    return client.replace("/", " ").split(" ", 1)[0].lower()[:_LONGEST]


class ClientSignal:
    """Finds calls by software the credential was never used with."""

    def __init__(self, profiles: Profiles) -> None:
        """Judge by `profiles`; the profile of a call's credential must be loaded."""
        self._profiles = profiles

    def assess(self, call: Call) -> tuple[Finding, ...]:
        """One finding of doubt about identity, or none.

        Raises:
            KeyError: the profile of this credential was not loaded.
        """
        name, known = family(call.source.client), self._profiles[call.principal.credential].clients
        if not name or not known or name in known:
            return ()
        evidence = f"{name!a}; so far {', '.join(map(ascii, known[-_SHOWN:]))}"
        reason = Reason(Code.NEW_CLIENT, by=SIGNAL, evidence=evidence)
        return (Finding(signal=SIGNAL, cause=Doubt.IDENTITY, band=Band.UNUSUAL, reason=reason),)

    def learn(self, call: Call, proven: frozenset[str]) -> bool:
        """Learn the name of an executed call's client: the first one as baseline, another only on possession.

        Raises:
            KeyError: the profile of this credential was not loaded.
        """
        name, key = family(call.source.client), call.principal.credential
        known = self._profiles[key].clients
        if not name or name in known or (known and ProofClass.POSSESSION not in proven):
            return False

        def fold(into: Profile, whole: Profile) -> bool:
            del whole
            return into.with_client(name)

        return self._profiles.learn(key, fold)
