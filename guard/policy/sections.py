"""The parts of a policy file beside its tags: windows, networks, environments, callers, limits, inner calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, date
from types import MappingProxyType
from typing import Final, TypeVar

from guard.model import Demand, Limit, Measure
from guard.policy.callers import Callers
from guard.policy.document import Runs
from guard.policy.environments import Environments, Origin, argument_path, origin
from guard.policy.keys import CALLERS_KEYS, ENVIRONMENT_KEYS, LIMIT_KEYS, RUNS_KEYS, WINDOW_KEYS
from guard.policy.networks import MAX_RANGES, Network, address_range
from guard.policy.patterns import glob, is_glob
from guard.policy.patterns import mistake as wrong_name
from guard.policy.requires import Reader, number, require, seconds, size
from guard.policy.tree import Items, Node, Scalar, Table
from guard.policy.windows import MAX_SPANS, Window, dates, days, hours, recurrence, zone

MAX_CALLS: Final = 1_000_000
MAX_RESULTS: Final = 10**12
"""The most bytes or rows a limit can name."""
_UNLESS_SAID: Final = {
    Measure.CALLS: frozenset({Demand.STEP_UP}),
    Measure.BYTES: frozenset({Demand.CONSENT}),
    Measure.ROWS: frozenset({Demand.CONSENT}),
}
"""What a limit asks for unless its owner says something else."""

DECLARED: Final = re.compile(r"[a-z_][a-z0-9_]{0,31}", re.ASCII)
ENVIRONMENT: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}", re.ASCII)
_GROUP: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.@-]{0,63}", re.ASCII)

_T = TypeVar("_T")
_Members = Mapping[str, tuple[Scalar, Node]]


def _each(node: Node) -> tuple[Node, ...]:
    """One value, or a list of them."""
    return node.nodes if isinstance(node, Items) else (node,)


def _said(reader: Reader, members: _Members, key: str, read: Callable[[str], _T]) -> _T | None:
    """The text of one key in its own notation."""
    return _told(reader, members[key][1], key, read) if key in members else None


def _told(reader: Reader, node: Node, what: str, read: Callable[[str], _T]) -> _T | None:
    text = reader.text(node, what)
    try:
        return read(text) if text else None
    except ValueError as error:
        reader.note(node.place, str(error))
        return None


def declared_name(reader: Reader, name: Scalar, what: str) -> str:
    """The name under which conditions ask for something declared."""
    if not DECLARED.fullmatch(str(name.value)):
        reader.note(name.place, f"the name of a {what} is made of small letters, digits and underscores")
    return str(name.value)


def window(reader: Reader, node: Node) -> Window:
    """One window."""
    members = reader.table(node, "a window", WINDOW_KEYS)
    if isinstance(node, Table) and "zone" not in members:
        reader.note(node.place, 'the window has no zone; write for example zone: "Europe/Berlin"')
    start, end = _said(reader, members, "hours", hours) or (0, 24 * 60)
    told = [_told(reader, one, "dates", dates) for one in (_each(members["dates"][1]) if "dates" in members else ())]
    spans = sorted(span for span in told if span is not None)
    if len(spans) > MAX_SPANS:
        reader.note(members["dates"][1].place, f"a window has at most {MAX_SPANS} spans of dates")
    first = spans[0][0] if spans else None
    return Window(
        zone=_said(reader, members, "zone", zone) or UTC,
        days=_said(reader, members, "days", days) or frozenset(range(7)),
        start=start,
        end=end,
        spans=tuple(spans) or ((date.min, date.max),),
        recurs=_said(reader, members, "recurs", lambda text: recurrence(text, first)) or "",
    )


def network(reader: Reader, node: Node) -> Network:
    """One network: an address range, or a list of them."""
    nodes = _each(node)
    if not 0 < len(nodes) <= MAX_RANGES:
        reader.note(node.place, f"a network is one address range, or a list of at most {MAX_RANGES}")
    found = [_told(reader, one, "network", address_range) for one in nodes[:MAX_RANGES]]
    return Network(tuple(one for one in found if one is not None))


def environments(reader: Reader, node: Node) -> Environments | None:
    """The environments of a file."""
    members = reader.table(node, "environment", ENVIRONMENT_KEYS)
    for missing in sorted(ENVIRONMENT_KEYS.keys() - members.keys()) if isinstance(node, Table) else ():
        reader.note(node.place, f"environment needs from and names; {missing} is missing")
    where = read_origin(reader, members["from"][1]) if "from" in members else None
    taken: dict[str, str] = {}
    found: dict[str, tuple[frozenset[str], tuple[str, ...]]] = {}
    for key, values in reader.table(members["names"][1], "names").values() if "names" in members else ():
        name = str(key.value)
        if not ENVIRONMENT.fullmatch(name):
            reader.note(key.place, "the name of an environment is made of letters, digits, dots, dashes, underscores")
        texts = _patterns(reader, values, "value")
        for text in texts:
            if (other := taken.setdefault(text, name)) != name:
                reader.note(values.place, f'the value "{text}" is that of {other} already')
        found[name] = (
            frozenset(text for text in texts if not is_glob(text, "prompt")),
            tuple(text for text in texts if is_glob(text, "prompt")),
        )
    if where is None or not found:
        return None
    return Environments(
        origin=where,
        plain=MappingProxyType({name: values for name, (values, _) in found.items()}),
        globs=MappingProxyType(
            {name: tuple(glob(one, "prompt") for one in patterns) for name, (_, patterns) in found.items()}
        ),
    )


def read_origin(reader: Reader, node: Node) -> Origin | None:
    """Where an environment is read from."""
    return _told(reader, node, "environment", origin)


def _patterns(reader: Reader, node: Node, what: str) -> list[str]:
    """Plain texts and globs that are fit to be compared with names."""
    found: list[str] = []
    for one in _each(node):
        text = reader.text(one, what)
        if text and (wrong := wrong_name(text, "prompt")):
            reader.note(one.place, wrong.replace("the name of a prompt", f"the {what}"))
        elif text:
            found.append(text)
    return found


def callers(reader: Reader, node: Node) -> Callers:
    """Who may call."""
    members = reader.table(node, "callers", CALLERS_KEYS)
    agents = _patterns(reader, members["agents"][1], "agent") if "agents" in members else []
    groups = _each(members["groups"][1]) if "groups" in members else ()
    if isinstance(node, Table) and not members.keys() & {"agents", "groups"}:
        reader.note(node.place, "callers names nobody; give it agents or groups")
    return Callers(
        agents=frozenset(one for one in agents if not is_glob(one, "prompt")),
        globs=tuple(glob(one, "prompt") for one in agents if is_glob(one, "prompt")),
        groups=frozenset(reader.name(one, "group", _GROUP) for one in groups),
        reason=reader.text(members["reason"][1], "reason") if "reason" in members else "",
    )


def runs(reader: Reader, node: Node) -> Runs | None:
    """Where the tool is told which others to run."""
    members = reader.table(node, "runs", RUNS_KEYS)
    if isinstance(node, Table) and "tool" not in members:
        reader.note(node.place, "runs needs tool, the argument that names the inner tool")
    paths = {key: _path(reader, members[key][1], key, within="each" in members) for key in members if key != "each"}
    each = _path(reader, members["each"][1], "each", within=False) if "each" in members else ()
    if not paths.get("tool"):
        return None
    return Runs(tool=paths["tool"], arguments=paths.get("arguments", ()), server=paths.get("server", ()), each=each)


def _path(reader: Reader, node: Node, key: str, *, within: bool) -> tuple[str, ...]:
    """A path into the arguments, written `args.a.b`; within a member of a list, `a.b`."""
    text = reader.text(node, key)
    path = argument_path(f"args.{text}" if within else text) if text else ("",)
    if not path:
        shown = "tool.name, a path within each member of the list" if within else "args.tool.name"
        reader.note(node.place, f"{key} is a path such as {shown}")
    return path


def limits(reader: Reader, node: Node, name: str) -> tuple[Limit, ...]:
    """The limits of a file or an entry called `name`."""
    return tuple(_limit(reader, one, f"{name}.limits[{index}]") for index, one in enumerate(_each(node)))


def _limit(reader: Reader, node: Node, name: str) -> Limit:
    members = reader.table(node, "a limit", LIMIT_KEYS)
    named = [measure for measure in Measure if measure.value in members]
    if isinstance(node, Table) and "per" not in members:
        reader.note(node.place, "a limit needs a time, such as {calls: 100, per: 1h}; per is missing")
    if isinstance(node, Table) and len(named) != 1:
        reader.note(node.place, "a limit counts one of calls, bytes and rows; write two limits as a list")
    measure = named[0] if named else Measure.CALLS
    if "require" in members and members["require"][1] == Items(members["require"][1].place, ()):
        reader.note(members["require"][1].place, "a limit that requires nothing limits nothing; leave require out")
    wanted = require(reader, members["require"][1]) if "require" in members else None
    return Limit(
        name=name,
        most=_most(reader, members[measure.value][1], measure) if named else 0,
        seconds=seconds(reader, members["per"][1], "per") if "per" in members else 1.0,
        measure=measure,
        demands=wanted.demands if wanted else _UNLESS_SAID[measure],
        quorums=wanted.quorums if wanted else frozenset(),
        reason=reader.text(members["reason"][1], "reason") if "reason" in members else "",
    )


def _most(reader: Reader, node: Node, measure: Measure) -> int:
    """How much of it; bytes may be written with a unit."""
    if measure is Measure.BYTES and not (isinstance(node, Scalar) and type(node.value) is int):
        return size(reader, node, "bytes")
    return number(reader, node, measure.value, 0, MAX_CALLS if measure is Measure.CALLS else MAX_RESULTS)
