"""A policy beside what its server lists now: untagged tools, tags in vain, changed and odd definitions. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from guard.lab.definitions import Definition, oddities
from guard.model import Sensitivity
from guard.policy.classify import find
from guard.policy.document import Policy
from guard.policy.tree import Mistake
from guard.stepup.visible import visible
from guard.stepup.wording import wording


def compare(
    policy: Policy,
    tools: Sequence[Definition],
    *,
    elsewhere: Mapping[str, Sequence[str]],
    texts: Mapping[str, str],
) -> Iterator[Mistake]:
    """What an owner should look at.

    Args:
        policy: the file.
        tools: what its server lists now.
        elsewhere: the other servers that have a tool of a name.
        texts: JSON texts of definitions that are known, by digest, to show what changed.
    """
    entries = policy.entries.get("tool", ())
    named = {tool.name: find(entries, tool.name) for tool in tools if tool.callable}
    for name, found in sorted(named.items()):
        if not found:
            said = f'no entry names the tool "{name}", so it counts as the default and needs a step-up'
            yield Mistake(policy.place, said)
    used = {id(entry) for found in named.values() for entry in found}
    for entry in entries:
        if id(entry) in used:
            continue
        hidden = entry.glob is not None and any(entry.glob.matches(name) for name in named)
        why = "every tool it matches has a more specific entry" if hidden else "the server lists no such tool"
        yield Mistake(entry.place, f'"{entry.pattern}" tags nothing: {why}')
    for tool in tools:
        destructive = tool.hint("destructiveHint") and not tool.hint("readOnlyHint")
        for entry in named.get(tool.name, ()):
            if destructive and entry.sensitivity < Sensitivity.SENSITIVE and not entry.reason:
                level = entry.sensitivity.label
                said = f'the server itself calls "{tool.name}" destructive, and the tag says {level} without a reason'
                yield Mistake(entry.place, said)
        if (old := policy.pins.get(tool.name)) and old != tool.digest:
            (entry,) = (one for one in entries if one.pattern == tool.name)
            changes = "; ".join(wording(texts.get(old, ""), texts.get(tool.digest, "")))
            said = f'the definition of "{tool.name}" is not the pinned one; now it is {tool.digest}'
            yield Mistake(entry.place, said + (f" ({changes[:400]})" if changes else ""))
    for name, said in oddities(tools, elsewhere):
        yield Mistake(policy.place, f'tool "{visible(name)[:80]}": {said}')
