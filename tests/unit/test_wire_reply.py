"""What the guard says in a tool server's stead."""

from __future__ import annotations

import json
import unicodedata

import mcp_types
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import WireError
from guard.model import Json
from guard.wire import reply
from guard.wire.decode import decode
from guard.wire.era import Era

CHALLENGE: Json = {"id": "c1", "url": "https://guard/c/c1", "expires": 5.5, "requirement": "consent", "reasons": ["x"]}


def paused(era: Era, method: str = "tools/call") -> dict[str, Json]:
    assert isinstance(CHALLENGE, dict)
    body = reply.paused(7, era, text="PAUSED: wait", challenge=CHALLENGE, method=method)
    read: dict[str, Json] = json.loads(body)
    return read


def test_a_paused_tool_call_is_a_tool_error_of_one_text_with_the_challenge_beside_it() -> None:
    assert paused(Era.LEGACY) == {
        "jsonrpc": "2.0",
        "id": 7,
        "result": {
            "content": [{"type": "text", "text": "PAUSED: wait"}],
            "isError": True,
            "_meta": {"guard/challenge": CHALLENGE},
        },
    }


def test_the_modern_era_is_told_that_the_result_is_complete() -> None:
    modern, legacy = paused(Era.MODERN)["result"], paused(Era.LEGACY)["result"]
    assert isinstance(legacy, dict)
    assert modern == {**legacy, "resultType": "complete"}


@pytest.mark.parametrize("era", Era)
def test_a_refused_tool_call_has_the_same_shape_without_a_challenge(era: Era) -> None:
    result = json.loads(reply.refused("a", era, text="REFUSED"))["result"]
    assert "_meta" not in result
    assert "structuredContent" not in result
    parsed = mcp_types.CallToolResult.model_validate(result)
    assert parsed.is_error
    assert len(parsed.content) == 1


@pytest.mark.parametrize("method", ["prompts/get", "resources/read", "tasks/update", "completion/complete"])
def test_whatever_has_no_error_result_gets_an_error_of_the_guards_own(method: str) -> None:
    error = paused(Era.MODERN, method)["error"]
    assert error == {"code": reply.PAUSED, "message": "PAUSED: wait", "data": CHALLENGE}
    refused = json.loads(reply.refused(7, Era.MODERN, text="no", method=method))["error"]
    assert refused == {"code": reply.REFUSED, "message": "no"}


def test_own_codes_stay_out_of_everybody_elses_ranges() -> None:
    for code in (reply.PAUSED, reply.REFUSED):
        assert -32019 <= code <= -32003


def test_a_malformed_request_is_answered_under_its_own_id() -> None:
    with pytest.raises(WireError) as caught:
        decode(b'{"jsonrpc":"2.0","id":"q","method":"vendor/exec"}')
    answer = json.loads(reply.malformed(caught.value))
    assert (answer["id"], answer["error"]["code"]) == ("q", -32601)
    with pytest.raises(WireError) as caught:
        decode(b"[]")
    assert json.loads(reply.malformed(caught.value))["id"] is None


@given(st.text(), st.dictionaries(st.text(), st.text() | st.lists(st.text())))
def test_no_text_of_any_origin_steers_a_terminal_or_a_line_reader(text: str, data: dict[str, Json]) -> None:
    body = reply.error(None, -32600, text, data=data)
    assert len(body.splitlines()) == 1
    assert body.isascii()
    error = json.loads(body)["error"]
    said = [error["message"], *error.get("data", {}), *(str(value) for value in error.get("data", {}).values())]
    hidden = {c for part in said for c in part if unicodedata.category(c)[0] == "C" or c in "\u2028\u2029"}
    assert hidden <= {"\n"}


def test_texts_are_bounded() -> None:
    assert len(reply.clean("x" * 10_000)) == 4000
    assert len(reply.clean("\u202e" * 10_000)) == 4000
    assert reply.clean("two\nlines\x1b[31m") == "two\nlines\ufffd[31m"
