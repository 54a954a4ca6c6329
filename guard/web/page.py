"""What the page of a challenge shows: every fact of the approver's view, its arguments, and what differs.

The page says what the view (`guard.stepup.view`) says, arranged for the eye; a test holds it to that. Hidden and
look-alike characters arrive spelled out as ⟨U+202E NAME⟩ and are marked. A short page stays small: it says what it
leaves out, and whoever approves does so on the page that leaves nothing out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

from guard.model import Challenge
from guard.people import Precedent
from guard.stepup.difference import difference
from guard.stepup.view import facts, pretty, render
from guard.stepup.visible import visible

SHORT: Final = 12_000
"""Bytes that the arguments may take on a short page, as HTML: fewer characters where they have to be escaped."""
_SHORT_FIELDS: Final = 8
_SHORT_VALUE: Final = 100
_LONG_VALUE: Final = 2_000
_AROUND: Final = 40
_MARKED: Final = re.compile(r"⟨[^⟩]*⟩")
_SPELLED: Final = re.compile(r"⟨U\+")
_BLANKS: Final = re.compile(r" {24,}")


@dataclass(frozen=True, slots=True)
class Compared:
    """One differing field, made visible: its path, and both values with the equal middle of long ones left out."""

    path: Markup
    change: str
    before: Markup
    now: Markup


@dataclass(frozen=True, slots=True)
class Comparison:
    """How this call differs from the last approved one of its tool."""

    precedent: Precedent
    fields: Sequence[Compared]
    more: int
    same: int


@dataclass(frozen=True, slots=True)
class Shown:
    """Everything a page shows of one call. `left_out` characters of `size` arguments are not on it."""

    facts: Mapping[str, Sequence[Markup]]
    arguments: Markup
    size: int
    left_out: int
    suspicious: int
    view_digest: str
    comparison: Comparison | None

    @property
    def whole(self) -> bool:
        """Whether nothing is left out, so that it may be approved from here."""
        return self.left_out == 0


def show(challenge: Challenge, precedent: Precedent | None, *, whole: bool) -> Shown:
    """What the page of a challenge shows; a short one unless `whole`. Work in proportion to the arguments."""
    said = defaultdict[str, list[Markup]](list)
    for label, text in facts(challenge):
        said[label].append(marked(seen(text)))
    if precedent is not None and (precedent.challenge == challenge.id or not challenge.state.open):
        precedent = None
    text = "\n".join(pretty(seen(challenge.arguments))) if challenge.state.open else ""
    kept = text if whole else _fitting(text)
    return Shown(
        facts=dict(said),
        arguments=marked(kept),
        size=len(text),
        left_out=len(text) - len(kept),
        suspicious=len(_SPELLED.findall(text)),
        view_digest=render(challenge).digest,
        comparison=_compare(challenge, precedent, whole=whole) if precedent else None,
    )


def seen(text: str) -> str:
    """Text with every hidden or look-alike character spelled out, and every long run of blanks counted instead."""
    return _BLANKS.sub(lambda run: f"⟨{len(run[0])} spaces⟩", visible(text))


def marked(text: str) -> Markup:
    """What `seen` returned, as HTML in which everything spelled out stands out."""
    return Markup(_MARKED.sub(r"<mark>\g<0></mark>", str(escape(text))))  # noqa: S704 - escaped, then marked


def _fitting(text: str) -> str:
    """As much of a text from its beginning as fits a short page."""
    kept = text[:SHORT]
    while (size := len(marked(kept).encode())) > SHORT:
        kept = kept[: min(len(kept) - 1, len(kept) * SHORT // size)]
    return kept


def _compare(challenge: Challenge, precedent: Precedent, *, whole: bool) -> Comparison:
    found = difference(precedent.arguments, challenge.arguments)
    shown = found.fields if whole else found.fields[:_SHORT_FIELDS]
    longest = _LONG_VALUE if whole else _SHORT_VALUE
    fields = []
    for field in shown:
        before, now = _pair(field.before, field.now, longest)
        fields.append(Compared(marked(_cut(seen(field.path), longest)), field.change, before, now))
    return Comparison(precedent, fields, found.more + len(found.fields) - len(shown), found.same)


def _pair(before: str, now: str, longest: int) -> tuple[Markup, Markup]:
    """Both values; of long ones the ends they share are counted instead of shown."""
    start = end = 0
    if before and now and max(len(before), len(now)) > longest:
        shortest = min(len(before), len(now))
        while start < shortest and before[start] == now[start]:
            start += 1
        while end < shortest - start and before[-1 - end] == now[-1 - end]:
            end += 1
        start, end = max(0, start - _AROUND), max(0, end - _AROUND)
    return _piece(before, start, end, longest), _piece(now, start, end, longest)


def _piece(text: str, start: int, end: int, longest: int) -> Markup:
    lead = f"… {start} the same … " if start else ""
    tail = f" … {end} the same …" if end else ""
    return marked(lead + _cut(seen(text[start : len(text) - end]), longest) + tail)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]} … {len(text) - longest} more characters"
