"""The API of challenges: who gets in, what it shows, and what it never shows."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from guard.clock import SystemClock
from guard.config import Console
from guard.errors import ProofInvalidError
from guard.identity.keys import new_key
from guard.identity.lifecycle import Lifecycle
from guard.model import Challenge, Demand, Json, Principal, Proof, ProofClass, Requirement, Sensitivity, State
from guard.reasons import Code, Reason
from guard.stepup.binding import document, parse_document
from guard.stepup.ceremony import Ceremony
from guard.store.seal import Keyring
from guard.store.sql import SqlStore
from guard.web.application import api
from guard.web.gate import names
from tests.web_services import services

SECRET = "hunter2-in-the-arguments"


@dataclass
class Journal:
    records: list[tuple[str, Mapping[str, Json]]] = field(default_factory=list)

    def append(self, event: str, fields: Mapping[str, Json]) -> int:
        self.records.append((event, fields))
        return len(self.records)

    async def append_durably(self, event: str, fields: Mapping[str, Json]) -> int:
        return self.append(event, fields)


class Handshake:
    """A factor whose evidence is the word "please"."""

    def verify(self, challenge: Challenge, evidence: Mapping[str, Json], now: float) -> Proof:
        if evidence.get("word") != "please":
            raise ProofInvalidError(detail=f"a secret detail about {challenge.id}")
        name = str(evidence.get("as"))
        return Proof(proof_class=ProofClass.CONSENT, kind="word", factor=f"f_{name}", subject=name, at=now)


@dataclass
class House:
    """Both applications over one store."""

    store: SqlStore
    ceremony: Ceremony
    key: str
    clock: SystemClock
    journal: Journal
    keyring: Keyring
    ready: bool = True

    def client(self, *, local: bool = True, **headers: str) -> httpx2.AsyncClient:
        house = services(
            store=self.store,
            ledger=self.journal,
            ceremony=self.ceremony,
            clock=self.clock,
            keyring=self.keyring,
            ready=lambda: self.ready,
        )
        app = api(house, local=local)
        return httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=app), base_url="http://localhost:7001", headers=headers
        )


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    yield from build(tmp_path)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house nobody gets into, so that one serves for every test of its door."""
    yield from build(tmp_path_factory.mktemp("door"))


def build(folder: Path) -> Iterator[House]:
    state, clock, journal = folder / "state", SystemClock(), Journal()
    keyring = Keyring.open(state)
    store = SqlStore.open(state, keyring)
    ceremony = Ceremony(store, journal, clock, verifiers={"word": Handshake()}, cool_down=0)
    yield House(store, ceremony, Lifecycle(store, journal, clock).add_agent("robot"), clock, journal, keyring)
    store.close()


def challenge(number: int = 1, **changes: object) -> Challenge:
    nonce, now = f"{number:022d}", time.time()
    made = Challenge(
        id=f"c_{nonce}",
        nonce=nonce,
        principal=Principal(subject="robot", credential="ab" * 8),
        server="vault",
        method="tools/call",
        kind="tool",
        name="delete",
        arguments=json.dumps({"password": SECRET}),
        definition="",
        digest=f"{number:064x}",
        policy_revision="r1",
        rule="",
        sensitivity=Sensitivity.CRITICAL,
        effects=frozenset(),
        requirement=Requirement(frozenset({Demand.CONSENT})),
        reasons=(Reason(Code.TAG_CRITICAL),),
        findings=(),
        opened=now,
        expires=now + 60,
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # each test changes one field by name


# ------------------------------------------------------------------ who gets in


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/v1/challenges", "/v1/challenges/c_1", "/v1/grants", "/v1", "/v1/anything"])
async def test_an_agents_key_opens_nothing_on_the_console(path: str, door: House) -> None:
    async with door.client(local=False, authorization=f"Bearer {door.key}") as client:
        for answer in (await client.get(path), await client.post(path, json={})):
            assert answer.status_code == 403


@pytest.mark.anyio
@pytest.mark.parametrize(
    "credential",
    ["", "Basic YTpi", "Bearer", "Bearer nonsense", f"Bearer {new_key()}"],
    ids=["nothing", "basic", "empty", "nonsense", "unknown key"],
)
async def test_nobody_opens_nothing_on_the_console(credential: str, door: House) -> None:
    async with door.client(local=False, **({"authorization": credential} if credential else {})) as client:
        answer = await client.get("/v1/challenges")
        assert answer.status_code == 401
        assert answer.json()["reason"] in {"no_credential", "bad_credential"}


@pytest.mark.anyio
@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "localhost@evil.example", "", "LOCALHOST:x"]
)
async def test_a_foreign_host_is_misdirected_on_every_path(host: str, door: House) -> None:
    async with door.client(local=False, host=host) as client:
        for path in ("/healthz", "/v1/challenges", "/challenges/c_1"):
            assert (await client.get(path)).status_code == 421


