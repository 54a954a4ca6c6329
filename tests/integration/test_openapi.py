"""The API does what its OpenAPI document says, whatever is sent: generated requests over the real listener."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.request import Request, urlopen

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import load_all_checks

from tests.guards import Serving
from tests.visitors import Client, add_person
from tests.world import World

load_all_checks()
_STREAM = "/v1/events"
_ALSO = ["2xx", "401", "403", "404", "409", "410", "429"]
CHECKS = {
    # A link that is used up and a proof that is too old are 410, whatever else is right or wrong with their form.
    "checks": {
        "positive_data_acceptance": {"expected-statuses": _ALSO},
        "negative_data_rejection": {"expected-statuses": ["400", *_ALSO[1:]]},
    }
}


@dataclass
class Api:
    """A running guard with one person's login, and its document."""

    guard: Serving
    client: Client
    schema: schemathesis.BaseSchema


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with World(tmp_path_factory.mktemp("api")) as world:
        guard, phone = world.serve(), add_person(world, "ann")
        client = Client(guard)
        assert client.log_in("ann", phone.now()).status == 201
        for number in range(3):
            guard.call("wipe", {"number": number})
        document = client("GET", "/v1/openapi.json").body
        for operation in (one for methods in document["paths"].values() for one in methods.values()):
            del operation["security"]  # the login is this test's own, and is not made worse
        schema = schemathesis.openapi.from_dict(document, config=schemathesis.Config.from_dict(CHECKS))
        schema.config.update(base_url=f"http://127.0.0.1:{client.port}")
        yield Api(guard, client, schema)


def operations(api: Api) -> list[tuple[str, str]]:
    return [(path, method) for path, methods in api.schema.items() for method in methods]


_settings = settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
)


@pytest.mark.timeout(180)
def test_every_operation_keeps_to_its_document_for_valid_and_for_broken_requests(api: Api) -> None:
    seen = set[tuple[str, str]]()
    for path, method in operations(api):
        if path == _STREAM or (path, method) == ("/v1/session", "delete"):
            continue
        seen.add((path, method))
        for mode in schemathesis.GenerationMode:
            _run(api, api.schema[path][method], mode)
    assert len(seen) == len(operations(api)) - 2


def _run(api: Api, operation: Any, mode: schemathesis.GenerationMode) -> None:  # noqa: ANN401 - its type has no public name
    cookies = {"cookie": "; ".join(f"{name}={value}" for name, value in api.client.cookies.items())}

    @_settings
    @given(case=operation.as_strategy(generation_mode=mode))
    def sent(case: schemathesis.Case) -> None:
        case.call_and_validate(headers={**cookies, "guard-csrf": api.client.csrf})

    try:
        sent()
    except Unsatisfiable:  # what takes nothing cannot be asked wrongly
        assert mode is schemathesis.GenerationMode.NEGATIVE


def test_the_event_stream_and_the_logout_do_what_they_say(api: Api) -> None:
    headers = {"cookie": "; ".join(f"{name}={value}" for name, value in api.client.cookies.items())}
    with urlopen(Request(f"{api.client.origin}{_STREAM}", headers=headers)) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.readline() == b"event: change\n"
        assert json.loads(stream.readline().removeprefix(b"data: ")) == {"waiting": 3}
    assert api.client("DELETE", "/v1/session").status == 204
    assert api.client("GET", "/v1/session").status == 401
