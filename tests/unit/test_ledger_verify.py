"""Any change to a sealed ledger is found and its place named; an honest ledger of any shape verifies."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.audit import record
from guard.audit.ledger import FileLedger
from guard.audit.verify import Report, verify
from guard.model import Json
from guard.ports import Lane
from tests.unit.ledger_world import HandClock, MemoryLanes, file_of, lines_of, root_of

CALL: Mapping[str, Json] = {"call_id": "k_1", "principal": "robot", "server": "vault", "tool": "delete"}
IDS: Mapping[str, Json] = {"challenge_id": "c_1", "grant_id": "g_1"}
STEP_UP: Sequence[tuple[str, Mapping[str, Json]]] = (
    ("decision.made", CALL | {"decision": "challenge"}),
    ("challenge.opened", CALL | {"challenge_id": "c_1"}),
    ("proof.accepted", {"challenge_id": "c_1", "proof": {"class": "consent"}}),
    ("call.forwarded", CALL | IDS | {"phase": "intent"}),
    ("grant.consumed", CALL | IDS),
    ("call.concluded", CALL | IDS | {"phase": "outcome", "outcome": "ok"}),
)


def _written(state: Path, story: Sequence[tuple[str, Mapping[str, Json]]]) -> MemoryLanes:
    lanes = MemoryLanes()
    ledger = FileLedger.open(state, lanes, HandClock())
    for event, fields in story:
        ledger.append(event, fields)
    ledger.close()
    return lanes


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MemoryLanes]:
    """A ledger of seven records, sealed; tests change copies of it."""
    state = tmp_path_factory.mktemp("sealed")
    return state, _written(state, STEP_UP)


def _changed(sealed: tuple[Path, MemoryLanes], state: Path, change: Callable[[list[bytes]], Sequence[bytes]]) -> Report:
    shutil.copytree(sealed[0], state, dirs_exist_ok=True)
    file_of(state).write_bytes(b"".join(change(lines_of(state))))
    return verify(state, sealed[1].all())


def _relinked(lines: Sequence[bytes]) -> list[bytes]:
    """The same records, numbered and checksummed as if they had been written like this."""
    made, crc = list[bytes](), 0
    for seq, line in enumerate(lines):
        body = line[: -len(b',"crc":"00000000"}\n')] + b"}"
        body = b'{"seq":%d' % seq + body[body.index(b",") :]
        stored, crc = record.chain(body, crc)
        made.append(stored)
    return made


def test_an_untouched_step_up_verifies(sealed: tuple[Path, MemoryLanes]) -> None:
    report = verify(sealed[0], sealed[1].all())
    assert report.ok, report.text()
    assert not report.unfinished
    assert report.json()["ok"] is True


def test_any_flipped_byte_is_found_in_its_own_record(sealed: tuple[Path, MemoryLanes], tmp_path: Path) -> None:
    lines = lines_of(sealed[0])
    for seq, line in enumerate(lines):
        for at in range(0, len(line) - 1, 7):
            flipped = line[:at] + bytes([line[at] ^ 1]) + line[at + 1 :]
            report = _changed(sealed, tmp_path, lambda all_, s=seq, f=flipped: [*all_[:s], f, *all_[s + 1 :]])
            assert not report.ok, (seq, at)
            assert report.bad[0].seq == seq, (seq, at, report.text())


def test_a_line_feed_that_was_changed_is_found(sealed: tuple[Path, MemoryLanes], tmp_path: Path) -> None:
    report = _changed(sealed, tmp_path, lambda lines: [lines[0], lines[1][:-1] + b"\x0b", *lines[2:]])
    assert report.bad[0].seq == 1


@pytest.mark.parametrize(
    ("change", "seq"),
    [
        (lambda lines: [*lines[:2], *lines[3:]], 2),
        (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], 2),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], 3),
        (lambda lines: [*lines[:4], lines[1], *lines[4:]], 4),
        (lambda lines: lines[1:], 0),
        (lambda lines: lines[:-3], 4),
        (lambda lines: [*lines[:-1], lines[-1][:-20]], 6),
        (lambda _: [], 0),
        (lambda lines: [line.replace(b"\n", b"\r\n") for line in lines], 0),
    ],
    ids=["drop", "swap", "duplicate", "insert", "behead", "cut", "tear", "empty", "crlf"],
)
def test_every_change_of_lines_is_named(
    sealed: tuple[Path, MemoryLanes], tmp_path: Path, change: Callable[[list[bytes]], Sequence[bytes]], seq: int
) -> None:
    report = _changed(sealed, tmp_path, change)
    assert (report.bad[0].lane, report.bad[0].seq) == ("0001", seq)
    assert f"lane 0001, record {seq}" in report.text().splitlines()[0]


@pytest.mark.parametrize("drop", range(7))
def test_a_rewrite_that_is_consistent_in_itself_is_found_by_the_store_s_root(
    sealed: tuple[Path, MemoryLanes], tmp_path: Path, drop: int
) -> None:
    report = _changed(sealed, tmp_path, lambda lines: _relinked([*lines[:drop], *lines[drop + 1 :]]))
    assert not report.ok
    longer = _changed(sealed, tmp_path, lambda lines: _relinked([*lines[:drop], lines[drop], *lines[drop:]]))
    assert not longer.ok


def test_a_lane_that_is_missing_or_unknown_to_the_store_is_named(
    sealed: tuple[Path, MemoryLanes], tmp_path: Path
) -> None:
    shutil.copytree(sealed[0], tmp_path, dirs_exist_ok=True)
    file_of(tmp_path).parent.rename(tmp_path / "ledger" / "0007")
    report = verify(tmp_path, sealed[1].all())
    assert [(bad.lane, bad.seq) for bad in report.bad] == [("0001", 0), ("0007", 0)]


def test_an_old_copy_put_back_is_found(tmp_path: Path) -> None:
    lanes, clock = MemoryLanes(), HandClock()
    for round_ in range(2):
        ledger = FileLedger.open(tmp_path, lanes, clock)
        ledger.append("call.rejected", {})
        ledger.close()
        if not round_:
            old = file_of(tmp_path).read_bytes()
    file_of(tmp_path).write_bytes(old)
    assert verify(tmp_path, lanes.all()).bad[0].seq == 2


def test_records_the_store_has_not_heard_of_are_counted_and_still_read(
    sealed: tuple[Path, MemoryLanes], tmp_path: Path
) -> None:
    shutil.copytree(sealed[0], tmp_path, dirs_exist_ok=True)
    lines = lines_of(tmp_path)
    head = Lane(name="0001", size=4, root=root_of(lines[:4]))
    report = verify(tmp_path, [head])
    assert report.ok, report.text()
    assert (report.lanes[0].records, report.lanes[0].sealed) == (7, 4)
    file_of(tmp_path).write_bytes(b"".join([*lines[:5], lines[5].replace(b'"ok"', b'"no"'), lines[6]]))
    assert verify(tmp_path, [head]).bad[0].seq == 5


@pytest.mark.parametrize(
    ("story", "seq", "why"),
    [
        ((STEP_UP[3],), 0, "without a decision"),
        ((STEP_UP[0], ("call.forwarded", CALL)), 1, "without a grant"),
        ((*STEP_UP, ("grant.consumed", {"call_id": "k_2"} | IDS)), 6, "second time"),
        ((STEP_UP[0], STEP_UP[1], *STEP_UP[3:]), 3, "before anything was proven"),
        ((STEP_UP[0], *STEP_UP[2:]), 1, "not opened before"),
        ((*STEP_UP[:4], STEP_UP[5]), 4, "not spent before"),
        ((*STEP_UP[:3], *STEP_UP[4:]), 4, "without its intent"),
        ((*STEP_UP[:4], STEP_UP[3]), 4, "a second time"),
        ((("call.concluded", CALL | {"outcome": "ok"}),), 0, "without a decision"),
        ((("decision.made", CALL | {"decision": "deny"}), ("call.forwarded", CALL)), 1, "without a decision"),
    ],
)
def test_records_that_cannot_have_happened_are_named_although_their_lane_is_whole(
    tmp_path: Path, story: Sequence[tuple[str, Mapping[str, Json]]], seq: int, why: str
) -> None:
    report = verify(tmp_path, _written(tmp_path, story).all())
    assert any(bad.seq == seq and why in bad.why for bad in report.bad), report.text()


@pytest.mark.parametrize(("kept", "unfinished"), [(3, 0), (4, 1), (5, 1), (6, 0)])
def test_a_crash_between_two_steps_is_no_damage_and_an_open_intent_is_reported(
    tmp_path: Path, kept: int, unfinished: int
) -> None:
    report = verify(tmp_path, _written(tmp_path, STEP_UP[:kept]).all())
    assert report.ok, report.text()
    assert len(report.unfinished) == unfinished


def test_the_loser_of_a_race_for_a_grant_may_win_the_next(tmp_path: Path) -> None:
    lost = ("call.concluded", CALL | IDS | {"outcome": "refused"})
    story = (*STEP_UP[:4], lost, *STEP_UP[3:])
    assert verify(tmp_path, _written(tmp_path, story).all()).ok


def test_a_proof_given_in_another_process_counts_by_time(tmp_path: Path) -> None:
    lanes, clock = MemoryLanes(), HandClock()
    serving, approving = (FileLedger.open(tmp_path, lanes, clock) for _ in range(2))
    for event, fields in STEP_UP:
        (approving if event == "proof.accepted" else serving).append(event, fields)
    for ledger in (serving, approving):
        ledger.close()
    assert verify(tmp_path, lanes.all()).ok


def test_a_proof_dated_before_its_challenge_is_found_across_lanes(tmp_path: Path) -> None:
    lanes, clock = MemoryLanes(), HandClock()
    approving = FileLedger.open(tmp_path, lanes, clock)
    approving.append(*STEP_UP[2])
    serving = FileLedger.open(tmp_path, lanes, clock)
    for event, fields in STEP_UP[:2]:
        serving.append(event, fields)
    for ledger in (serving, approving):
        ledger.close()
    assert [(bad.lane, bad.seq) for bad in verify(tmp_path, lanes.all()).bad] == [("0001", 0)]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_edit_of_a_sealed_file_goes_unnoticed(
    data: st.DataObject, sealed: tuple[Path, MemoryLanes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = file_of(sealed[0]).read_bytes()
    start = data.draw(st.integers(0, len(whole) - 1))
    end = data.draw(st.integers(start, min(len(whole), start + 40)))
    edited = whole[:start] + data.draw(st.binary(max_size=40)) + whole[end:]
    if edited.startswith(whole):
        return  # nothing that was sealed is changed
    state = tmp_path_factory.mktemp("edited")
    report = _changed(sealed, state, lambda _: [edited])
    assert not report.ok


@pytest.mark.parametrize("decision", ["challenge", "deny"])
def test_a_call_that_was_only_watched_may_run_on_that_record(tmp_path: Path, decision: str) -> None:
    watched: Mapping[str, Json] = CALL | {"watched": True}
    story = (("decision.made", watched | {"decision": decision}), ("call.concluded", watched | {"outcome": "ok"}))
    assert not verify(tmp_path, _written(tmp_path, story).all()).bad
