"""The strict reader: one reading for every text, or a refusal."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from guard.errors import WireError
from guard.reasons import Code
from guard.wire.strict import MAX_BYTES, MAX_MEMBERS, MAX_VALUES, read, spelled

SAFE = 2**53 - 1

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-SAFE, SAFE)
    | st.floats(allow_nan=False, allow_infinity=False, width=64).filter(lambda f: f == 0 or abs(f) > 1e-300)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
names = st.text(st.sampled_from("abcdefghij_é汉"), max_size=6)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=20
)


def refusal(raw: bytes | str, *, exact_integers: bool = False) -> WireError:
    with pytest.raises(WireError) as caught:
        read(raw.encode() if isinstance(raw, str) else raw, exact_integers=exact_integers)
    return caught.value


@given(values, st.booleans())
def test_what_is_accepted_equals_what_a_plain_reader_reads(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert read(text.encode()) == json.loads(text)


@given(st.binary(max_size=200))
@example(b"\xef\xbb\xbf{}")
@example(b'{"a":' * 5000)
@example(b"[" * 200_000)
@example(b'["' + b'\\"' * 300_000)
@example(b"1" * 5000)
@example(b'"\\')
def test_arbitrary_bytes_are_read_or_refused_and_nothing_else(raw: bytes) -> None:
    try:
        value = read(raw)
    except WireError:
        return
    assert value == json.loads(raw)


@given(values, st.data())
def test_a_mutated_text_is_read_as_a_plain_reader_would_or_refused(value: object, data: st.DataObject) -> None:
    raw = bytearray(json.dumps(value).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw)))
        raw[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from(
                [b"{", b"[", b'"', b"\\", b"\\ud800", b"1e400", b"NaN", b",", b":", b"\x00", b"\xff", b"9" * 20]
            )
        )
    try:
        seen = read(bytes(raw))
    except WireError:
        return
    assert seen == json.loads(bytes(raw))


anything = st.recursive(
    scalars | st.integers(-(2**70), 2**70),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("aA\u017fsS._é", max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(anything, st.booleans(), st.data())
def test_a_text_in_its_plainest_spelling_is_taken_for_nothing_but_what_reading_gives(
    value: object, ascii_only: bool, data: st.DataObject
) -> None:
    raw = bytearray(json.dumps(value, ensure_ascii=ascii_only, separators=(",", ":")).encode())
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(raw)))
        raw[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from([b"{", b"[", b'"', b"\\", b".0", b"e1", b"-", b"\xff", b" ", b"1", b'"a":1,', b'"A":1,'])
        )
    found = spelled(bytes(raw))
    if found is not None:
        assert repr(found) == repr(read(bytes(raw)))


@given(st.dictionaries(st.text("abc_", max_size=4), st.text() | st.integers(-SAFE, SAFE) | st.booleans(), max_size=5))
def test_what_clients_write_is_known_by_its_spelling(value: dict[str, object]) -> None:
    raw = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    assert spelled(raw) == value


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":1}',
        '{"a":1,"A":1}',
        '{"a":{"s":1,"\u017f":1}}',
        "[1.0]",
        "[1e0]",
        "[0.5]",
        "[-0]",
        "[9007199254740992]",
        "[18446744073709551616]",
        '["\\u0061"]',
        '["\\ud800"]',
        "[1, 2]",
        "[1]\n",
        "\ufeff[1]",
        "[" * 65 + "]" * 65,
        "[" + "1," * MAX_MEMBERS + "1]",
        "nul",
        "",
    ],
)
def test_every_other_spelling_has_to_be_read(text: str) -> None:
    assert spelled(text.encode()) is None


@given(names, values, values, values)
def test_a_member_named_twice_is_refused_at_any_depth(name: str, first: object, second: object, around: object) -> None:
    key = json.dumps(name)
    twin = "".join(f"\\u{unit:04x}" for unit in memoryview(name.encode("utf-16-le")).cast("H"))
    text = f'[{json.dumps(around)},{{"z":{{{key}:{json.dumps(first)},"{twin}":{json.dumps(second)}}}}}]'
    assert refusal(text).reason is Code.AMBIGUOUS


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("params", "Params"),
        ("params", "param\u017f"),
        ("key", "\u212aey"),
        ("name", "\uff4eame"),
        ("café", "cafe\u0301"),
    ],
)
def test_names_that_a_lenient_reader_takes_for_one_are_refused(one: str, other: str) -> None:
    assert refusal(json.dumps({"deep": [{one: 1, other: 2}]}, ensure_ascii=False)).reason is Code.AMBIGUOUS


@pytest.mark.parametrize(
    "number",
    [
        *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "0.0000001e-400", "-1E-999"),
        *("9007199254740992", "-9007199254740992", "9007199254740993.0", "9007199254740993e0", "12345678901234567890"),
        *("9" * 5000, "0." + "1" * 5000, "1e" + "9" * 5000),
    ],
)
def test_a_number_that_not_every_reader_holds_is_refused(number: str) -> None:
    assert refusal(f'{{"n":{number}}}').reason is Code.NUMBER


@pytest.mark.parametrize(
    ("number", "value"),
    [
        ("9007199254740991", SAFE),
        ("-9007199254740991", -SAFE),
        ("0", 0),
        ("-0", 0),
        ("0e99999", 0),
        ("0.000e-999", 0),
        ("1e21", 1e21),
        ("-2.5e-3", -0.0025),
        ("0.10000000000000001", 0.1),
        ("6.02214076e23", 6.02214076e23),
        ("1.7976931348623157e308", 1.7976931348623157e308),
        ("5e-324", 5e-324),
    ],
)
def test_a_number_that_every_reader_holds_is_accepted(number: str, value: float) -> None:
    assert read(number.encode()) == value


@pytest.mark.parametrize("spelling", ["1", "1.0", "1e0", "10e-1", "1.000", "0.1E+1"])
def test_spellings_of_an_integer_become_the_same_integer(spelling: str) -> None:
    value = read(spelling.encode())
    assert type(value) is int
    assert value == 1


@given(st.integers(-(10**400), 10**400))
def test_a_server_that_reads_integers_exactly_gets_every_digit(number: int) -> None:
    assert read(str(number).encode(), exact_integers=True) == number


def test_even_exact_integers_are_bounded() -> None:
    assert refusal("9" * 1025, exact_integers=True).reason is Code.NUMBER


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_double_survives_its_own_spelling(value: float) -> None:
    seen = read(repr(value).encode())
    assert isinstance(seen, int | float)
    assert math.isclose(seen, value, rel_tol=0, abs_tol=0)


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-32-be"])
def test_only_plain_utf8_is_read(codec: str) -> None:
    assert refusal('{"a":1}'.encode(codec)).reason is Code.ENCODING


@pytest.mark.parametrize(
    "text", [b'"\\ud800"', b'{"\\udfff":1}', b'"\\ud83dx\\ude00"', b'"\xed\xa0\x80"', b'"\xc0\xaf"']
)
def test_half_a_surrogate_pair_is_refused(text: bytes) -> None:
    assert refusal(text).reason is Code.ENCODING


def test_an_escaped_surrogate_pair_is_one_character() -> None:
    assert read(b'"\\ud83d\\ude00"') == "😀"


@pytest.mark.parametrize(
    "text", ["", " ", "{", '{"a":1,}', "[1 2]", "{'a':1}", "/**/1", "01", "1.", "+1", '"\t"', "\u00a01", "1 1"]
)
def test_what_is_not_json_is_refused_as_malformed(text: str) -> None:
    error = refusal(text)
    assert (error.reason, error.rpc_code) == (Code.MALFORMED, -32700)


def test_bounds_on_size_depth_members_and_values_hold_and_are_reached() -> None:
    assert read(b"[" * 64 + b"]" * 64)
    assert refusal(b"[" * 65 + b"]" * 65).reason is Code.TOO_LARGE
    assert read(b'["' + b"[{" * 1000 + b'"]') == ["[{" * 1000]
    members = {f"k{n}": n for n in range(MAX_MEMBERS)}
    assert read(json.dumps(members).encode()) == members
    assert refusal(json.dumps(members | {"z": 0})).reason is Code.TOO_LARGE
    assert read(b"[" + b"0," * (MAX_VALUES - 2) + b"0]") == [0] * (MAX_VALUES - 1)
    assert refusal(b"[" + b"{}," * MAX_VALUES + b"0]").reason is Code.TOO_LARGE
    assert read(b'"' + b"," * 1_000_000 + b'"')
    assert read(b'"' + b"x" * (MAX_BYTES - 2) + b'"')
    assert refusal(b'"' + b"x" * (MAX_BYTES - 1) + b'"').reason is Code.TOO_LARGE
