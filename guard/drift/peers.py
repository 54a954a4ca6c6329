"""What a tool server's agents do together, without those whose keys are no longer trusted.

The profile that all agents of a server share is a sum, and nothing of a sum can be taken out again. So it is summed
anew, from the profiles of the keys that stay.
"""

from __future__ import annotations

from collections.abc import Iterable

from guard.drift.profile import Profile, Seen, Slot


def servers(profile: Profile) -> frozenset[str]:
    """The tool servers whose tools this profile knows."""
    return frozenset(tool.partition("/")[0] for tool in profile.tools)


def summed(server: str, keys: Iterable[Profile]) -> Profile:
    """What these keys do at a server; their own profiles stay as they are."""
    whole = Profile()
    for one in keys:
        whole.add(_part(server, one))
    return whole


def _part(server: str, profile: Profile) -> Profile:
    """A copy of what one profile knows of a server, but for who calls and how much."""
    part, at = Profile(), f"{server}/"
    part.born, part.at = profile.born, profile.at
    for name, seen in profile.tools.items():
        if name.startswith(at):
            part.tools[name] = _copy(seen)
            part.calls += seen.count
    for (before, tool), count in profile.pairs.items():
        if tool.startswith(at):
            part.pairs[before, tool] = count
            part.after[before] = part.after.get(before, 0.0) + count
    for key, slot in profile.slots.items():
        if key.startswith(at):
            mine = part.slots[key] = Slot(slot.total, slot.fresh)
            mine.values = {digest: _copy(seen) for digest, seen in slot.values.items()}
            for digest, seen in slot.values.items():
                part.everywhere.setdefault(digest, Seen()).join(seen, part.born)
    return part


def _copy(seen: Seen) -> Seen:
    return Seen(seen.count, seen.first, seen.last, trusted=seen.trusted)
