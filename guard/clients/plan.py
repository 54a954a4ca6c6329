"""What wrapping or unwrapping one file would change, worked out before anything is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from guard.clients import packs, settings
from guard.clients.files import Content, content, repository
from guard.clients.jsonc import Jsonc
from guard.clients.known import Place
from guard.clients.receipts import Put, Receipt, digest
from guard.clients.toml import Toml
from guard.clients.wrapping import Document, Entry, Launch, lacks_args, unwrapped, wrapped
from guard.config import Config, Server

_UNFIT: Final = re.compile(r"[^A-Za-z0-9_.-]+")
_POSSESSION: Final = re.compile(r"^[^#\n]*require:[^#\n]*\b(?:possession|both)\b", re.MULTILINE)
_SHORT: Final = 4
"""Characters below which a value is no secret, and hiding it would hide half of the line."""
_LONGEST: Final = 48

Outcome = Literal["wrapped", "unwrapped", "kept", "unprotected", "left"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What becomes of one server: under which name the guard has it, with which pack, and why it is left as it is."""

    name: str
    outcome: Outcome
    server: str = ""
    pack: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """How servers are to be wrapped: `text` is the guard.toml, `config` its meaning, which knows where it stands.

    `enforce`: hold what has to be held, or only watch; None: as it was, and new ones as the top level says.
    """

    config: Config
    text: str
    guard: Path
    agent: str
    key_file: Path
    owner: str
    enforce: bool | None = None


