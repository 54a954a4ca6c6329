"""The body decides the era; the headers agree or the message is refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.inbound import InboundModernRoute, classify_inbound_request, encode_header_value

from guard.errors import WireError
from guard.model import Json
from guard.reasons import Code
from guard.wire import era
from guard.wire.decode import Message, decode
from guard.wire.era import Era, client_name, era_of

MODERN: Mapping[str, Json] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"url": {}}},
    "io.modelcontextprotocol/clientInfo": {"name": "crew", "version": "1"},
}
HEADERS = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "refund"}


def check_headers(headers: Sequence[tuple[bytes, bytes]], message: Message) -> Era:
    return era.check_headers(era.routing(headers), message)


def request(method: str = "tools/call", **params: Json) -> Message:
    params = params or {"name": "refund"}
    return decode(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode())


def modern(method: str = "tools/call", **params: Json) -> Message:
    return request(method, **(params or {"name": "refund"}), _meta=MODERN)


def lines(**headers: str | None) -> list[tuple[bytes, bytes]]:
    """Header lines; `_` in a name stands for `-`, None leaves a line out."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return [(b"Host", b"x"), *((name.encode(), value.encode()) for name, value in named.items() if value is not None)]


def refusal(headers: list[tuple[bytes, bytes]], message: Message) -> WireError:
    with pytest.raises(WireError) as caught:
        check_headers(headers, message)
    assert caught.value.reason is Code.HEADER_MISMATCH
    return caught.value


def test_the_body_decides_the_era() -> None:
    assert era_of(request()) is Era.LEGACY
    assert era_of(modern()) is Era.MODERN
    assert era_of(decode(b'{"jsonrpc":"2.0","id":1,"result":{}}')) is Era.LEGACY


def test_headers_that_say_what_the_body_says_pass() -> None:
    assert check_headers(lines(**HEADERS), modern()) is Era.MODERN
    assert check_headers([(b"mcp-name", b" refund\t"), *lines(**{**HEADERS, "Mcp-Name": None})], modern()) is Era.MODERN
    listing = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/list"}
    assert check_headers(lines(**listing), modern("tools/list", cursor="c")) is Era.MODERN


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("value", [None, "", "tools/list", "2025-11-25", "refund, other", "Refund"])
def test_a_modern_header_that_is_missing_or_lies_is_refused(name: str, value: str | None) -> None:
    error = refusal(lines(**{**HEADERS, name: value}), modern())
    assert error.rpc_code == -32020


@pytest.mark.parametrize("name", HEADERS)
def test_a_routing_header_given_twice_is_refused_in_both_eras(name: str) -> None:
    twice = (name.lower().encode(), HEADERS[name].encode())
    refusal([*lines(**HEADERS), twice], modern())
    refusal([*lines(**{name: HEADERS[name]}), twice], request())


@pytest.mark.parametrize("version", [None, "2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
def test_a_legacy_call_may_name_a_legacy_version_and_no_other_header(version: str | None) -> None:
    assert check_headers(lines(MCP_Protocol_Version=version), request()) is Era.LEGACY
    assert check_headers(lines(MCP_Protocol_Version=version, Mcp_Method="tools/call"), request()) is Era.LEGACY


@pytest.mark.parametrize(
    "headers", [{"Mcp-Name": "other"}, {"Mcp-Method": "ping"}, {"MCP-Protocol-Version": "2099-01-01"}]
)
def test_a_legacy_call_with_lying_headers_is_refused(headers: dict[str, str]) -> None:
    assert refusal(lines(**headers), request()).rpc_code == -32020


def test_a_modern_header_over_a_legacy_body_is_refused() -> None:
    assert refusal(lines(**HEADERS), request()).rpc_code == -32602


def test_notifications_and_answers_need_no_headers() -> None:
    notification = decode(b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}')
    answer = decode(b'{"jsonrpc":"2.0","id":1,"result":{}}')
    assert check_headers(lines(), notification) is Era.LEGACY
    assert check_headers(lines(MCP_Protocol_Version="2026-07-28"), notification) is Era.MODERN
    assert check_headers(lines(MCP_Protocol_Version="2025-11-25"), answer) is Era.LEGACY
    for headers in ({"MCP_Protocol_Version": "2026-07-28"}, {"Mcp_Method": "tools/call"}, {"Mcp_Name": "refund"}):
        refusal(lines(**headers), answer)
    refusal(lines(Mcp_Method="tools/call"), notification)


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("resources/read", {"uri": "x:y"}, "x:y"),
        ("prompts/get", {"name": "p"}, "p"),
        ("tasks/get", {"taskId": "t-1"}, "t-1"),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "p"}}, "p"),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": "x:{y}"}}, "x:{y}"),
    ],
)
def test_the_name_header_repeats_what_the_method_names(method: str, params: dict[str, Json], name: str) -> None:
    message = modern(method, **params)
    stated = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": method}
    assert check_headers(lines(**stated, Mcp_Name=name), message) is Era.MODERN
    refusal(lines(**stated, Mcp_Name=name + "x"), message)


