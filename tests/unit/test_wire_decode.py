"""Messages: one meaning, or a refusal that still reaches whoever waits."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import WireError
from guard.model import Json
from guard.reasons import Code
from guard.wire.decode import (
    CAPABILITIES_KEY,
    MODERN_VERSIONS,
    VERSION_KEY,
    Message,
    Notification,
    Request,
    Response,
    decode,
    single_line,
)
from guard.wire.methods import METHODS

MODERN: Mapping[str, Json] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


def call(**changes: Json) -> bytes:
    params = {"name": "refund", "arguments": {"amount": 5}}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params, **changes}).encode()


def refusal(raw: bytes) -> WireError:
    with pytest.raises(WireError) as caught:
        decode(raw)
    return caught.value


def test_a_call_is_read_with_its_exact_bytes() -> None:
    raw = call()
    assert decode(raw) == Request(1, "tools/call", {"name": "refund", "arguments": {"amount": 5}}, raw)


@pytest.mark.parametrize("message_id", [0, -5, 2**53 - 1, "abc-1", "", "x" * 128])
def test_ids_are_strings_or_integers_and_keep_their_type(message_id: str | int) -> None:
    message = decode(call(id=message_id))
    assert isinstance(message, Request)
    assert type(message.id) is type(message_id)
    assert message.id == message_id


@pytest.mark.parametrize("spelling", ["null", "true", "1.0", "1e0", "-1.0", "1E2", "{}", "[]", '"' + "x" * 129 + '"'])
def test_an_id_that_readers_take_differently_is_refused(spelling: str) -> None:
    raw = call(id="HERE").replace(b'"HERE"', spelling.encode())
    assert refusal(raw).reason is Code.MALFORMED
    assert refusal(raw.replace(b'"id"', b'"\\u0069d"')).reason is Code.MALFORMED


def test_a_fraction_elsewhere_does_not_spoil_an_integer_id() -> None:
    raw = call(params={"name": "refund", "arguments": {"id": "HERE"}}).replace(b'"HERE"', b"1.0")
    message = decode(raw)
    assert isinstance(message, Request)
    assert message.params["arguments"] == {"id": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"error": {"code": 1, "message": ""}},
        {"result": {}},
        {"guard_approved": True},
        {"param\u017f": {}},
        {"Method": "ping"},
    ],
)
def test_the_envelope_takes_no_other_member(changes: dict[str, Json]) -> None:
    assert refusal(call(**changes)).reason in {Code.UNKNOWN_MEMBER, Code.AMBIGUOUS}


@given(st.sampled_from(sorted(name for name in METHODS if METHODS[name].members is not None)), st.text(min_size=1))
def test_a_parameter_that_the_protocol_does_not_name_is_refused(name: str, member: str) -> None:
    known = METHODS[name]
    if member in (known.members or ()):
        return
    params: dict[str, Json] = {member: 1}
    if known.named_by:
        params[known.named_by] = "x:y"
    message: dict[str, Json] = {"jsonrpc": "2.0", "method": name, "params": params}
    if known.request:
        message["id"] = 7
    error = refusal(json.dumps(message).encode())
    assert error.reason is Code.UNKNOWN_MEMBER
    assert error.request_id == (7 if known.request else None)


@given(st.text())
def test_a_method_that_is_not_on_the_list_is_refused_under_the_id_of_its_request(name: str) -> None:
    if name in METHODS:
        return
    error = refusal(json.dumps({"jsonrpc": "2.0", "id": "q", "method": name, "params": {}}).encode())
    assert (error.reason, error.rpc_code, error.request_id) == (Code.UNKNOWN_METHOD, -32601, "q")


@pytest.mark.parametrize(
    "name", ["initialize", "ping", "resources/subscribe", "resources/unsubscribe", "logging/setLevel"]
)
def test_a_method_that_the_modern_era_removed_is_not_known_there_whatever_its_parameters(name: str) -> None:
    envelope = {VERSION_KEY: MODERN_VERSIONS[0], CAPABILITIES_KEY: {}}
    error = refusal(json.dumps({"jsonrpc": "2.0", "id": "q", "method": name, "params": {"_meta": envelope}}).encode())
    assert (error.reason, error.rpc_code, error.request_id) == (Code.UNKNOWN_METHOD, -32601, "q")


@pytest.mark.parametrize("name", sorted(METHODS))
def test_requests_need_an_id_and_notifications_have_none(name: str) -> None:
    known = METHODS[name]
    params: dict[str, Json] = {known.named_by: "x:y"} if known.named_by else {}
    if name == "tools/call":
        params = {"name": "x"}
    if name == "completion/complete":
        params = {"ref": {"type": "ref/prompt", "name": "x"}}
    with_id = json.dumps({"jsonrpc": "2.0", "id": 1, "method": name, "params": params}).encode()
    without = json.dumps({"jsonrpc": "2.0", "method": name, "params": params}).encode()
    good, bad = (with_id, without) if known.request else (without, with_id)
    assert isinstance(decode(good), Request if known.request else Notification)
    assert refusal(bad).reason is Code.MALFORMED


BAD_NAMES = ("", 5, "a b", "refund\0", "\uff52efund", "re\u200dfund", "a/b", "x" * 129, " refund ", "refund\n")
BAD_MEMBERS: tuple[Mapping[str, Json], ...] = (
    {"arguments": "{}"},
    {"arguments": []},
    {"arguments": None},
    {"task": 5},
    {"inputResponses": []},
    {"_meta": []},
)


@pytest.mark.parametrize(
    "params",
    [
        ["refund", {}],
        "refund",
        None,
        {},
        *({"name": name} for name in BAD_NAMES),
        *({"name": "refund", **bad} for bad in BAD_MEMBERS),
    ],
)
def test_a_call_names_one_tool_plainly_and_gives_its_arguments_as_an_object(params: Json) -> None:
    error = refusal(call(params=params))
    assert (error.reason, error.rpc_code, error.request_id) == (Code.MALFORMED, -32602, 1)


@pytest.mark.parametrize(
    ("meta", "code"),
    [
        ({"io.modelcontextprotocol/protocolVersion": "2026-07-28"}, -32602),
        ({"io.modelcontextprotocol/clientCapabilities": {}}, -32602),
        ({**MODERN, "io.modelcontextprotocol/clientCapabilities": None}, -32602),
        ({**MODERN, "io.modelcontextprotocol/protocolVersion": 20260728}, -32602),
        ({**MODERN, "io.modelcontextprotocol/protocolVersion": "2099-01-01"}, -32022),
        ({**MODERN, "io.modelcontextprotocol/protocolVersion": "2025-11-25"}, -32022),
    ],
)
def test_the_envelope_of_the_modern_era_is_whole_and_of_a_known_version(meta: Json, code: int) -> None:
    error = refusal(call(params={"name": "refund", "_meta": meta}))
    assert error.rpc_code == code
    if code == -32022:
        assert error.data is not None
        assert error.data["supported"] == ("2026-07-28",)


@pytest.mark.parametrize(
    "text", ["[]", "null", "0", '""', "true", "{}", '{"jsonrpc":"2.0"}', '{"jsonrpc":"1.0","id":1,"method":"ping"}']
)
def test_what_is_no_single_message_is_refused(text: str) -> None:
    assert refusal(text.encode()).reason is Code.MALFORMED
    assert refusal(f"[{call().decode()}]".encode()).reason is Code.MALFORMED


def test_answers_to_a_server_are_read() -> None:
    raw = b'{"jsonrpc":"2.0","id":"s1","result":{"roots":[]}}'
    assert decode(raw) == Response("s1", {"roots": []}, None, raw)
    raw = b'{"jsonrpc":"2.0","id":4,"error":{"code":-1,"message":"no","data":[1]}}'
    assert decode(raw) == Response(4, None, {"code": -1, "message": "no", "data": [1]}, raw)


@pytest.mark.parametrize(
    "text",
    [
        '{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}',
        '{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":""}}',
        '{"jsonrpc":"2.0","result":{}}',
        '{"jsonrpc":"2.0","id":1,"result":[]}',
        '{"jsonrpc":"2.0","id":1,"error":null}',
        '{"jsonrpc":"2.0","id":1,"error":{"code":true,"message":""}}',
        '{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"","x":1}}',
        '{"jsonrpc":"2.0","id":1,"result":{},"params":{}}',
    ],
)
def test_an_answer_is_one_result_or_one_error(text: str) -> None:
    assert refusal(text.encode()).rpc_code == -32600


@pytest.mark.parametrize("argument", ["12345678901234567890", "NaN", '{"a":1,"A":2}', '"\\ud800"'])
def test_whoever_waits_for_an_ambiguous_call_is_answered_under_its_id(argument: str) -> None:
    raw = call(params={"name": "refund", "arguments": {"x": "HERE"}}).replace(b'"HERE"', argument.encode())
    assert refusal(raw).request_id == 1


@pytest.mark.parametrize(
    "text", ['{"id":1,"id":2}', '{"id":1.5,"a":NaN}', '{"id":true,"a":NaN}', '{"id":"\\ud800"}', '[["id",NaN]]']
)
def test_an_id_in_doubt_is_never_answered_to(text: str) -> None:
    assert refusal(text.encode()).request_id is None


@given(st.binary(max_size=120), st.integers(0, 100), st.booleans())
def test_no_message_makes_the_decoder_fail(junk: bytes, at: int, exact: bool) -> None:
    whole = call(params={"name": "refund", "arguments": {}, "_meta": MODERN})
    for raw in (junk, whole[:at] + junk + whole[at:], whole[:at] + junk):
        try:
            message: Message = decode(raw, exact_integers=exact)
        except WireError:
            continue
        assert message.raw == raw


# ------------------------------------------------------------------ lines


@given(st.text(st.sampled_from('ab"\\{}\u0085\u2028\u2029 é')))
def test_one_message_stays_one_line_for_every_line_reader_and_means_the_same(text: str) -> None:
    body = {"name": "refund", "arguments": {"text": text, text: 1}}
    raw = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": body}, ensure_ascii=False).encode()
    if text == "text":
        return
    line = single_line(raw + b"\r\n")
    assert len(line.decode().splitlines()) == 1
    before, after = decode(raw), decode(line)
    assert isinstance(before, Request)
    assert isinstance(after, Request)
    assert before.params == after.params


def test_a_plain_line_passes_unchanged() -> None:
    assert single_line(call()) == call()
    assert single_line(call() + b"\r") == call()


@pytest.mark.parametrize("raw", [b'{"a":\r1}', b'{"a":\n1}', b"{}\r\r", b"{}\n\n"])
def test_a_raw_line_break_inside_a_line_is_refused(raw: bytes) -> None:
    with pytest.raises(WireError) as caught:
        single_line(raw)
    assert caught.value.reason is Code.AMBIGUOUS


def test_escaping_never_turns_a_broken_text_into_a_sound_one() -> None:
    with pytest.raises(WireError):
        single_line('{"a":"\\\u2028"}'.encode())
