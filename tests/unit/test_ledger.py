"""What is written stays written, what cannot be written is refused, and what somebody changed is found."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from guard import faults
from guard.audit import lane as lane_module
from guard.audit import record
from guard.audit.lane import LaneFile
from guard.audit.ledger import FileLedger, _followed
from guard.audit.verify import verify
from guard.errors import LedgerUnavailableError
from tests.unit.ledger_world import HandClock, MemoryLanes, events_of, file_of, lines_of, root_of

CALL = {"principal": "robot", "server": "vault", "tool": "read"}


@pytest.fixture
def lanes() -> MemoryLanes:
    return MemoryLanes()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def _arm(monkeypatch: pytest.MonkeyPatch, fault: str, while_exists: Path | None = None) -> None:
    """Arm a fault point as the environment does at start, for this test only."""
    monkeypatch.setenv("GUARD_TESTING", "1")
    monkeypatch.setenv("GUARD_FAULT", fault)
    monkeypatch.setenv("GUARD_FAULT_FILE", str(while_exists or ""))
    for name in ("_armed", "_file"):
        monkeypatch.setattr(faults, name, getattr(faults, name))
    monkeypatch.setattr(faults, "_passed", type(faults._passed)())
    faults.arm()


def _write(ledger: FileLedger, count: int) -> None:
    for number in range(count):
        ledger.append("call.rejected", CALL | {"n": number})


# ------------------------------------------------------------------ one lane, one writer


def test_records_are_numbered_from_zero_and_verify(tmp_path: Path, lanes: MemoryLanes, clock: HandClock) -> None:
    ledger = FileLedger.open(tmp_path, lanes, clock)
    assert [ledger.append("call.rejected", CALL) for _ in range(5)] == [0, 1, 2, 3, 4]
    ledger.close()
    report = verify(tmp_path, lanes.all())
    assert report.ok, report.text()
    assert report.lanes[0].records == report.lanes[0].sealed == 6
    assert events_of(tmp_path)[-1] == "ledger.sealed"


def test_only_the_owner_may_read_the_ledger(tmp_path: Path, lanes: MemoryLanes, clock: HandClock) -> None:
    FileLedger.open(tmp_path / "state", lanes, clock).close()
    for path in (tmp_path / "state").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_every_living_process_has_a_lane_of_its_own_and_free_ones_are_used_again(
    tmp_path: Path, lanes: MemoryLanes, clock: HandClock
) -> None:
    first, second = (FileLedger.open(tmp_path, lanes, clock) for _ in range(2))
    assert (first.lane, second.lane) == ("0001", "0002")
    _write(first, 2)
    first.close()
    again = FileLedger.open(tmp_path, lanes, clock)
    assert again.lane == "0001"
    assert again.append("call.rejected", CALL) == 3
    again.close()
    second.close()
    assert verify(tmp_path, lanes.all()).ok


def test_a_session_that_wrote_nothing_leaves_nothing(tmp_path: Path, lanes: MemoryLanes, clock: HandClock) -> None:
    FileLedger.open(tmp_path, lanes, clock).close()
    assert lines_of(tmp_path) == []


def test_a_closed_ledger_takes_nothing(tmp_path: Path, lanes: MemoryLanes, clock: HandClock) -> None:
    ledger = FileLedger.open(tmp_path, lanes, clock)
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerUnavailableError):
        ledger.append("call.rejected", CALL)


def test_threads_that_write_at_once_leave_one_unbroken_sequence(
    tmp_path: Path, lanes: MemoryLanes, clock: HandClock
) -> None:
    ledger = FileLedger.open(tmp_path, lanes, clock)
    threads = [threading.Thread(target=_write, args=(ledger, 50)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.close()
    report = verify(tmp_path, lanes.all())
    assert report.ok, report.text()
    assert report.lanes[0].records == 401


# ------------------------------------------------------------------ time


def test_a_clock_set_back_is_on_record_and_no_damage(tmp_path: Path, lanes: MemoryLanes, clock: HandClock) -> None:
    ledger = FileLedger.open(tmp_path, lanes, clock)
    _write(ledger, 1)
    clock.wall -= 3600
    _write(ledger, 1)
    clock.wall += 7200
    _write(ledger, 1)
    ledger.close()
    assert events_of(tmp_path).count("clock.stepped") == 2
    assert verify(tmp_path, lanes.all()).ok


def test_a_clock_set_back_between_two_processes_is_on_record(
    tmp_path: Path, lanes: MemoryLanes, clock: HandClock
) -> None:
    for _ in range(2):
        ledger = FileLedger.open(tmp_path, lanes, clock)
        _write(ledger, 1)
        ledger.close()
        clock.wall -= 60
    assert events_of(tmp_path) == ["call.rejected", "ledger.sealed", "clock.stepped", "call.rejected", "ledger.sealed"]
    assert verify(tmp_path, lanes.all()).ok


def test_time_between_two_processes_is_no_step_of_the_clock(
    tmp_path: Path, lanes: MemoryLanes, clock: HandClock
) -> None:
    for _ in range(2):
        ledger = FileLedger.open(tmp_path, lanes, clock)
        _write(ledger, 1)
        ledger.close()
        clock.wall += 86_400
        clock.monotonic = 5.0
    assert "clock.stepped" not in events_of(tmp_path)


# ------------------------------------------------------------------ crashes and old copies


def test_a_torn_last_line_is_cut_and_the_loss_is_on_record(
    tmp_path: Path, lanes: MemoryLanes, clock: HandClock
) -> None:
    ledger = FileLedger.open(tmp_path, lanes, clock)
    _write(ledger, 3)
    ledger.close()
    with file_of(tmp_path).open("ab") as file:
        file.write(b'{"seq":4,"time":"20')
    assert verify(tmp_path, lanes.all()).lanes[0].torn == 19
    FileLedger.open(tmp_path, lanes, clock).close()
    recovered, _ = record.read("0001", lines_of(tmp_path)[4][:-1])
    assert (recovered.event, recovered.fields["lost_bytes"]) == ("ledger.recovered", 19)
    assert verify(tmp_path, lanes.all()).ok


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_a_file_shorter_than_the_store_knows_is_not_opened(
    tmp_path: Path, lanes: MemoryLanes, clock: HandClock, keep: int
) -> None:
    ledger = FileLedger.open(tmp_path, lanes, clock)
    _write(ledger, 4)
    ledger.close()
    file_of(tmp_path).write_bytes(b"".join(lines_of(tmp_path)[:keep]))
    with pytest.raises(LedgerUnavailableError, match="guard audit verify"):
        FileLedger.open(tmp_path, lanes, clock)
    assert len(lines_of(tmp_path)) == keep


def test_a_rewritten_file_is_not_opened(tmp_path: Path, lanes: MemoryLanes, clock: HandClock) -> None:
    ledger = FileLedger.open(tmp_path, lanes, clock)
    _write(ledger, 4)
    ledger.close()
    other = FileLedger.open(tmp_path / "forged", MemoryLanes(), clock)
    _write(other, 4)
    other.close()
    file_of(tmp_path).write_bytes(file_of(tmp_path / "forged").read_bytes())
    with pytest.raises(LedgerUnavailableError, match="guard audit verify"):
        FileLedger.open(tmp_path, lanes, clock)


def test_a_lane_that_vanished_stops_every_new_process(tmp_path: Path, lanes: MemoryLanes, clock: HandClock) -> None:
    ledger = FileLedger.open(tmp_path, lanes, clock)
    _write(ledger, 1)
    ledger.close()
    file_of(tmp_path).unlink()
    with pytest.raises(LedgerUnavailableError, match="guard audit verify"):
        FileLedger.open(tmp_path, lanes, clock)


def test_a_planted_lane_is_never_adopted(tmp_path: Path, lanes: MemoryLanes, clock: HandClock) -> None:
    other = FileLedger.open(tmp_path, MemoryLanes(), clock)
    _write(other, 2)
    other.close()
    ledger = FileLedger.open(tmp_path, lanes, clock)
    assert ledger.lane == "0002"
    ledger.close()
    assert [bad.lane for bad in verify(tmp_path, lanes.all()).bad] == ["0001"]


_WRITER = """
import sys
from pathlib import Path
from guard.audit.lane import LaneFile
from guard.audit.ledger import FileLedger, _followed
from guard.clock import SystemClock
from tests.unit.ledger_world import MemoryLanes
import anyio