def test_a_name_header_for_what_has_no_name_is_refused() -> None:
    refusal(lines(Mcp_Name="refund"), request("tools/list", cursor="c"))


@given(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20))
def test_every_name_an_sdk_encodes_is_recognised(name: str) -> None:
    message = modern("prompts/get", name=name)
    value = encode_header_value(name)
    stated = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "prompts/get", "Mcp-Name": value}
    assert check_headers(lines(**stated), message) is Era.MODERN


@pytest.mark.parametrize(
    "value",
    [
        "=?BASE64?cmVmdW5k?=",
        "=?base64?cmVmdW5k",
        "=?base64?cmVmdW5k\n?=",
        "=?base64?cmVmdW5=?=",
        "=?base64? cmVmdW5k?=",
        "=?base64?/w==?=",
        "=?base64?=?=",
        "=?base64??=",
    ],
)
def test_a_base64_name_that_is_not_canonical_is_refused(value: str) -> None:
    refusal(lines(**{**HEADERS, "Mcp-Name": value}), modern())


def test_a_base64_name_is_decoded_before_it_is_compared() -> None:
    value = f"=?base64?{base64.b64encode(b'refund').decode()}?="
    assert check_headers(lines(**{**HEADERS, "Mcp-Name": value}), modern()) is Era.MODERN


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "mcp-protocol-version": st.sampled_from(["2026-07-28", "2025-11-25"]),
            "mcp-method": st.sampled_from(["tools/call", "tools/list"]),
            "mcp-name": st.sampled_from(["refund", "other", "=?base64?cmVmdW5k?=", "=?base64?cmVmdW5k=?="]),
        },
    )
)
def test_no_modern_request_passes_that_the_sdk_would_refuse(headers: dict[str, str]) -> None:
    message = modern()
    sdk = classify_inbound_request(json.loads(message.raw), headers=headers)
    try:
        check_headers([(name.encode(), value.encode()) for name, value in headers.items()], message)
    except WireError:
        return
    assert isinstance(sdk, InboundModernRoute)


def test_a_legacy_client_names_itself_when_it_initializes() -> None:
    hello = request("initialize", capabilities={"roots": {}}, clientInfo={"name": "old"}, protocolVersion="2025-11-25")
    assert client_name(hello) == "old"


@pytest.mark.parametrize(
    ("name", "shown"), [("crew", "crew"), ("a\x1b[31m\u202eb", "a[31mb"), ("x" * 500, "x" * 64), (5, "")]
)
def test_the_client_is_shown_by_a_short_visible_name(name: Json, shown: str) -> None:
    assert client_name(request("initialize", clientInfo={"name": name})) == shown


def test_a_client_that_does_not_say_has_no_name() -> None:
    assert client_name(request()) == ""
    assert client_name(request("initialize", clientInfo=[])) == ""
    assert client_name(decode(b'{"jsonrpc":"2.0","id":1,"result":{}}')) == ""
    assert client_name(modern()) == "crew"
