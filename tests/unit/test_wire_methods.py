"""What a message acts upon."""

from __future__ import annotations

import json

import mcp_types.methods
import pytest

from guard.errors import WireError
from guard.model import Json
from guard.reasons import Code
from guard.wire.decode import Message, Request, decode
from guard.wire.methods import METHODS, Target, resumes, target


def request(method: str, **params: Json) -> Message:
    return decode(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode())


def test_the_list_covers_every_method_an_sdk_client_sends() -> None:
    requests = {name for name, _ in mcp_types.methods.CLIENT_REQUESTS}
    notifications = {name for name, _ in mcp_types.methods.CLIENT_NOTIFICATIONS}
    assert requests <= {name for name, known in METHODS.items() if known.request}
    assert notifications <= {name for name, known in METHODS.items() if not known.request}


@pytest.mark.parametrize(
    "name", ["sampling/createMessage", "elicitation/create", "roots/list", "notifications/message"]
)
def test_what_only_servers_send_is_not_taken_from_an_agent(name: str) -> None:
    with pytest.raises(WireError) as caught:
        target(Request(1, name, {}, b""))
    assert caught.value.reason is Code.UNKNOWN_METHOD


def test_a_tool_call_acts_on_its_tool_with_its_arguments_only() -> None:
    asked = request("tools/call", name="refund", arguments={"a": 1}, requestState="s", _meta={})
    assert target(asked) == Target("tool", "refund", {"a": 1})
    assert target(request("tools/call", name="refund")) == Target("tool", "refund", {})


def test_a_call_made_as_a_task_is_the_same_call() -> None:
    plain = request("tools/call", name="refund", arguments={"a": 1})
    assert target(request("tools/call", name="refund", arguments={"a": 1}, task={"ttl": 60000})) == target(plain)


@pytest.mark.parametrize("method", ["resources/read", "resources/subscribe", "resources/unsubscribe"])
def test_a_resource_is_found_by_its_canonical_uri_and_bound_in_its_spelling(method: str) -> None:
    assert target(request(method, uri="secret://prod/%64b")) == Target(
        "resource", "secret://prod/db", {"uri": "secret://prod/%64b"}
    )


def test_a_resource_with_two_readings_is_refused_when_read() -> None:
    with pytest.raises(WireError) as caught:
        request("resources/read", uri="secret://dev/..%2fprod%2fdb")
    assert (caught.value.reason, caught.value.request_id) == (Code.AMBIGUOUS, 1)


def test_a_prompt_is_its_name_and_arguments() -> None:
    assert target(request("prompts/get", name="rotate keys", arguments={"env": "prod"})) == Target(
        "prompt", "rotate keys", {"env": "prod"}
    )


@pytest.mark.parametrize("name", ["", "a\nb", "a\u202eb", "x" * 257])
def test_a_prompt_name_is_short_and_visible(name: str) -> None:
    with pytest.raises(WireError):
        request("prompts/get", name=name)


def test_a_completion_acts_on_what_it_completes() -> None:
    argument: Json = {"name": "env", "value": "p"}
    asked = request("completion/complete", ref={"type": "ref/prompt", "name": "rotate"}, argument=argument)
    assert target(asked) == Target("prompt", "rotate", {"argument": argument})
    asked = request("completion/complete", ref={"type": "ref/resource", "uri": "S://{env}/%64b"}, argument=argument)
    assert target(asked) == Target("resource", "s://{env}/db", {"uri": "S://{env}/%64b", "argument": argument})


@pytest.mark.parametrize("ref", [None, {}, {"type": "ref/tool", "name": "x"}, {"type": "ref/prompt"}, "x"])
def test_a_completion_of_something_else_is_refused(ref: Json) -> None:
    with pytest.raises(WireError) as caught:
        request("completion/complete", ref=ref)
    assert caught.value.rpc_code == -32602


def test_answering_for_the_human_of_a_task_weighs_as_much_as_a_tool() -> None:
    answers: Json = {"confirm": {"action": "accept"}}
    asked = request("tasks/update", taskId="t-1", inputResponses=answers)
    assert target(asked) == Target("tool", "tasks/update", {"taskId": "t-1", "inputResponses": answers})
    assert not resumes(asked)


@pytest.mark.parametrize("method", ["tools/list", "ping", "initialize", "tasks/list", "server/discover"])
def test_what_only_asks_is_protocol(method: str) -> None:
    assert target(request(method)) == Target("protocol", method, {})


def test_an_answer_acts_on_nothing() -> None:
    assert target(decode(b'{"jsonrpc":"2.0","id":1,"result":{}}')) == Target("protocol", "response", {})


@pytest.mark.parametrize("member", [{"inputResponses": {}}, {"requestState": "s"}])
def test_state_of_an_earlier_round_is_noticed(member: dict[str, Json]) -> None:
    assert resumes(request("tools/call", name="x", **member))
    assert not resumes(request("tools/call", name="x", arguments=member))
