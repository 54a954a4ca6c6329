"""The simulator: one deployment of the guard in a temporary folder, made of real processes.

    with World(tmp_path) as world:
        guard = world.serve()                          # or world.run(): the same story on stdio
        paused = guard.call("wipe", {"n": 1})          # `wipe` needs a person
        world.approve(paused.challenge)
        assert guard.call("wipe", {"n": 1}).ran
        assert world.runs("wipe", {"n": 1}) == 1       # what the tool server itself says
        world.check()                                  # the ledger verifies, and covers everything that ran

The judge of what ran is the journal of the tool server (`tests/servers/journal_server.py`), never the guard.
People, agents and approvals are made in this process, by the code behind the command line, because each
start of `guard` costs a second; `approve(..., via=guard)` sends the proof to the running guard instead.
Faults are armed by `serve(fault="point:kind")` and fire only between `world.arm()` and `world.disarm()`.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import psutil
import pyotp
from agentack.engine import evaluate_events
from agentack.models import TraceEvent

from guard.app import Desk
from guard.audit.export import Reader
from guard.audit.trace import trace
from guard.audit.verify import Report, verify
from guard.config import load
from guard.factors.totp import TotpFactor
from guard.identity.lifecycle import Lifecycle
from guard.model import Challenge, State
from guard.stepup.view import render
from guard.wire.canonical import call_digest, canonical
from tests.guards import Guard, Running, Serving
from tests.launching import Launched

GUARD = Path(sys.executable).with_name("guard")
JOURNAL_SERVER = Path(__file__).parent / "servers" / "journal_server.py"
SERVERS = {"http": "web", "stdio": "desk"}
"""The one tool server, under one name for each transport."""

POLICY = """\
server: {server}
owner: journal-team
default: {sensitivity: internal}
tools:
  note: {sensitivity: internal}
  mute: {sensitivity: internal}
  wipe: {sensitivity: sensitive, require: step_up}
"""


def until(condition: Callable[[], object], what: str, *, within: float = 30.0) -> None:
    """Poll what another process brings about; fails with `what` when it does not come in time."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        time.sleep(0.01)


def all_gone(processes: Sequence[psutil.Process]) -> bool:
    """Whether none of these processes runs any more; one that only waits to be reaped does not."""

    def runs(one: psutil.Process) -> bool:
        try:
            return one.is_running() and one.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:  # gone between the two looks
            return False

    return not any(map(runs, processes))