@dataclass(slots=True, kw_only=True)
class Plan:
    """The new text of one file and everything that goes with it. `text` equals the old one if nothing changes."""

    place: Place
    content: Content
    text: str
    rows: list[Row] = field(default_factory=list)
    receipt: Receipt | None = None
    before: str = ""
    settings: str = ""
    policies: dict[Path, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    secrets: tuple[str, ...] = ()
    shared_by: Path | None = None

    def masked(self, line: str) -> str:
        """A line of the file without the values that the client gives its servers in variables and headers."""
        for secret in self.secrets:
            line = line.replace(secret, "***")
        return line

    @property
    def changes(self) -> bool:
        """Whether the file changes at all."""
        return self.text != self.content.text


def read(place: Place) -> tuple[Content, Document]:
    """A file of an agent.

    Raises:
        ConfigError: it cannot be read, is broken or ambiguous.
    """
    found = content(place)
    language = Toml() if place.toml else Jsonc()
    return found, Document.read(found.text, str(place.file), language, place.tables)


def wrap(place: Place, request: Request, receipt: Receipt | None) -> Plan:
    """Plan to put the guard before every server in a file. What is wrapped already is worked out anew.

    Raises:
        ConfigError: the file, or the guard.toml that would result, cannot be used; nothing was changed.
    """
    found, document = read(place)
    bare = frozenset(put.path for put in receipt.servers if put.bare) if receipt else frozenset[tuple[str, ...]]()
    open_ = document.again(unwrapped(document, str(request.config.file), bare)[0])
    own = {put.path: put for put in receipt.servers} if receipt else {}
    plan = _plan(place, found, document, request.text)
    launches: dict[tuple[str, ...], Launch] = {}
    puts: list[Put] = []
    names = _Names(request, own)
    for entry in open_.entries:
        if entry.state != "open":
            plan.rows.append(_left(entry))
            continue
        put = names.put(entry, place, bare=lacks_args(open_, entry.path))
        puts.append(put)
        launches[entry.path] = Launch(
            guard=str(request.guard), server=put.server, config=str(request.config.file), key_file=str(request.key_file)
        )
        plan.rows.append(_tagged(plan, entry, put, request))
        if "envFile" in entry.node.members:
            plan.notes.append(f"{entry.name}: name the variables of its envFile in pass_env of [servers.{put.server}]")
    plan.text = wrapped(open_, launches)
    blocks = {put.block for put in puts} - {""}
    old = {put.block for put in own.values()} - {""}
    plan.settings, stayed = settings.changed(
        request.text,
        added=[put.block for put in puts if put.block and put.block not in old],
        removed=sorted(old - blocks),
    )
    plan.notes += [f"a table in {request.config.file} was edited since and stays" for _ in stayed]
    untouched = receipt is not None and digest(found.raw) == receipt.wrapped
    plan.receipt = Receipt.model_construct(
        version=1,
        client=place.client,
        file=found.file,
        agent=request.agent,
        key_file=request.key_file,
        wrapped=digest(plan.text.encode()),
        original=receipt.original if receipt and untouched else open_.text.encode(),
        servers=tuple(puts),
    )
    if not plan.changes:
        plan.rows = [replace(row, outcome="kept", why="") if row.outcome == "wrapped" else row for row in plan.rows]
    return plan


def _plan(place: Place, found: Content, document: Document, text: str) -> Plan:
    """A plan that changes nothing yet."""
    tables = [entry.node.members.get(key) for entry in document.entries for key in ("env", "headers", "http_headers")]
    values = {one.text for table in tables if table for one in table.members.values()}
    hidden = [value for value in values if value and len(value) >= _SHORT]
    return Plan(
        place=place,
        content=found,
        text=found.text,
        before=text,
        settings=text,
        secrets=tuple(sorted(hidden, key=len, reverse=True)),
        shared_by=repository(found.file) if place.project else None,
    )


class _Names:
    """Gives every server its name in guard.toml: the one it had, that of a table that means the same, or a new one."""

    def __init__(self, request: Request, own: Mapping[tuple[str, ...], Put]) -> None:
        self._request, self._own = request, own
        mine = {put.server for put in own.values() if put.block and put.block in request.text}
        self._taken: dict[str, Server | None] = {
            name: server for name, server in request.config.servers.items() if name not in mine
        }

    def put(self, entry: Entry, place: Place, *, bare: bool) -> Put:
        """Where a server goes. Its `block` is empty if guard.toml has a table that means the same."""
        known = self._own.get(entry.path)
        wanted = known.server if known else _UNFIT.sub("-", entry.name).strip("-.")[:_LONGEST] or "server"
        name, number = wanted, 1
        while name in self._taken:
            if _same(self._taken[name], entry):
                return Put(path=entry.path, server=name, block="", bare=bare)
            number += 1
            name = f"{wanted}-{self._request.agent}" if number == 2 else f"{wanted}-{number}"  # noqa: PLR2004
        self._taken[name] = None
        enforce = self._request.enforce if self._request.enforce is not None else known.enforce if known else None
        if enforce is self._request.config.enforce:
            enforce = None  # the top level says so already
        origin = f"{place.client} in {place.file}"
        block = settings.block(name, entry.command, entry.environment, origin=origin, enforce=enforce)
        return Put(path=entry.path, server=name, block=block, bare=bare)


def _same(server: Server | None, entry: Entry) -> bool:
    """Whether a table of guard.toml starts the very same thing."""
    return (
        server is not None
        and server.command == entry.command
        and set(settings.passed(entry.environment)) <= set(server.pass_env) | set(server.env)
    )


def _left(entry: Entry) -> Row:
    """A server that stays as it is, and why."""
    if entry.state == "remote":
        why = f"it is reached by URL; {_served(entry)}"
        return Row(name=entry.name, outcome="unprotected", why=why)
    if entry.state in {"by hand", "guarded"}:
        whose = f" of {entry.config}; unwrap it there first" if entry.config else " already"
        return Row(name=entry.name, outcome="left", server=entry.server, why=f"it runs behind the guard{whose}")
    return Row(name=entry.name, outcome="unprotected", why=entry.why)


def _served(entry: Entry) -> str:
    """How a server with a URL gets behind the guard."""
    name = _UNFIT.sub("-", entry.name).strip("-.") or "server"
    return (
        f"to guard it, add [servers.{name}] with this url to guard.toml, run `guard serve`, and let the agent connect "
        f"to /mcp/{name} with a key of its own"
    )


def _tagged(plan: Plan, entry: Entry, put: Put, request: Request) -> Row:
    """See to the policy of a server that is wrapped; one that is there already is the owner's and stays."""
    file = request.config.policies / f"{put.server}.yaml"
    text, pack = packs.policy(put.server, entry.command, owner=request.owner)
    if file.exists():
        return Row(name=entry.name, outcome="wrapped", server=put.server, why=f"tags of {file} stay")
    plan.policies[file] = text
    if pack and _POSSESSION.search(text):
        plan.notes.append(
            f"{entry.name}: some of its tools need a key that the agent holds in a token "
            f"(guard factor enroll signature); if it has none, change `require` in {file}"
        )
    return Row(
        name=entry.name,
        outcome="wrapped",
        server=put.server,
        pack=pack,
        why="" if pack else f"no pack is for it, so all of it needs a step-up; guard policy scaffold {put.server}",
    )


def unwrap(place: Place, config: Path, text: str, receipt: Receipt | None, shared: frozenset[str]) -> Plan:
    """Plan to take the guard away from every server in a file.

    With a receipt, and the file as it was left, its old bytes come back. Otherwise the guard's own words are taken
    out, and what others changed meanwhile stays. `text` is the guard.toml at `config`; the tables of `shared` servers,
    which other files need, stay in it.

    Raises:
        ConfigError: the file cannot be used; nothing was changed.
    """
    found, document = read(place)
    plan = _plan(place, found, document, text)
    bare = frozenset(put.path for put in receipt.servers if put.bare) if receipt else frozenset[tuple[str, ...]]()
    taken_out, taken = unwrapped(document, str(config), bare)
    for entry in document.entries:
        if entry in taken:
            plan.rows.append(Row(name=entry.name, outcome="unwrapped", server=entry.server))
        elif entry.state in {"by hand", "guarded"}:
            why = f"it belongs to {entry.config}" if entry.config else "`guard run` was written there by hand"
            plan.rows.append(Row(name=entry.name, outcome="left", server=entry.server, why=why))
    if receipt and digest(found.raw) == receipt.wrapped:
        plan.text = receipt.original.decode()
    else:
        plan.text = taken_out
        if plan.changes:
            why = "was edited since" if receipt else "has no receipt here"
            plan.notes.append(f"{place.file} {why}: the guard's own words were taken out, everything else stays")
    if receipt:
        gone = [put.block for put in receipt.servers if put.block and put.server not in shared]
        plan.settings, stayed = settings.changed(text, added=(), removed=gone)
        plan.notes += ["a table of guard.toml was edited since, or is gone; it is left alone" for _ in stayed]
    return plan
