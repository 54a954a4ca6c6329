"""A starter policy for a server nobody has tagged yet, drawn from what the server says about its tools. Pure.

The file is meant to be edited: every suggestion stands beside its evidence, and what rests on one kind of
evidence is marked `review: true`, which `guard policy check` warns about until a person has looked. Nothing
is suggested below `sensitive`: to lower is the owner's to do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from guard.lab.definitions import Definition, oddities
from guard.lab.hints import Suggestion, suggest
from guard.policy.patterns import is_glob, mistake
from guard.stepup.visible import visible

_WIDTH = 110


def scaffold(server: str, tools: Sequence[Definition], *, elsewhere: Mapping[str, Sequence[str]] | None = None) -> str:
    """The text of a policy file for `server`, which lists `tools`; tools of one name elsewhere are noted.

    The text is accepted by `guard.policy.reading.read` for any tools: a server's words appear in comments only,
    on one line each and with every hidden character spelled out.
    """
    odd: dict[str, list[str]] = {}
    for name, said in oddities(tools, elsewhere or {}):
        odd.setdefault(name, []).append(said)
    lines = [
        "# Editors complete and check this file with the JSON Schema that `guard policy schema` prints.",
        "#",
        f"# A start, drawn from what the server says about its tools ({len(tools)}). Go through it from top to bottom:",
        "#   * what can each tool do at worst? The comments give evidence, and a server's word is no proof;",
        "#   * lower to internal or public what deserves it, and delete `review: true` where you have looked;",
        "#   * `definition` pins what the server says of the tool now; any other needs a person's consent.",
        "# Then: guard policy check --live",
        f"server: {_quoted(server)}",
        'owner: "" # who answers for these tags',
        "",
        "# What a later version adds is not named below: it is sensitive, and always needs a step-up.",
        "default: {sensitivity: sensitive}",
        "",
    ]
    taggable = {tool.name: tool for tool in tools if _taggable(tool)}
    lines.append("tools:" if taggable else "tools: {}")
    for name in sorted(taggable):
        lines += _entry(taggable[name], odd.get(visible(name), ()))
    left = sorted({visible(tool.name)[:80] for tool in tools if not _taggable(tool)})
    lines += [f"# Not tagged, for no call can carry this name: {name}" for name in left]
    return "\n".join(lines) + "\n"


def _taggable(tool: Definition) -> bool:
    return tool.callable and not is_glob(tool.name, "tool") and not mistake(tool.name, "tool")


def _entry(tool: Definition, odd: Sequence[str]) -> Iterator[str]:
    """The lines of one tool."""
    found = suggest(tool)
    yield ""
    yield from _comment(tool.description.partition("\n")[0] or "(no description)")
    yield from (line for said in odd for line in _comment(f"! {said}"))
    for one in found.evidence:
        yield from _comment(one.words + (f" -> {one.effect}" if one.effect else ""))
    if advice := _advice(found):
        yield from _comment(advice)
    yield f"  {_quoted(tool.name)}:"
    yield f"    sensitivity: {found.sensitivity.label}"
    yield f"    effects: [{', '.join(found.effects)}]"
    if found.review:
        yield "    review: true"
    yield f"    definition: {_quoted(tool.digest)}"


def _advice(found: Suggestion) -> str:
    """What the owner may want to do with a suggestion that reads only."""
    if set(found.effects) == {"read"}:
        return "reads only, by all evidence: `internal` if what it returns is everyday, `sensitive` if it is not"
    return ""


def _comment(text: str) -> Iterator[str]:
    """A comment of one line, bounded, with nothing in it that a reader could miss."""
    said = visible(" ".join(text.split()))
    yield f"  # {said if len(said) <= _WIDTH else said[: _WIDTH - 3] + '...'}"


def _quoted(text: str) -> str:
    return json.dumps(text)
