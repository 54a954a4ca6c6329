"""A record is one line of printable ASCII, strict to read, bounded, and says when it was shortened."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.audit import record
from guard.model import Json

SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUE = st.recursive(SCALAR, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
FIELDS = st.dictionaries(st.text(min_size=1).filter(lambda name: name not in record._ORDER), VALUE, max_size=4)


def _stored(fields: dict[str, Json]) -> bytes:
    return record.chain(record.line(7, 1.7e9, 1.5, "b_1", event="call.rejected", fields=fields), 0)[0]


@settings(max_examples=60, deadline=None)
@given(FIELDS)
def test_every_field_comes_back_through_a_strict_reader(fields: dict[str, Json]) -> None:
    stored = _stored(fields)
    entry, crc = record.read("0001", stored[:-1])
    assert stored.endswith(b"\n")
    assert all(0x20 <= byte <= 0x7E for byte in stored[:-1])
    assert crc == record.crc_of(stored[:-1], 0)
    assert (entry.seq, entry.event) == (7, "call.rejected")
    if not any("\ud800" <= char <= "\udfff" for char in json.dumps(fields, ensure_ascii=False)):
        assert {name: entry.fields[name] for name in fields} == fields


@settings(max_examples=15, deadline=None)
@given(FIELDS, st.sampled_from(["x", "é", "\x7f", "\ud800", "\U0001f600", '"']), st.integers(3_000, 5_000))
def test_a_giant_field_is_shortened_and_named(fields: dict[str, Json], char: str, size: int) -> None:
    stored = _stored({"who": "robot", "big": {"b": char * (size * 6)}} | fields)
    entry, _ = record.read("0001", stored[:-1])
    assert len(stored) <= record.LIMIT
    assert "truncated" in entry.fields


def test_small_fields_survive_beside_a_giant_one() -> None:
    entry, _ = record.read("0001", _stored({"principal": "robot", "args": {"b": "x" * 3_000_000}, "tool": "t"})[:-1])
    assert (entry.text("principal"), entry.text("tool")) == ("robot", "t")
    assert entry.fields["truncated"] == ["/args/b"]


@pytest.mark.parametrize(
    "fields",
    [
        {str(n): "x" * 60 for n in range(3000)},
        {"deep": [[[["a" * 50] * 50] * 50] * 3]},
        {"n" * 50_000: 1},
    ],
)
def test_any_shape_of_too_much_fits_in_the_end(fields: dict[str, Json]) -> None:
    stored = _stored(fields)
    assert len(stored) <= record.LIMIT
    record.read("0001", stored[:-1])


def test_control_characters_never_stand_raw_in_a_line() -> None:
    nasty = "".join(map(chr, range(0x20))) + "\x7f\x80\x9b\u2028\u202e\x1b]0;x\x07"
    stored = _stored({nasty: nasty, "list": [nasty]})
    assert all(0x20 <= byte <= 0x7E for byte in stored[:-1])
    assert record.read("0001", stored[:-1])[0].fields[nasty] == nasty


def test_an_event_outside_the_closed_set_is_refused() -> None:
    with pytest.raises(ValueError, match="no such event"):
        record.line(0, 1.0, 1.0, "b", event="call.laundered", fields={})


@pytest.mark.parametrize("name", ["seq", "time", "event", "crc", "boot_id", "mono", "truncated"])
def test_a_field_cannot_pose_as_one_of_the_record_s_own(name: str) -> None:
    with pytest.raises(ValueError, match="reserved"):
        record.line(0, 1.0, 1.0, "b", event="call.received", fields={name: 1})


def test_a_number_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        _stored({"score": float("nan")})


@given(st.floats(0, 4e9), st.floats(0, 4e9))
def test_texts_of_times_sort_as_the_times_do(one: float, other: float) -> None:
    earlier, later = sorted((one, other))
    assert record.rfc3339(earlier) <= record.rfc3339(later)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[" * 9000,
        b'{"seq":1,"seq":1,"time":"2025-01-01T00:00:00.000000Z","event":"call.received","crc":"00000000"}',
        b'{"seq":1,"time":"2025-01-01T00:00:00.000000Z","event":"call.received","x":NaN,"crc":"00000000"}',
        b'{"seq":1,"time":"yesterday","event":"call.received","crc":"00000000"}',
        b'{"seq":true,"time":"2025-01-01T00:00:00.000000Z","event":"call.received","crc":"00000000"}',
        b'{"seq":1,"time":"2025-01-01T00:00:00.000000Z","event":"call.laundered","crc":"00000000"}',
        b'{"seq":1,"time":"2025-01-01T00:00:00.000000Z","event":"call.received","x":"\x1b","crc":"00000000"}',
        b'{"a":' * 3000 + b'1,"crc":"00000000"}',
    ],
)
def test_what_is_no_record_is_refused_in_words(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(it|a member|seq|NaN)"):
        record.read("0001", line)


def test_every_event_has_the_form_noun_verb_and_a_meaning() -> None:
    for event, meaning in record.EVENTS.items():
        assert event.count(".") == 1
        assert meaning[0].islower()
        assert not meaning.endswith(".")