async def main():
    ledger = FileLedger.open(Path(sys.argv[1]), MemoryLanes(), SystemClock())
    while True:
        seq = await ledger.append_durably("call.rejected", {"x": "y" * 300})
        ledger.append("call.rejected", {"x": "z"})
        print(seq, flush=True)

anyio.run(main)
"""


def test_what_was_acknowledged_survives_a_kill_and_the_lane_goes_on(tmp_path: Path, lanes: MemoryLanes) -> None:
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    acknowledged = -1
    for line in writer.stdout:
        acknowledged = int(line)
        if acknowledged >= 40:
            writer.send_signal(signal.SIGKILL)
            break
    writer.wait()
    writer.stdout.close()
    kept = lines_of(tmp_path)[: acknowledged + 1]
    assert len(kept) == acknowledged + 1
    lanes.put(lane_module.Lane(name="0001", size=len(kept), root=root_of(kept)))
    ledger = FileLedger.open(tmp_path, lanes, HandClock())
    assert ledger.lane == "0001"
    ledger.append("call.rejected", CALL)
    ledger.close()
    report = verify(tmp_path, lanes.all())
    assert report.ok, report.text()


# ------------------------------------------------------------------ what has happened already


def test_a_noted_record_is_written_with_the_next_one_and_in_order(
    tmp_path: Path, lanes: MemoryLanes, clock: HandClock
) -> None:
    ledger = FileLedger.open(tmp_path, lanes, clock)
    assert ledger.note("call.concluded", CALL) == 0
    assert not lines_of(tmp_path)
    assert ledger.append("call.rejected", CALL) == 1
    assert events_of(tmp_path) == ["call.concluded", "call.rejected"]
    ledger.note("call.concluded", CALL)
    ledger.close()
    assert verify(tmp_path, lanes.all()).ok
    assert events_of(tmp_path)[2:] == ["call.concluded", "ledger.sealed"]


@pytest.mark.anyio
async def test_a_noted_record_reaches_the_disk_by_itself(tmp_path: Path, lanes: MemoryLanes, clock: HandClock) -> None:
    ledger = FileLedger.open(tmp_path, lanes, clock)
    async with anyio.create_task_group() as group:
        await group.start(ledger.run)
        ledger.note("call.concluded", CALL)
        with anyio.fail_after(15):
            while not ((known := lanes.get("0001")) and known.size):
                await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    assert events_of(tmp_path) == ["call.concluded"]
    ledger.close()


@pytest.mark.parametrize(
    ("event", "fields", "waits"),
    [
        ("decision.made", {"decision": "permit"}, False),
        ("decision.made", {"decision": "deny"}, False),
        ("decision.made", {"decision": "challenge"}, True),
        ("grant.consumed", {}, True),
        ("proof.accepted", {"missing": ""}, True),
        ("proof.accepted", {"missing": "consent"}, False),
        ("call.concluded", {}, False),
        ("call.rejected", {}, False),
    ],
)
def test_only_what_another_record_follows_waits_for_its_fsync(
    event: str, fields: dict[str, str], *, waits: bool
) -> None:
    assert _followed(event, fields) is waits


def test_notes_that_nothing_follows_do_not_pile_up_in_memory(
    tmp_path: Path, lanes: MemoryLanes, clock: HandClock
) -> None:
    ledger = FileLedger.open(tmp_path, lanes, clock)
    for number in range(20):
        ledger.note("call.concluded", CALL | {"x": "y" * 8000, "n": number})
    assert len(lines_of(tmp_path)) >= 8
    ledger.close()
    assert verify(tmp_path, lanes.all()).ok


def test_a_note_that_a_full_disk_refuses_is_written_once_there_is_room(
    tmp_path: Path, lanes: MemoryLanes, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = tmp_path / "full"
    _arm(monkeypatch, "ledger.append:enospc", full)
    ledger = FileLedger.open(tmp_path, lanes, clock)
    ledger.note("call.concluded", CALL)
    full.touch()
    with pytest.raises(LedgerUnavailableError):
        ledger.append("call.rejected", CALL)
    full.unlink()
    assert ledger.append("call.rejected", CALL) == 1
    ledger.close()
    assert verify(tmp_path, lanes.all()).ok
    assert events_of(tmp_path)[0] == "call.concluded"


@pytest.mark.anyio
async def test_a_note_survives_a_failed_fsync(
    tmp_path: Path, lanes: MemoryLanes, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    _arm(monkeypatch, "ledger.fsync:error", broken)
    ledger = FileLedger.open(tmp_path, lanes, clock)
    await ledger.append_durably("call.rejected", CALL)
    ledger.note("call.concluded", CALL)
    broken.touch()
    with pytest.raises(LedgerUnavailableError):
        await ledger.append_durably("call.rejected", CALL)
    broken.unlink()
    assert await ledger.append_durably("call.rejected", CALL) == 3
    ledger.close()
    report = verify(tmp_path, lanes.all())
    assert report.ok, report.text()


def test_fields_that_many_records_share_are_part_of_each(tmp_path: Path, lanes: MemoryLanes, clock: HandClock) -> None:
    ledger = FileLedger.open(tmp_path, lanes, clock)
    for number in range(2):
        ledger.append("call.rejected", {"n": number}, CALL)
    ledger.append("call.rejected", {}, {"long": "x" * 20_000, "short": "y"})
    ledger.append("call.rejected", {}, {})
    with pytest.raises(ValueError, match="twice"):
        ledger.append("call.rejected", {"tool": "other"}, CALL)
    with pytest.raises(ValueError, match="reserved"):
        ledger.append("call.rejected", {}, {"seq": 1})
    ledger.close()
    assert verify(tmp_path, lanes.all()).ok
    read = [record.read("0001", line[:-1])[0].fields for line in lines_of(tmp_path)]
    assert [(fields["n"], fields["tool"]) for fields in read[:2]] == [(0, "read"), (1, "read")]
    assert (read[2]["short"], read[2]["truncated"]) == ("y", ["/long"])


# ------------------------------------------------------------------ disks that refuse


def test_a_full_disk_refuses_records_leaves_no_half_line_and_recovers(
    tmp_path: Path, lanes: MemoryLanes, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = tmp_path / "full"
    _arm(monkeypatch, "ledger.append:enospc", full)
    ledger = FileLedger.open(tmp_path, lanes, clock)
    _write(ledger, 2)
    full.touch()
    for _ in range(3):
        with pytest.raises(LedgerUnavailableError) as refused:
            ledger.append("call.rejected", CALL)
        assert isinstance(refused.value.__cause__, OSError)
        assert refused.value.__cause__.errno == errno.ENOSPC
    assert len(lines_of(tmp_path)) == 2
    full.unlink()
    assert ledger.append("call.rejected", CALL) == 2
    ledger.close()
    assert verify(tmp_path, lanes.all()).ok


_FULL = """
import resource, signal, sys
from pathlib import Path
from guard.audit.lane import LaneFile
from guard.audit.ledger import FileLedger, _followed
from guard.errors import LedgerUnavailableError
from guard.clock import SystemClock
from tests.unit.ledger_world import MemoryLanes, file_of

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
state, lanes = Path(sys.argv[1]), MemoryLanes()
ledger = FileLedger.open(state, lanes, SystemClock())
ledger.append("call.rejected", {"x": "y" * 1000})
size = file_of(state).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
try:
    ledger.append("call.rejected", {"x": "y" * 1000})
