"""Too many connections, slow heads, slow bodies: bounded, refused with the right status, others unaffected."""

from __future__ import annotations

import http.client
import json
import os
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.agents import Agent
from tests.guards import Serving
from tests.world import World, until

MOST = 40


class Small(World):
    """A deployment whose listeners keep few connections."""

    def _configure(self, name: str) -> Path:
        file = super()._configure(name)
        file.write_text(file.read_text().replace("hold =", f"max_connections = {MOST}\nmax_in_flight = 8\nhold ="))
        return file


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with Small(tmp_path) as made:
        yield made


@contextmanager
def crowd(guard: Serving, count: int, said: bytes) -> Iterator[list[socket.socket]]:
    """So many connections that say the beginning of something and then hold on."""
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            one = stack.enter_context(
                closing(socket.create_connection((guard.config.proxy.host, guard.config.proxy.port)))
            )
            with suppress(OSError):
                one.sendall(said)
            made.append(one)
        yield made


def descriptors(guard: Serving) -> int:
    return psutil.Process(guard.process.pid).num_fds()


def head(guard: Serving, key: str, *lines: str) -> bytes:
    fixed = ("POST /mcp/web HTTP/1.1", f"Host: {guard.config.proxy.listen}", f"Authorization: Bearer {key}")
    return "\r\n".join((*fixed, "Content-Type: application/json", *lines)).encode()


def status(one: socket.socket) -> int:
    """The status of the answer, 0 when the connection just ended."""
    one.settimeout(15)
    try:
        found = one.recv(64)
    except OSError:
        return 0
    return int(found.split()[1]) if found else 0


@pytest.mark.parametrize("said", [b"", b"POST /mcp/web HTTP/1.1\r\nHost: x\r\nX-A: b"], ids=["silent", "half a head"])
def test_connections_that_only_hold_on_make_room_for_those_that_ask(world: World, said: bytes) -> None:
    guard = world.serve()
    before = descriptors(guard)
    with crowd(guard, 5 * MOST, said):
        took = []
        for number in range(10):
            began = time.monotonic()
            assert guard.call("note", {"n": number}).ran
            took.append(time.monotonic() - began)
        assert descriptors(guard) <= before + MOST + 10
        assert max(took) < 5  # on a machine that other tests use as well; alone it is a few milliseconds
    world.check()


