"""The closed words of a policy file, each with the sentence that editors and the reference show.

A word that is not here is a mistake, and the mistake names the nearest word that is.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from guard.model import Demand, Sensitivity

SENSITIVITIES: Final[Mapping[str, Sensitivity]] = MappingProxyType({level.label: level for level in Sensitivity})
"""The words of `sensitivity`."""

SENSITIVITY_MEANING: Final[Mapping[str, str]] = MappingProxyType(
    {
        "public": "nothing is lost when anybody calls this; only an alarming finding asks for a proof",
        "internal": "everyday work; a doubt about who is calling asks for the workload's signature",
        "sensitive": "harm is possible; a doubt about who or why asks for a proof",
        "critical": "harm is certain when misused; every call needs a proof, unusual or not",
    }
)
"""One sentence for each sensitivity."""

EFFECTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "read": "returns data and changes nothing",
        "create": "adds something that was not there",
        "update": "changes something that was there, and the old state can be had back",
        "write": "creates or updates; use it when the tool decides which",
        "notify": "tells people or systems something (mail, chat, tickets)",
        "egress": "sends data to a destination the arguments can choose",
        "destroy": "deletes or overwrites what cannot be had back",
        "execute": "runs a program or code that the arguments can choose",
        "move_money": "pays, refunds, orders or bills",
        "export_secret": "reveals a credential, key or other secret",
        "grant_privilege": "gives somebody more rights",
        "change_policy": "changes what is allowed, logged or guarded",
    }
)
"""The closed vocabulary of effects. Which of them cannot be undone is for `irreversible` in guard.toml to say."""

REQUIREMENTS: Final[Mapping[str, frozenset[Demand]]] = MappingProxyType(
    {
        "step_up": frozenset({Demand.STEP_UP}),
        "possession": frozenset({Demand.POSSESSION}),
        "consent": frozenset({Demand.CONSENT}),
        "both": frozenset({Demand.POSSESSION, Demand.CONSENT}),
        "two_people": frozenset({Demand.TWO_PEOPLE}),
    }
)
"""The words of `require` and the demands they stand for."""

REQUIREMENT_MEANING: Final[Mapping[str, str]] = MappingProxyType(
    {
        "step_up": "the workload's signature or the consent of somebody else, whichever comes first",
        "possession": "the enrolled workload signs this very call with its hardware-held key",
        "consent": "somebody who is not the agent approves this very call",
        "both": "possession and consent",
        "two_people": "two different people approve this very call",
    }
)
"""One sentence for each requirement."""


CONTEXT: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "args.NAME": ("any", "an argument, at any depth; a number is an `int` where it is whole, else a `double`"),
        "principal.subject": ("string", "the agent"),
        "principal.owner": ("string", "the person who answers for it"),
        "principal.on_behalf_of": ("string", "on whose behalf it calls, or empty"),
        "principal.groups": ("list of string", "the agent's groups (`guard agent add --group`)"),
        "principal.claims.NAME": ("string", "what else is enrolled about it (`guard agent add --claim`)"),
        "credential.age": ("duration", "since the agent's key was made"),
        "source.address": ("string", "the peer of the connection, or empty (stdio)"),
        "source.transport": ("string", "`http` or `stdio`"),
        "source.country": ("string", "ISO code of the country of the address, such as `DE` (`[geo]` in guard.toml)"),
        "source.asn": ("int", "number of the address's autonomous system (`[geo]` in guard.toml)"),
        "server": ("string", "the tool server"),
        "tool": ("string", "the tool, or the prompt or canonical URI of the resource"),
        "environment": ("string", "the environment the call is about, by one of the file's names"),
        "now": ("timestamp", "the present"),
        "windows.NAME": ("bool", "whether the window is open"),
        "networks.NAME": ("bool", "whether the caller's address lies in the network"),
    }
)
"""What a condition may name: its type in CEL, and what it is."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """The clause that names the choice most like `word`, or the empty text."""
    found = difflib.get_close_matches(word.strip().casefold()[:64], list(choices), n=1, cutoff=0.6)
    return f'; did you mean "{found[0]}"?' if found else ""


def listing(choices: Iterable[str]) -> str:
    """The choices as a reader would list them."""
    return ", ".join(choices)
