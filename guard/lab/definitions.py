"""A tool as its server describes it, and what is odd about the description. Pure.

An oddity is a finding for a person, never a refusal: `ODDITIES` says of each pattern why it is one. The
texts are a server's word; an agent reads them as instructions, and that is what makes them worth reading first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from guard.model import Json
from guard.stepup.visible import visible
from guard.wire.canonical import definition_digest
from guard.wire.methods import TOOL_NAME

_DEPTH: Final = 16
_TEXT: Final = 20_000
_QUOTED: Final = 80
_PROSE: Final = str.maketrans({"\n": " ", "\r": " ", "\t": " ", "\u00a0": " ", "\u2013": "-", "\u2014": "-"})
"""What ordinary prose holds and a call's arguments should not: line breaks, dashes, the blank that does not break."""

_ODD: Final[Mapping[str, tuple[str, ...]]] = {
    "tells the agent to forget what it was told": (
        (
            r"\b(?:ignore|disregard|forget|override)\b.{0,30}\b(?:previous|prior|above|earlier|other|all|your)\b.{0,30}"
            r"\b(?:instruction|prompt|rule|guideline|message|restriction)s?"
        ),
    ),
    "tells the agent to keep something from the user": (
        (
            r"\b(?:do not|don't|never|without)\b.{0,20}\b(?:tell|mention|inform|show|reveal|notify)(?:ing)?\b.{0,25}"
            r"\b(?:user|human|person|anyone|operator)"
        ),
    ),
    "claims to speak for the system or with its authority": (
        r"<\s*/?\s*(?:system|important|instructions?|secret|admin)\b[^>]{0,40}>",
        r"^\s*(?:system|assistant)\s*:",
        r"\b(?:system prompt|developer message)\b",
    ),
    "tells the agent when to call it, or to call it before or instead of other tools": (
        r"\bmust (?:first |always )?(?:call|use|invoke|run)\b",
        r"\balways (?:call|use|invoke) this\b",
        r"\bbefore (?:using|calling|running) (?:any|all|every|other|the other)\b",
        r"\binstead of (?:the |any )?(?:other )?\w{1,40} tools?\b",
    ),
    "asks for files or secrets that no argument is about": (
        r"(?:~/|\.ssh\b|\bid_rsa\b|\.aws/|\.env\b|\bmcp\.json\b|/etc/passwd)",
        r"\b(?:api key|password|private key|access token)s?\b.{0,40}\b(?:pass|include|send|put|provide)\b",
    ),
    "tells the agent that earlier advice no longer holds": (
        r"\b(?:advised|told|instructed|trained) to (?:refuse|decline|not)\b",
        r"\bnow grants? you\b|\byou are now\b",
    ),
}
ODDITIES: Final = tuple((why, re.compile("|".join(parts), re.IGNORECASE)) for why, parts in _ODD.items())
"""Descriptions that instruct the agent rather than describe the tool: why, and the pattern (case is ignored)."""


@dataclass(frozen=True, slots=True)
class Definition:
    """One entry of `tools/list`: its name, its digest as the guard pins it, and all its members."""

    name: str
    digest: str
    members: Mapping[str, Json]

    @property
    def callable(self) -> bool:
        """Whether a call can carry the name at all."""
        return bool(TOOL_NAME.fullmatch(self.name))

    @property
    def description(self) -> str:
        """What the server says about the tool; "" when it says nothing."""
        said = self.members.get("description")
        return said if isinstance(said, str) else ""

    @property
    def arguments(self) -> Mapping[str, Json]:
        """The properties of the input schema by name."""
        schema = self.members.get("inputSchema")
        found = schema.get("properties") if isinstance(schema, Mapping) else None
        return found if isinstance(found, Mapping) else {}

    def hint(self, name: str) -> bool | None:
        """One of the server's annotations, such as `readOnlyHint`; None when it says nothing."""
        annotations = self.members.get("annotations")
        value = annotations.get(name) if isinstance(annotations, Mapping) else None
        return value if isinstance(value, bool) else None


def definitions(entries: Iterable[Mapping[str, Json]]) -> tuple[Definition, ...]:
    """The tools a server lists, in its order.

    Raises:
        WireError: one of them is nested too deeply to be digested.
    """
    found: list[Definition] = []
    for entry in entries:
        name = entry.get("name")
        found.append(Definition(name if isinstance(name, str) else "", definition_digest(entry), entry))
    return tuple(found)


def oddities(tools: Sequence[Definition], elsewhere: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Name of a tool and what is odd about it; `elsewhere` has the other servers that have a tool of a name."""
    counted = Counter(tool.name for tool in tools)
    for tool in tools:
        name = visible(tool.name)
        if not tool.callable:
            yield name, "no call can carry this name, so no tag can mean it"
        if counted[tool.name] > 1:
            yield name, f"listed {counted[tool.name]} times; which of them an agent means is for the server to say"
        if others := elsewhere.get(tool.name):
            yield name, f"a tool of this name is also on {', '.join(others)}; an agent may take one for the other"
        for where, text in texts(tool.members):
            for said in _about(text):
                yield name, f"{where}: {said}"


def _about(text: str) -> Iterator[str]:
    """What is odd about one text of a definition."""
    plain = text.translate(_PROSE)
    shown = visible(plain)
    if shown != plain:
        mark = re.search(r"⟨[^⟩]*⟩", shown)
        yield f"holds a character that cannot be seen or passes for another: {mark[0] if mark else ''}"
    for why, pattern in ODDITIES:
        if found := pattern.search(plain[:_TEXT]):
            yield f'{why}: "{visible(found[0][:_QUOTED])}"'


def texts(value: Json, where: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Every text in a definition an agent may read, with its path; keys are texts, too."""
    if isinstance(value, str):
        if where not in {"name", "inputSchema.$schema", "outputSchema.$schema"}:
            yield where, value
    elif isinstance(value, Mapping) and depth < _DEPTH:
        for key, member in value.items():
            path = f"{where}.{key}" if where else str(key)
            if not str(key).isascii():
                yield where or "definition", str(key)
            yield from texts(member, path, depth + 1)
    elif isinstance(value, Sequence) and depth < _DEPTH:
        for member in value:
            yield from texts(member, where, depth + 1)
