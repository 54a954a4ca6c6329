"""`guard wrap` and `guard unwrap`: the guard before the tool servers that an agent has, and away again."""

from __future__ import annotations

import difflib
import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import click

from guard.app import Desk
from guard.audit.redact import Redactor
from guard.cli import options
from guard.clients import apply, files, plan, settings
from guard.clients.known import ALIASES, CLIENTS, Around, Place, described, places
from guard.clients.plan import Plan
from guard.clients.receipts import Receipts
from guard.config import parse
from guard.errors import ConfigError, GuardError, NotFoundError
from guard.identity.lifecycle import Lifecycle
from guard.model import Json

_NAMES = ", ".join([*CLIENTS, *ALIASES])
_targets = click.argument("targets", nargs=-1, metavar="AGENT|FILE...")
_all = click.option("--all", "all_", is_flag=True, help="Every known agent on this computer.")
_dry = click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")


@click.command()
@_targets
@_all
@click.option("--agent", default=None, help="Name the agent is enrolled under (default: that of the program).")
@click.option(
    "--watch/--enforce",
    default=None,
    help="Only record what would be held, or hold it (default: as it was; new servers are held).",
)
@_dry
@options.config
@options.as_json
def wrap(
    *,
    targets: tuple[str, ...],
    all_: bool,
    agent: str | None,
    watch: bool | None,
    dry_run: bool,
    file: Path,
    as_json: bool,
) -> None:
    """Put the guard before every tool server of AGENT, or of the configuration FILE.

    AGENT is claude-code, claude-desktop, claude (both), cursor, vscode, codex, gemini or windsurf: their settings in
    your home folder and those of the project in this folder. Nothing else in a file changes, `guard unwrap` gives
    it back as it was. The servers are added to guard.toml, which is made if there is none, and get a shipped tag
    pack where there is one. The agent's key is kept in the guard's state, never in the agent's file. Servers that
    are reached by URL are left alone and named.
    """
    desk = GuardSide(file)
    with desk:
        found = [place for place in _chosen(targets, all_, desk.around) if place.file.exists()]
        if not found:
            raise NotFoundError(f"no configuration of these agents is there; guard wrap FILE names one ({_NAMES})")
        report = Report(as_json=as_json, dry_run=dry_run)
        for place in found:
            with report.failing():
                report.add(put_in_front(desk, place, agent=agent, watch=watch, dry_run=dry_run), desk)
    sys.exit(report.end("wrapped"))


@click.command()
@_targets
@_all
@_dry
@options.config
@options.as_json
def unwrap(targets: tuple[str, ...], all_: bool, dry_run: bool, file: Path, as_json: bool) -> None:
    """Take the guard away from the tool servers of AGENT, or of the configuration FILE.

    A file that nobody changed since gets its old bytes back. In one that was edited, only the guard's own words are
    taken out. The server's table is taken out of guard.toml; its policy, and the agent with its key, stay.
    """
    desk = GuardSide(file, make=False)
    with desk:
        kept = list(desk.receipts.all())
        names = {one for name in targets for one in ALIASES.get(name, (name,))}
        meant = {one.file: described(one.file, desk.around) for one in kept if all_ or one.client in names}
        for place in _chosen(targets, all_, desk.around):
            if place.file.exists() and Path(os.path.realpath(place.file)) not in meant:
                meant[place.file] = place
        if not meant:
            raise NotFoundError(f"none of these was wrapped from here; guard unwrap FILE names one ({_NAMES})")
        report = Report(as_json=as_json, dry_run=dry_run, empty="names no tool server that the guard stands before")
        for place in meant.values():
            with report.failing():
                report.add(take_away(desk, place, dry_run=dry_run), desk)
    sys.exit(report.end("unwrapped"))