@pytest.mark.anyio
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://localhost.evil.example", "file://"])
async def test_a_foreign_origin_is_refused(origin: str, door: House) -> None:
    async with door.client(local=False, origin=origin) as client:
        assert (await client.get("/healthz")).status_code == 403


@pytest.mark.anyio
async def test_a_cross_site_request_is_refused(door: House) -> None:
    async with door.client(local=False, **{"sec-fetch-site": "cross-site"}) as client:
        assert (await client.post("/v1/challenges/c_1/proofs", json={})).status_code == 403


@pytest.mark.anyio
async def test_the_own_names_are_let_in_with_any_port(door: House) -> None:
    for host in ("localhost", "localhost:7001", "127.0.0.1:1", "[::1]:7001"):
        async with door.client(local=False, host=host, origin=f"http://{host}") as client:
            assert (await client.get("/healthz")).status_code == 200


def test_a_console_for_others_is_known_by_its_configured_names_only() -> None:
    console = Console(
        listen="10.0.0.1:443", insecure=True, public_url="https://Guard.example", allowed_hosts=("alias:8443",)
    )
    assert names(console) == {"10.0.0.1", "guard.example", "alias"}


@pytest.mark.anyio
async def test_every_answer_carries_the_security_headers(door: House) -> None:
    async with door.client(local=False) as client:
        for path in ("/healthz", "/v1/challenges", "/challenges/c_1", "/nothing"):
            headers = (await client.get(path)).headers
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert headers["cache-control"] == "no-store"
            assert headers["x-frame-options"] == "DENY"


@pytest.mark.anyio
async def test_health_says_whether_calls_are_taken(house: House) -> None:
    async with house.client(local=False) as client:
        assert (await client.get("/healthz")).status_code == 200
        house.ready = False
        assert (await client.get("/healthz")).status_code == 503


# ------------------------------------------------------------------ what it shows


@pytest.mark.anyio
async def test_a_signer_gets_the_document_and_nobody_the_arguments(house: House) -> None:
    opened = await house.ceremony.open(challenge())
    async with house.client() as client:
        listed = await client.get("/v1/challenges", params={"state": "pending", "document": "1"})
        one = await client.get(f"/v1/challenges/{opened.id}")
    async with house.client(local=False) as client:
        page = await client.get(f"/challenges/{opened.id}")
    checked = parse_document(one.json()["document"], audience="guard", principal="robot", now=time.time())
    assert checked == document(opened, audience="guard")
    assert listed.json()["challenges"][0]["document"] == one.json()["document"]
    assert opened.short_digest in page.text
    assert f"guard challenge show {opened.id}" in page.text
    for answer in (listed, one, page):
        assert SECRET not in answer.text
    assert "vault" not in page.text


@pytest.mark.anyio
async def test_the_listing_follows_state_and_principal(house: House) -> None:
    await house.ceremony.open(challenge(1))
    await house.ceremony.open(challenge(2, principal=Principal(subject="other", credential="cd" * 8)))
    await house.ceremony.cancel(challenge(2).id, by="ann", because="test")
    async with house.client() as client:

        async def ids(**query: str) -> list[str]:
            answer = await client.get("/v1/challenges", params=query)
            return [one["id"] for one in answer.json()["challenges"]]

        assert await ids(state="pending") == [challenge(1).id]
        assert await ids(principal="other") == [challenge(2).id]
        assert await ids(state="cancelled,pending") == [challenge(1).id, challenge(2).id]
        assert (await client.get("/v1/challenges", params={"state": "nonsense"})).status_code == 400
        assert (await client.get("/v1/challenges", params={"wait": "x"})).status_code == 400