def test_a_connection_is_kept_while_there_is_room(world: World) -> None:
    guard = world.serve()
    with crowd(guard, MOST // 2, b""), closing(guard.connect()) as connection:
        for number in range(3):
            message = {"jsonrpc": "2.0", "id": number, "method": "ping"}
            connection.request("POST", "/mcp/web", json.dumps(message), guard._headers(""))
            sock = connection.sock
            assert json.loads(connection.getresponse().read())["id"] == number
            assert connection.sock is sock


def test_when_every_connection_is_at_work_a_new_one_is_refused_until_one_ends(tmp_path: Path) -> None:
    with Small(tmp_path, hold=50) as world:
        file = world.file
        guard = world.serve()
        assert file.exists()
        keys = [world.add_agent(f"robot{number}") for number in range(MOST // 8)]
        asked = [guard.ask("wipe", {"n": number}, key=keys[number // 8]) for number in range(MOST)]
        until(lambda: len(world.challenges()) == MOST, "every call is held")
        with crowd(guard, 1, b"") as [one]:
            assert status(one) == 503
        asked[0].leave()
        until(lambda: guard.call("note", {"n": "after"}).ran, "there is room again")
        for one_asked in asked[1:]:
            one_asked.leave()


def test_one_principals_slow_bodies_leave_room_for_its_other_calls_and_everybody_elses(world: World) -> None:
    guard = world.serve()
    slow = head(guard, world.key, "Content-Length: 1000000", "", "{")
    with crowd(guard, 12, slow) as made:
        until(lambda: len(select.select(made, [], [], 0)[0]) == 4, "four of them are too many")
        refused = select.select(made, [], [], 0)[0]
        assert [status(one) for one in refused] == [429] * 4
        assert guard.call("note", {"n": 1}, key=world.add_agent("other")).ran
        assert guard.request("ping", {}).status == 429
        for one in made:
            one.close()
        until(lambda: guard.request("ping", {}).status == 200, "the slots are free again")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([f"X-{number}: 1" for number in range(200)], 431),
        (["X-Long: " + "x" * 70_000], 431),
        (["Content-Length: 5000000", "", ""], 413),
    ],
    ids=["many headers", "a long header", "a large body"],
)
def test_what_is_too_large_is_refused_with_its_status(world: World, lines: list[str], expected: int) -> None:
    guard = world.serve()
    tail = lines if expected == 413 else [*lines, "Content-Length: 2", "", "{}"]
    with crowd(guard, 1, head(guard, world.key, *tail)) as [one]:
        assert status(one) == expected
    assert guard.call("note", {}).ran


def test_without_descriptors_nothing_runs_unguarded_and_the_guard_recovers(world: World) -> None:
    guard = world.serve()
    process = psutil.Process(guard.process.pid)
    kept, before = process.rlimit(psutil.RLIMIT_NOFILE), descriptors(guard)
    process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds() + 2, kept[1]))
    for number in range(20):
        with suppress(OSError, http.client.HTTPException, AssertionError):
            guard.call("wipe", {"n": number})
        with suppress(OSError, http.client.HTTPException, AssertionError):
            Agent(guard, world.key).call("note", {"n": number}, modern=True)
    assert guard.process.poll() is None
    process.rlimit(psutil.RLIMIT_NOFILE, kept)
    until(lambda: guard.call("note", {"n": "after"}).ran, "calls are taken again")
    assert Agent(guard, world.key).call("note", {"n": "hosted"}, modern=True).ran
    # A child has four, connections and the store the rest.
    until(lambda: descriptors(guard) <= before + 12, "what was open is closed")
    assert not any(line["tool"] == "wipe" for line in world.ran())
    world.check()


def test_a_child_has_no_descriptor_of_the_guards(world: World) -> None:
    guard = world.serve()
    assert Agent(guard, world.key).call("note", {}, modern=True).ran
    [child] = [one for one in guard.children() if "journal_server" in " ".join(one.cmdline())]
    opened = [str(fd.readlink()) for fd in Path(f"/proc/{child.pid}/fd").iterdir()]
    assert {name for name in opened if not name.startswith("pipe:")} == {str(world.journal)}
    assert len(set(opened)) == 4  # its own three, of which it may have copies


def test_files_and_variables_around_a_guard_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Strange(World):
        @property
        def _environment(self) -> dict[str, str]:
            return super()._environment | {"GUARD_DISABLE": "1", "GUARD_MODE": "off", "GUARD_DRY_RUN": "1"}

    for module in ("guard", "mcp", "anyio", "sitecustomize", "json"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit(66)\n")
    (tmp_path / ".env").write_text("GUARD_MODE=off\nGUARD_DISABLE=1\n")
    with Strange(tmp_path) as world:
        guard = world.serve()
        assert guard.call("wipe", {}).challenge
        assert guard.call("note", {}).ran
        assert world.runs("wipe", {}) == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_another_user_does_not_reach_the_guards_own_socket(world: World) -> None:
    guard = world.serve()
    place = world.state / "run" / f"{guard.process.pid}.sock"
    for folder in (*world.folder.parents[:-2], world.folder, world.state, place.parent):
        folder.chmod(0o755)  # even when the way to it is open
    place.chmod(0o666)
    code = (
        "import os,socket,sys; os.setuid(65534)\n"
        "s=socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(sys.argv[1])\n"
        "try:\n"
        " s.sendall(b'GET /healthz HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n')\n"
        " print(s.recv(100))\n"
        "except ConnectionError: print(b'')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, place], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("b''", "")


def test_the_limit_on_connections_leaves_descriptors_for_everything_else() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    code = (
        "import resource; from guard.proxy.crowd import room\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (120, 300))\n"
        "print(room(4096), room(10), resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "100 10 (300, 300)"
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == soft