class GuardSide:
    """The guard's own side: its configuration, which may be still to come, its receipts, and its state when needed."""

    def __init__(self, file: Path, *, make: bool = True) -> None:
        """Read guard.toml.

        Raises:
            ConfigError: it has a mistake, or there is none and none shall be made.
        """
        self.file = file.absolute()
        try:
            self.text = self.file.read_bytes().decode()
        except FileNotFoundError:
            self.text = settings.TEMPLATE if make else ""
        except (OSError, UnicodeDecodeError) as error:
            message = f"cannot be read: {error}"
            raise ConfigError(message, file=file) from error
        self.config = parse(self.text, self.file)
        self.receipts = Receipts(self.config.state)
        self.around = around()
        self._open = ExitStack()
        self._services: Desk | None = None

    @property
    def services(self) -> Desk:
        """Store and ledger, opened when something is written for the first time."""
        if self._services is None:
            self._services = Desk(self.config)
            self._open.callback(self._services.close)
        return self._services

    def take(self, text: str) -> None:
        """Go on with another text of guard.toml."""
        self.text, self.config = text, parse(text, self.file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


def around() -> Around:
    """This machine, as far as the places of configuration files depend on it."""
    return Around(platform=sys.platform, home=Path.home(), variables=os.environ, folder=Path.cwd())


def put_in_front(desk: GuardSide, place: Place, *, agent: str | None, watch: bool | None, dry_run: bool) -> Plan:
    """Wrap one file; what was done, or would be.

    Raises:
        GuardError: it cannot be done. The agent's file is as it was.
    """
    receipt = desk.receipts.get(Path(os.path.realpath(place.file)))
    name = agent or (receipt.agent if receipt else place.client)
    request = plan.Request(
        config=desk.config,
        text=desk.text,
        guard=apply.executable(),
        agent=name,
        key_file=desk.receipts.folder / f"{name}.key",
        owner=options.operator(),
        enforce=None if watch is None else not watch,
    )
    made = plan.wrap(place, request, receipt)
    if made.changes and "/uv/archive-" in str(request.guard):
        made.notes.append(f"{request.guard} may vanish with uv's cache; install it (`uv tool install`) and wrap again")
    apply.checked(made, desk.file)
    if made.changes:
        files.writable(made.content)
    if not dry_run and any(row.outcome in {"wrapped", "kept"} for row in made.rows):
        services = desk.services
        desk.receipts.prepare()
        apply.key(
            request.key_file,
            name,
            owner=request.owner,
            lifecycle=Lifecycle(services.store, services.ledger, services.clock),
            store=services.store,
            now=services.clock.now(),
        )
        if made.changes:
            services.ledger.append("client.wrapped", _record(made, name))
        apply.wrap(made, desk.receipts, desk.file)
    desk.take(made.settings)
    return made


def take_away(desk: GuardSide, place: Place, *, dry_run: bool) -> Plan:
    """Unwrap one file; what was done, or would be.

    Raises:
        GuardError: it cannot be done. The agent's file is as it was.
    """
    receipts = list(desk.receipts.all())
    real = Path(os.path.realpath(place.file))
    receipt = next((one for one in receipts if one.file == real), None)
    made = plan.unwrap(place, desk.file, desk.text, receipt, apply.shared(receipts, real))
    if desk.file.exists():
        apply.checked(made, desk.file)
    if not dry_run and (made.changes or receipt):
        if desk.file.exists():
            desk.services.ledger.append("client.unwrapped", _record(made, receipt.agent if receipt else ""))
        apply.unwrap(made, desk.receipts, desk.file)
    desk.take(made.settings)
    return made


def _record(made: Plan, agent: str) -> Mapping[str, Json]:
    servers: list[Json] = [row.server for row in made.rows if row.outcome in {"wrapped", "unwrapped"}]
    return {"client": made.place.client, "file": str(made.content.file), "agent": agent, "servers": servers}


def _chosen(targets: Sequence[str], all_: bool, here: Around) -> list[Place]:
    """The places that are meant.

    Raises:
        click.UsageError: nothing was named, or what was named is neither an agent nor a file.
    """
    if not targets and not all_:
        raise click.UsageError(f"name an agent ({_NAMES}), a file, or --all")
    names = tuple(CLIENTS) if all_ else tuple(one for one in targets if one in CLIENTS or one in ALIASES)
    found = places(names, here)
    for one in targets:
        if one not in CLIENTS and one not in ALIASES:
            path = Path(one).absolute()
            if not path.exists():
                raise click.UsageError(f"{one} is neither an agent ({_NAMES}) nor a file")
            found.append(described(path, here))
    return found


class Report:
    """Collects what was done to every file, and says it: rows on stdout, the rest on stderr."""

    def __init__(self, *, as_json: bool, dry_run: bool, empty: str = "names no tool server to stand before") -> None:
        self._as_json, self._dry_run, self._empty = as_json, dry_run, empty
        self._rows: list[dict[str, Json]] = []
        self._failed: list[GuardError] = []

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Go on with the next file when this one cannot be done."""
        try:
            yield
        except GuardError as error:
            self._failed.append(error)

    def add(self, made: Plan, desk: GuardSide) -> None:
        """Take one file."""
        for row in made.rows:
            self._rows.append(
                {
                    "file": str(made.place.file),
                    "client": made.place.client,
                    "name": row.name,
                    "outcome": row.outcome,
                    "server": row.server,
                    "pack": row.pack,
                    "why": row.why,
                }
            )
            if row.why:
                options.note(f"{row.name}: {row.why}")
        if not made.rows:
            options.note(f"{made.place.file} {self._empty}")
        for note in made.notes:
            options.note(note)
        if made.shared_by and made.changes:
            options.note(
                f"{made.place.file} is in the git work tree {made.shared_by}: it names paths of this computer, "
                "so do not commit it wrapped"
            )
        if self._dry_run:
            for line in _difference(made, desk.file):
                click.echo(line, err=self._as_json)

    def end(self, verb: str) -> int:
        """Say it; the exit code: 1 when a file could not be done, 2 when that was a mistake in one."""
        if self._as_json or not self._dry_run:
            options.show(self._rows, columns=("outcome", "name", "server", "pack", "file"), as_json=self._as_json)
        if self._dry_run:
            options.note("nothing was changed")
        elif any(row["outcome"] == verb for row in self._rows):
            options.note("restart the agent, so that it reads its configuration anew")
        for error in self._failed:
            options.note(error.public)
        if not self._failed:
            return 0
        return 2 if any(isinstance(error, ConfigError) for error in self._failed) else 1


def _difference(made: Plan, own: Path) -> Iterator[str]:
    """Every changed line of every file, without what a secret could be in."""
    clean = Redactor(secrets.token_bytes(32)).text
    for file, old, new in ((made.place.file, made.content.text, made.text), (own, made.before, made.settings)):
        pair = old.splitlines(), new.splitlines()
        for line in difflib.unified_diff(*pair, str(file), str(file), n=0, lineterm=""):
            yield "\t".join(map(clean, made.masked(line).split("\t")))
    for file, text in made.policies.items():
        yield f"+++ {file} (new, {len(text.splitlines())} lines)"