@pytest.mark.anyio
async def test_a_waiting_request_is_answered_when_something_changes(house: House) -> None:
    async with house.client() as client:
        cursor = (await client.get("/v1/challenges")).json()["cursor"]
        answers: list[Any] = []

        async def wait() -> None:
            answer = await client.get("/v1/challenges", params={"after": cursor, "wait": "20"})
            answers.append(answer.json())

        with anyio.fail_after(15):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                opened = await house.ceremony.open(challenge())
        assert [one["id"] for one in answers[0]["challenges"]] == [opened.id]


@pytest.mark.anyio
async def test_a_waiting_request_ends_with_its_time(house: House) -> None:
    async with house.client() as client:
        cursor = (await client.get("/v1/challenges")).json()["cursor"]
        with anyio.fail_after(15):
            answer = await client.get("/v1/challenges", params={"after": cursor, "wait": "0.1"})
        assert answer.json() == {"cursor": cursor, "next": None, "challenges": []}


@pytest.mark.anyio
@pytest.mark.parametrize("identifier", ["c_unknown00000000000000", "%00", "c_1", "..%2f..", "x" * 500])
async def test_an_unknown_challenge_is_not_found(identifier: str, door: House) -> None:
    for local, path in ((True, f"/v1/challenges/{identifier}"), (False, f"/challenges/{identifier}")):
        async with door.client(local=local) as client:
            answer = await client.get(path)
            assert answer.status_code == 404
            assert "Traceback" not in answer.text


# ------------------------------------------------------------------ what it takes


@pytest.mark.anyio
async def test_a_proof_satisfies_and_a_second_comes_too_late(house: House) -> None:
    opened = await house.ceremony.open(challenge())
    async with house.client() as client:
        path, proof = f"/v1/challenges/{opened.id}/proofs", {"kind": "word", "word": "please", "as": "ann"}
        first, second = await client.post(path, json=proof), await client.post(path, json={**proof, "as": "ben"})
    assert (first.status_code, first.json()["state"]) == (200, "satisfied")
    assert (second.status_code, set(second.json())) == (409, {"reason", "message"})


@pytest.mark.anyio
async def test_a_wrong_proof_is_refused_without_its_details(house: House) -> None:
    opened = await house.ceremony.open(challenge())
    async with house.client() as client:
        for kind in ("word", "unknown"):
            answer = await client.post(f"/v1/challenges/{opened.id}/proofs", json={"kind": kind, "word": "now"})
            assert answer.status_code == 403
            assert answer.json()["reason"] == "proof_invalid"
            assert "secret detail" not in answer.text


@pytest.mark.anyio
async def test_a_person_denies_for_good(house: House) -> None:
    opened = await house.ceremony.open(challenge())
    async with house.client() as client:
        body = {"kind": "word", "word": "please", "as": "ann", "because": "not today"}
        answer = await client.post(f"/v1/challenges/{opened.id}/deny", json=body)
        assert (answer.json()["state"], answer.json()["ended_because"]) == ("denied", "not today")
        again = await client.post(f"/v1/challenges/{opened.id}/proofs", json=body)
        assert (again.status_code, again.json()["reason"]) == (409, "denied")
    found = house.store.challenges.get(opened.id)
    assert found is not None
    assert found.state is State.DENIED


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("content", "media"),
    [
        (b'{"kind":"word","kind":"x"}', "application/json"),
        (b'{"kind":1}', "application/json"),
        (b"[]", "application/json"),
        (b"{", "application/json"),
        (b'{"kind":"\xff"}', "application/json"),
        (b'{"a":"' + b"x" * 70_000 + b'"}', "application/json"),
        (b"[" * 60_000, "application/json"),
        (b'{"kind":"word"}', "text/plain"),
        (b"kind=word", "application/x-www-form-urlencoded"),
    ],
)
async def test_a_body_that_is_not_a_small_object_of_texts_is_refused(content: bytes, media: str, house: House) -> None:
    opened = await house.ceremony.open(challenge())
    async with house.client() as client:
        path = f"/v1/challenges/{opened.id}/proofs"
        answer = await client.post(path, content=content, headers={"content-type": media})
    assert answer.status_code == 400
    assert set(answer.json()) == {"reason", "message"}
