"""What must hold when processes race, are killed, or run out of disk (one grant, at most one forward)."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from guard.model import State
from guard.store.schema import REVISION
from guard.store.seal import Keyring
from guard.store.sql import DATABASE, SqlStore
from guard.testing import example_challenge, satisfied

PRELUDE = """
import sys, resource
from pathlib import Path
from guard import faults
from guard.errors import StoreUnavailableError
from guard.model import State
from guard.store.seal import Keyring
from guard.store.sql import SqlStore
from guard.testing import consumed, example_challenge, race, satisfied

state = Path(sys.argv[1])

def say(*words):
    print(*words, flush=True)

def wait():
    assert sys.stdin.readline() == "go\\n"
"""


@dataclass
class Child:
    """A real process of the guard's own code, driven over its pipes."""

    process: subprocess.Popen[str]

    @property
    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def rest(self) -> list[str]:
        output, _ = self.process.communicate(timeout=50)
        return output.splitlines()


@dataclass
class Children:
    """Starts children, and ends what is left of them."""

    state: Path
    started: list[Child]

    def start(self, script: str, *, wrapper: Sequence[str] = (), **environment: str) -> Child:
        process = subprocess.Popen(
            [*wrapper, sys.executable, "-c", PRELUDE + script, str(self.state)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        child = Child(process)
        self.started.append(child)
        return child


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    family = Children(tmp_path / "state", [])
    yield family
    for child in family.started:
        if child.process.poll() is None:
            child.process.kill()
        child.process.communicate()


@pytest.fixture
def store(children: Children) -> Iterator[SqlStore]:
    opened = SqlStore.open(children.state, Keyring.open(children.state))
    yield opened
    opened.close()


def test_two_processes_with_fifty_threads_each_spend_one_grant_once(children: Children, store: SqlStore) -> None:
    challenge = store.challenges.open_or_join(example_challenge())
    proven = satisfied(challenge)
    assert store.challenges.swap(challenge, proven, durable=False)
    script = """
store = SqlStore.open(state, Keyring.open(state))
proven = satisfied(example_challenge())
say("ready")
wait()
won = race(lambda racer: store.challenges.swap(proven, consumed(proven), durable=True), 50)
say(won.count(True), won.count(False))
"""
    pair = [children.start(script), children.start(script)]
    assert [child.line for child in pair] == ["ready", "ready"]
    for child in pair:
        child.go()
    assert sorted(child.rest() for child in pair) == [["0 50"], ["1 49"]]
    assert store.challenges.states([challenge.id]) == {challenge.id: (State.CONSUMED, 2)}


def test_two_processes_open_one_challenge_for_one_call(children: Children, store: SqlStore) -> None:
    script = """
store = SqlStore.open(state, Keyring.open(state))
say("ready")
wait()
for number in range(25):
    mine = example_challenge({offset} + number, digest=f"call {{number}}")
    say(store.challenges.open_or_join(mine).id)
"""
    pair = [children.start(script.format(offset=0)), children.start(script.format(offset=1000))]
    assert [child.line for child in pair] == ["ready", "ready"]
    for child in pair:
        child.go()
    first, second = (child.rest() for child in pair)
    assert len(first) == 25
    assert first == second
    assert [challenge.id for challenge in store.challenges.find()] == first


def test_processes_that_start_at_once_build_one_database(children: Children) -> None:
    script = """
import alembic.command  # now, so that the race is for the database and not for loading modules
say("ready")
wait()
store = SqlStore.open(state, Keyring.open(state))
store.challenges.open_or_join(example_challenge())
say(len(store.challenges.find()))
"""
    family = [children.start(script) for _ in range(3)]
    assert [child.line for child in family] == ["ready"] * 3
    for child in family:
        child.go()
    assert [child.rest() for child in family] == [["1"]] * 3


def test_a_start_that_is_killed_half_way_is_made_good_by_the_next(children: Children) -> None:
    dying = children.start(
        "faults.arm(); SqlStore.open(state, Keyring.open(state)); say('survived')",
        GUARD_TESTING="1",
        GUARD_FAULT="store.write:kill@1",
    )
    assert dying.rest() == []
    assert dying.process.returncode == -signal.SIGKILL
    store = SqlStore.open(children.state, Keyring.open(children.state))
    assert store.challenges.find() == ()
    store.close()
    connection = sqlite3.connect(children.state / DATABASE)
    assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(REVISION,)]
    connection.close()


def test_every_acknowledged_write_survives_a_kill_and_the_interrupted_one_is_undone(children: Children) -> None:
    script = """
faults.arm()
store = SqlStore.open(state, Keyring.open(state))
for number in range(1000):
    challenge = store.challenges.open_or_join(example_challenge(number))
    proven = satisfied(challenge)
    assert store.challenges.swap(challenge, proven, durable=False)
    assert store.challenges.swap(proven, consumed(proven), durable=True)
    say(challenge.id)
"""
    # 1 is the migration; then three writes a challenge: the 46th in all is the spending of the 15th grant.
    dying = children.start(script, GUARD_TESTING="1", GUARD_FAULT="store.write:kill@46")
    acknowledged = dying.rest()
    assert dying.process.returncode == -signal.SIGKILL
    assert len(acknowledged) == 14
    store = SqlStore.open(children.state, Keyring.open(children.state))
    found = store.challenges.find()
    assert [challenge.id for challenge in found if challenge.state is State.CONSUMED] == acknowledged
    assert [challenge.state for challenge in found] == [State.CONSUMED] * 14 + [State.SATISFIED]
    assert store.challenges.open_or_join(example_challenge(14)) == found[-1]
    store.close()


def test_a_kill_at_any_moment_leaves_a_database_with_every_acknowledged_write(children: Children) -> None:
    script = """
store = SqlStore.open(state, Keyring.open(state))
def work(racer):
    for number in range(racer * 100_000, (racer + 1) * 100_000):
        challenge = store.challenges.open_or_join(example_challenge(number))
        proven = satisfied(challenge)
        assert store.challenges.swap(challenge, proven, durable=False)
        assert store.challenges.swap(proven, consumed(proven), durable=True)
        sys.stdout.write(challenge.id + "\\n")
        sys.stdout.flush()
race(work, 4)
"""
    dying = children.start(script)
    acknowledged = {dying.line for _ in range(40)}
    dying.process.kill()
    acknowledged |= {line for line in dying.rest() if re.fullmatch(r"c_[0-9]{22}", line)}
    store = SqlStore.open(children.state, Keyring.open(children.state))
    spent = {challenge.id for challenge in store.challenges.find(states=frozenset({State.CONSUMED}))}
    assert acknowledged <= spent
    store.close()
    connection = sqlite3.connect(children.state / DATABASE)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_no_room_left_is_unavailable_and_writing_goes_on_when_there_is_room(children: Children) -> None:
    script = """
store = SqlStore.open(state, Keyring.open(state))
store.changed()
first = store.challenges.open_or_join(example_challenge(0))
proven = satisfied(first)
assert store.challenges.swap(first, proven, durable=True)

def room(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

def fill():
    for number in range(1, 10_000):
        try:
            store.challenges.open_or_join(example_challenge(number))
        except StoreUnavailableError as error:
            say(error.reason.value)
            return number

room(400_000)
held = fill()
room(0)
for _ in range(10):
    try:
        store.challenges.swap(proven, consumed(proven), durable=True)
    except StoreUnavailableError as error:
        say(error.reason.value)
say(store.challenges.get(first.id) == proven, len(store.challenges.find()) == held)
room(resource.RLIM_INFINITY)
say(store.challenges.swap(proven, consumed(proven), durable=True))
"""
    told = children.start(script).rest()
    assert told == ["store_unavailable"] * 11 + ["True True", "True"]


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_durable_write_is_one_fsync_and_a_cheap_one_is_none(children: Children, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    script = """
store = SqlStore.open(state, Keyring.open(state))
steps = [store.challenges.open_or_join(example_challenge(number)) for number in range(21)]
proven = [satisfied(challenge) for challenge in steps]
store.challenges.swap(steps[0], proven[0], durable=True)
(state / "cheap").mkdir()
for old, new in zip(steps[1:], proven[1:]):
    assert store.challenges.swap(old, new, durable=False)
(state / "durable").mkdir()
for old in proven[1:]:
    assert store.challenges.swap(old, consumed(old), durable=True)
(state / "end").mkdir()
"""
    wrapper = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=mkdir,fsync,fdatasync", "-o", str(trace)]
    child = children.start(script, wrapper=wrapper)
    child.rest()
    if child.process.returncode != 0:
        pytest.skip("this machine does not let a process be traced")
    _, cheap, durable, _ = re.split(r'mkdir\("[^"]*/(?:cheap|durable|end)"', trace.read_text())
    assert len(re.findall(r"\b(?:fsync|fdatasync)\(", cheap)) == 0
    assert len(re.findall(r"\b(?:fsync|fdatasync)\(", durable)) == 20