except LedgerUnavailableError as error:
    print("refused", file_of(state).stat().st_size == size, "bytes fit" in error.detail)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(ledger.append("call.rejected", {"x": "y" * 1000}))
ledger.close()
"""


def test_a_write_that_fits_only_in_part_is_taken_back(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(tmp_path)], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.splitlines() == ["refused True True", "1"]
    assert events_of(tmp_path) == ["call.rejected", "call.rejected", "ledger.sealed"]


@pytest.mark.anyio
async def test_after_a_failed_fsync_nothing_is_acknowledged_until_the_tail_is_written_again(
    tmp_path: Path, lanes: MemoryLanes, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    _arm(monkeypatch, "ledger.fsync:error", broken)
    ledger = FileLedger.open(tmp_path, lanes, clock)
    await ledger.append_durably("call.rejected", CALL)
    descriptor = ledger._lane._file
    known = lanes.get("0001")
    broken.touch()
    with pytest.raises(LedgerUnavailableError):
        await ledger.append_durably("call.rejected", CALL)
    with pytest.raises(LedgerUnavailableError):
        ledger.append("call.rejected", CALL)
    with pytest.raises(LedgerUnavailableError):
        await ledger.append_durably("call.rejected", CALL)
    assert lanes.get("0001") == known
    taken = [os.open(tmp_path, os.O_RDONLY)]  # the descriptor that was given up among them, so a re-use would show
    while taken[-1] < descriptor:
        taken.append(os.open(tmp_path, os.O_RDONLY))
    broken.unlink()
    assert await ledger.append_durably("call.rejected", CALL) == 2
    for opened in taken:
        os.close(opened)
    assert taken[-1] == descriptor
    ledger.close()
    report = verify(tmp_path, lanes.all())
    assert report.ok, report.text()


def test_a_tail_that_does_not_fit_on_the_disk_is_not_taken_for_written(
    tmp_path: Path, lanes: MemoryLanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    _arm(monkeypatch, "ledger.fsync:error@1")
    lane = LaneFile.take(tmp_path, lanes)
    lane.resume(None)
    lane.write(b'{"n":1}')
    mark = lane.mark()
    lane.hold(b'{"n":2}')  # while the disk is asked
    with pytest.raises(LedgerUnavailableError):
        lane.sync(mark)
    written, whole = file_of(tmp_path).read_bytes(), os.pwrite
    with monkeypatch.context() as full:  # a full disk takes a part, and says so by the count alone
        full.setattr(lane_module.os, "pwrite", lambda file, data, at: whole(file, data[:-5], at))
        with pytest.raises(LedgerUnavailableError):
            lane.restore()
    assert lane.suspect
    lane.restore()
    lane.close()
    assert file_of(tmp_path).read_bytes().startswith(written + b'{"n":2,')
    assert root_of(lines_of(tmp_path)) == lane.tree.root().hex()


@pytest.mark.anyio
async def test_a_tail_that_changed_under_a_failed_fsync_stops_the_ledger(
    tmp_path: Path, lanes: MemoryLanes, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    _arm(monkeypatch, "ledger.fsync:error@1")
    ledger = FileLedger.open(tmp_path, lanes, clock)
    with pytest.raises(LedgerUnavailableError):
        await ledger.append_durably("call.rejected", CALL)
    file_of(tmp_path).write_bytes(file_of(tmp_path).read_bytes().replace(b"robot", b"human"))
    with pytest.raises(LedgerUnavailableError, match="guard audit verify"):
        await ledger.append_durably("call.rejected", CALL)
    with pytest.raises(LedgerUnavailableError):
        ledger.close()


@pytest.mark.anyio
async def test_a_ledger_moved_or_cut_by_others_while_it_runs_is_noticed(
    tmp_path: Path, lanes: MemoryLanes, clock: HandClock
) -> None:
    ledger = FileLedger.open(tmp_path, lanes, clock)
    await ledger.append_durably("call.rejected", CALL)
    file_of(tmp_path).rename(tmp_path / "records.jsonl.1")
    with pytest.raises(LedgerUnavailableError):
        await ledger.append_durably("call.rejected", CALL)
    with pytest.raises(LedgerUnavailableError):
        ledger.close()


@pytest.mark.anyio
async def test_a_disk_that_hangs_refuses_within_the_patience_and_comes_back(
    tmp_path: Path, lanes: MemoryLanes, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guard.audit.ledger.PATIENCE", 0.2)
    ledger = FileLedger.open(tmp_path, lanes, clock)
    answers = threading.Event()
    sync = os.fdatasync

    def hang(descriptor: int) -> None:
        answers.wait()
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", hang)
    with anyio.fail_after(30):
        with pytest.raises(LedgerUnavailableError):
            await ledger.append_durably("call.rejected", CALL)
        with pytest.raises(LedgerUnavailableError):
            ledger.append("call.rejected", CALL)
        answers.set()
        monkeypatch.setattr("guard.audit.ledger.PATIENCE", 30.0)  # what a real disk may need
        while ledger._flushing.locked():
            await anyio.lowlevel.checkpoint()
        assert await ledger.append_durably("call.rejected", CALL) == 1
    ledger.close()
    assert verify(tmp_path, lanes.all()).ok


# ------------------------------------------------------------------ durability, shared


@pytest.mark.anyio
async def test_a_durable_record_is_vouched_for_by_the_store_when_it_is_acknowledged(
    tmp_path: Path, lanes: MemoryLanes, clock: HandClock
) -> None:
    ledger = FileLedger.open(tmp_path, lanes, clock)
    _write(ledger, 3)
    seq = await ledger.append_durably("call.rejected", CALL)
    known = lanes.get("0001")
    assert known is not None
    assert known.size == seq + 1
    assert known.root == root_of(lines_of(tmp_path))
    ledger.close()


@pytest.mark.anyio
async def test_callers_who_wait_together_share_an_fsync(
    tmp_path: Path, lanes: MemoryLanes, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = FileLedger.open(tmp_path, lanes, clock)
    calls: list[int] = []
    sync = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: (calls.append(descriptor), sync(descriptor)))
    numbers: set[int] = set()

    async def write() -> None:
        numbers.add(await ledger.append_durably("call.rejected", CALL))

    async with anyio.create_task_group() as group:
        for _ in range(64):
            group.start_soon(write)
    assert numbers == set(range(64))
    assert len(calls) < 8
    ledger.close()


@pytest.mark.anyio
async def test_a_caller_who_leaves_does_not_take_the_others_fsync_along(
    tmp_path: Path, lanes: MemoryLanes, clock: HandClock
) -> None:
    ledger = FileLedger.open(tmp_path, lanes, clock)
    kept: list[int] = []

    async def leave() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await ledger.append_durably("call.rejected", CALL)

    async def stay() -> None:
        kept.append(await ledger.append_durably("call.rejected", CALL))

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(leave)
            group.start_soon(stay)
    assert len(kept) == 5
    ledger.close()
    assert verify(tmp_path, lanes.all()).ok


@pytest.mark.anyio
@pytest.mark.parametrize("from_thread", [False, True])
async def test_the_background_brings_records_nobody_waits_for_to_the_store(
    tmp_path: Path, lanes: MemoryLanes, clock: HandClock, from_thread: bool
) -> None:
    ledger = FileLedger.open(tmp_path, lanes, clock)
    with anyio.fail_after(15):
        async with anyio.create_task_group() as group:
            await group.start(ledger.run)
            for size in (3, 6):
                if from_thread:
                    await anyio.to_thread.run_sync(_write, ledger, 3)
                else:
                    _write(ledger, 3)
                while (known := lanes.get("0001")) is None or known.size < size:
                    await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
    ledger.close()
    assert verify(tmp_path, lanes.all()).ok


@pytest.mark.anyio
async def test_the_background_lifts_the_refusal_once_the_disk_answers_again(
    tmp_path: Path, lanes: MemoryLanes, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guard.audit.ledger.RETRY", 0.01)
    broken = tmp_path / "broken"
    _arm(monkeypatch, "ledger.fsync:error", broken)
    broken.touch()
    ledger = FileLedger.open(tmp_path, lanes, clock)
    with anyio.fail_after(15):
        async with anyio.create_task_group() as group:
            await group.start(ledger.run)
            _write(ledger, 1)
            while not ledger._trouble:
                await anyio.lowlevel.checkpoint()
            with pytest.raises(LedgerUnavailableError):
                _write(ledger, 1)
            broken.unlink()
            while ledger._trouble:
                await anyio.lowlevel.checkpoint()
            _write(ledger, 1)
            group.cancel_scope.cancel()
    ledger.close()
    assert verify(tmp_path, lanes.all()).ok