def _ports() -> Iterator[int]:
    """Ports below those the system gives to outgoing connections, each for this process alone while it lives.

    A block of them is claimed by a name that the kernel lets one process have, whichever run of the tests that is in.
    """
    claims = []
    for block in random.sample(range(20_000, 32_000, _BLOCK), 12_000 // _BLOCK):
        claims.append(claim := socket.socket(socket.AF_UNIX))
        try:
            claim.bind(f"\0guard-tests-ports-{block}")
        except OSError:  # another process has it
            claims.pop().close()
        else:
            yield from range(block, block + _BLOCK)


_BLOCK = 100
_OWN_PORTS = _ports()


def free_port() -> int:
    """A port nobody listens on, which no other test is given."""
    for port in _OWN_PORTS:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is left")


class World:
    """A folder with guard.toml, policies, state, a tool server, an agent `robot`, and as many people as it takes.

    Args:
        folder: where everything lives.
        hold: seconds a paused call is held.
        more: further lines of guard.toml.
        tools: the program that is the tool server.
    """

    def __init__(self, folder: Path, *, hold: float = 0, more: str = "", tools: Path = JOURNAL_SERVER) -> None:
        self._program = tools
        self.folder, self.state, self.journal = folder, folder / "state", folder / "journal.jsonl"
        self.words, self._armed = folder / "words.json", folder / "armed"
        self._hold, self._more = hold, more
        self._people, self._started = 0, 0
        self.forged = False
        """Whether a test wrote records by its own hand, which nobody has to agree with."""
        self._tools: subprocess.Popen[bytes] | None = None
        self.guards: list[Guard] = []
        self.journal.touch()
        (folder / "tool_policies").mkdir()
        for server in SERVERS.values():
            self.write_policy(server)
        self._upstream = ""
        self.file = self._configure("guard.toml")
        self.key = self.add_agent("robot")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End every process; AgentAck agrees with what they left, or the test failed and what they said is shown."""
        for guard in self.guards:
            guard.close()
            if error is not None:
                sys.stderr.write(f"--- {guard.log.name}\n{guard.log.read_text()}")
        if self._tools is not None:
            self._tools.kill()
            self._tools.communicate()
        if error is None and not self.forged:
            self.agree()

    # ------------------------------------------------------------------ what the owner writes

    def write_policy(self, server: str, text: str = POLICY) -> None:
        """Write the policy of a server; a place `{server}` in it is filled in."""
        (self.folder / "tool_policies" / f"{server}.yaml").write_text(text.replace("{server}", server))

    def write_everywhere(self, text: str) -> None:
        """Write this policy for the tool server under both its names."""
        for server in SERVERS.values():
            self.write_policy(server, text)

    def describe(self, **words: str) -> None:
        """Let the tool server describe its tools in these words from now on."""
        self.words.write_text(json.dumps(words))

    def _configure(self, name: str) -> Path:
        """A guard.toml on ports of its own; all share one state directory."""
        ports = free_port(), free_port()
        command = json.dumps([sys.executable, str(self._program), *self._journalled])
        file = self.folder / name
        file.write_text(
            f"[proxy]\nlisten = '127.0.0.1:{ports[0]}'\nhold = {self._hold}\n"
            f"[console]\nlisten = '127.0.0.1:{ports[1]}'\npublic_url = 'http://localhost:{ports[1]}'\n"
            f"[servers.desk]\ncommand = {command}\n"
            f"[servers.web]\nurl = '{self._upstream or 'http://127.0.0.1:9/mcp'}'\n{self._more}"
        )
        return file

    @property
    def _journalled(self) -> tuple[str, ...]:
        return ("--journal", str(self.journal), "--words", str(self.words))

    # ------------------------------------------------------------------ processes

    def serve(self, *, fault: str = "", file: Path | None = None) -> Serving:
        """Start `guard serve` and wait until it is ready."""
        if not self._upstream:
            self._upstream = self._serve_tools()
            self.file = self._configure(self.file.name)
        file = file or self.file
        guard = Serving(self._launch("serve", file, fault), self._log, self.state, load(file), self.key)
        self.guards.append(guard)
        guard.wait_ready(until)
        return guard

    def run(self, *, fault: str = "") -> Running:
        """Start `guard run` in front of the tool server on stdio."""
        guard = Running(self._launch("run", self.file, fault, "desk"), self._log, self.state)
        self.guards.append(guard)
        return guard

    def start(self, front: str, *, fault: str = "") -> Guard:
        """Start either front: `http` or `stdio`."""
        return self.serve(fault=fault) if front == "http" else self.run(fault=fault)

    def replica(self) -> Serving:
        """Start a second `guard serve` on the same state."""
        return self.serve(file=self._configure("replica.toml"))

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a verb of the command line to its end."""
        command = [GUARD, *words, "--config", str(self.file)]
        return subprocess.run(command, env=self._environment, text=True, capture_output=True, check=False, timeout=120)

    @property
    def _log(self) -> Path:
        return self.folder / f"guard-{self._started}.log"

    @property
    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder)}

    def _launch(self, verb: str, file: Path, fault: str, *words: str) -> Launched:
        self._started += 1
        environment = self._environment | ({"GUARD_AGENT_KEY": self.key} if verb == "run" else {})
        if fault:
            environment |= {"GUARD_FAULT": fault, "GUARD_TESTING": "1", "GUARD_FAULT_FILE": str(self._armed)}
        command = (verb, *words, "--config", str(file))
        return Launched(command, folder=self.folder, environment=environment, log=self._log)

    def _serve_tools(self) -> str:
        command = [sys.executable, self._program, *self._journalled, "--http", "0"]
        self._tools = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._tools.stdout is not None
        return f"http://127.0.0.1:{int(self._tools.stdout.readline())}/mcp"

    # ------------------------------------------------------------------ faults

    def arm(self) -> None:
        """Let the fault a guard was started with fire from now on."""
        self._armed.touch()

    def disarm(self) -> None:
        """Make everything work again."""
        self._armed.unlink(missing_ok=True)

    # ------------------------------------------------------------------ agents and people

    @contextmanager
    def desk(self) -> Iterator[Desk]:
        """What every verb of the command line works on."""
        services = Desk(load(self.file))
        try:
            yield services
        finally:
            services.close()

    def add_agent(self, name: str) -> str:
        """Enrol an agent; its key."""
        with self.desk() as services:
            return Lifecycle(services.store, services.ledger, services.clock).add_agent(name, owner="oli")

    def revoke_agent(self, name: str) -> None:
        """Revoke an agent with all its keys."""
        with self.desk() as services:
            Lifecycle(services.store, services.ledger, services.clock).revoke_agent(name)

    def approve(self, challenge: str, *, via: Guard | None = None) -> bool:
        """Approve as a person nobody has seen before, for a code counts once; False when the guard died of it."""
        self._people += 1
        name = f"ann{self._people}"
        with self.desk() as services:
            Lifecycle(services.store, services.ledger, services.clock).add_approver(name)
            codes = TotpFactor(services.store.factors, services.keyring, services.ledger, services.clock)
            phone = pyotp.parse_uri(codes.enroll(name, issuer="guard").uri)
            assert isinstance(phone, pyotp.TOTP)
            found = services.store.challenges.get(challenge)
            assert found is not None, f"there is no challenge {challenge!r}"
            evidence = {"as": name, "code": phone.now(), "view_digest": render(found).digest}
            if via is None:
                anyio.run(partial(services.ceremony().prove, challenge, "approval", evidence))
                return True
        return via.prove(challenge, {"kind": "approval", **evidence})

    def challenges(self, *states: State) -> list[Challenge]:
        """The challenges in these states (none: all), oldest first."""
        with self.desk() as services:
            return list(services.store.challenges.find(states=frozenset(states)))

    def pending(self) -> Challenge:
        """The oldest challenge that waits; its record is written before it is there."""
        until(lambda: bool(self.challenges(State.PENDING)), "a challenge is open")
        return self.challenges(State.PENDING)[0]

    def baseline(self, agent: str) -> str | None:
        """What the store knows of how an agent's key is used."""
        with self.desk() as services:
            [credential] = services.store.agents.credentials(agent)
            return services.store.baselines.get(credential.thumbprint)

    # ------------------------------------------------------------------ what happened

    def ran(self) -> list[dict[str, Any]]:
        """Every call the tool server executed, by its own journal."""
        whole, _, _ = self.journal.read_text().rpartition("\n")  # the last line may be under way
        lines = [json.loads(line) for line in whole.splitlines()]
        return [line for line in lines if "tool" in line]

    def runs(self, tool: str, arguments: Mapping[str, object]) -> int:
        """How often the tool server executed exactly this call."""
        return sum(1 for line in self.ran() if (line["tool"], line["arguments"]) == (tool, arguments))

    def records(self, *events: str) -> list[Mapping[str, Any]]:
        """The records of all lanes by time, or only those of some events."""
        return [entry.fields for entry in Reader(self.state).read() if not events or entry.event in events]

    def last_events(self) -> set[str]:
        """What the last record of each lane says."""
        return set({entry.lane: entry.event for entry in Reader(self.state).read()}.values())

    def wait_for(self, event: str, *, count: int = 1, within: float = 30.0) -> None:
        """Wait until the ledger holds that many records of an event."""
        until(lambda: len(self.records(event)) >= count, f"{count} records {event}", within=within)

    def settle(self) -> None:
        """Wait until every record is vouched for by the store: then no guard is about to write anything."""
        until(lambda: all(lane.sealed == lane.records for lane in self.verify().lanes), "the ledger is quiet")

    def verify(self) -> Report:
        """What `guard audit verify` finds; like it, looks twice at a ledger that grows."""
        with self.desk() as services:
            report = verify(self.state, services.store.lanes.all())
            return report if report.ok else verify(self.state, services.store.lanes.all())

    def unrecorded(self) -> list[dict[str, Any]]:
        """What ran more often than the ledger let it: a permit without a challenge, or an intent, each lets one run."""
        decided = self.records("decision.made", "call.forwarded")
        lets = Counter(
            record.get("args_digest", "")
            for record in decided
            if "args_digest" in record and (record["event"] == "call.forwarded" or record.get("decision") == "permit")
        )
        definitions = {record.get("tool_def_hash", "") for record in decided}
        found = []
        for line in self.ran():
            possible = {self._digest(line, server, one) for server in SERVERS.values() for one in definitions}
            if (digest := next((one for one in possible if lets[one]), None)) is None:
                found.append(line)
            else:
                lets[digest] -= 1
        return found

    @staticmethod
    def _digest(line: Mapping[str, Any], server: str, definition: str) -> str:
        return call_digest(
            principal="robot",
            server=server,
            kind="tool",
            name=line["tool"],
            definition=definition,
            canonical_arguments=canonical(line["arguments"]),
        )

    def check(self) -> None:
        """The promises that hold at any moment: the ledger verifies, nothing ran without a record, AgentAck agrees."""
        report = self.verify()
        assert report.ok, report.text()
        assert self.unrecorded() == []
        self.agree()

    def agree(self) -> None:
        """AgentAck accepts the trace of everything that happened; also asked at the end of every test that passed."""
        lines, _ = trace(Reader(self.state).read())
        if lines:
            judged = evaluate_events([TraceEvent.from_dict(line) for line in lines])
            assert judged.status == "PASS", judged.findings
