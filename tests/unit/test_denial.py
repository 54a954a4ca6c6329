"""A channel may deny on behalf of a user it is trusted for, and can do nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from guard.config import Config
from guard.model import Challenge, ProofClass, Quorum, State
from guard.notices import Stage
from guard.notify import words
from guard.notify.signing import key_of, signed
from guard.ports import Approver
from guard.stepup.ceremony import Ceremony
from guard.store.seal import Keyring
from guard.store.sql import SqlStore
from guard.web.application import api
from tests import nouns
from tests.web_services import services
from tests.world_store import WorldClock, WorldLedger

pytestmark = pytest.mark.anyio
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
OTHER = "whsec_" + base64.b64encode(b"o" * 32).decode()


class House:
    """The console's application over one store, with channels `chat` (ann may deny), `other` and `silent`."""

    def __init__(self, folder: Path) -> None:
        keyring = Keyring.open(folder)
        self.store = SqlStore.open(folder, keyring)
        self.ledger, self.clock = WorldLedger(), WorldClock(nouns.NOW + 5, lambda: 0.0)
        hook = {"kind": "webhook", "url": "https://chat.example/", "secret": {"env": "HOOK"}}
        config = Config.model_validate(
            {
                "notify": {
                    "chat": hook | {"deny_by": {"U1": "ann", "U2": "gone", "U3": "eve", "U4": "nobody"}},
                    "other": hook | {"secret": {"env": "OTHER"}, "deny_by": {"U1": "ann"}},
                    "silent": hook,
                }
            }
        )
        for name, group, removed in (("ann", "approvers", 0.0), ("gone", "approvers", 1.0), ("eve", "elsewhere", 0.0)):
            self.store.approvers.put(Approver(name=name, groups=frozenset({group}), created=0, removed=removed))
        self.ceremony = Ceremony(self.store, self.ledger, self.clock, verifiers={}, cool_down=60)
        served = services(
            store=self.store,
            ledger=self.ledger,
            ceremony=self.ceremony,
            clock=self.clock,
            keyring=keyring,
            config=config,
        )
        self.app = api(served, local=False)

    async def pause(self) -> Challenge:
        return await self.ceremony.open(nouns.challenge())

    @staticmethod
    def order(about: Challenge, /, **changes: str) -> dict[str, str]:
        return {
            "type": "challenge.deny",
            "challenge": about.id,
            "short_digest": about.short_digest,
            "user": "U1",
            "because": "not on a Friday",
            **changes,
        }

    async def post(
        self, body: object, *, secret: str = SECRET, channel: str = "chat", headers: Mapping[str, str] | None = None
    ) -> httpx2.Response:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        signature = signed(key_of(secret), "n_1", self.clock.wall, raw) if headers is None else headers
        transport = httpx2.ASGITransport(app=self.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost:7001") as client:
            return await client.post(f"/channels/{channel}/deny", content=raw, headers=dict(signature))

    def state(self, challenge: Challenge) -> State:
        found = self.store.challenges.get(challenge.id)
        assert found is not None
        return found.state


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setenv("HOOK", SECRET)
    monkeypatch.setenv("OTHER", OTHER)
    made = House(tmp_path)
    yield made
    made.store.close()


async def test_a_signed_order_denies_in_the_name_of_the_person_behind_the_user(house: House) -> None:
    challenge = await house.pause()
    answer = await house.post(house.order(challenge))
    assert (answer.status_code, answer.json()) == (200, {"id": challenge.id, "state": "denied"})
    record = house.ledger.last("challenge.denied")
    assert (record["by"], record["because"]) == ("ann", "not on a Friday (by chat)")


async def test_whoever_a_quorum_asks_may_deny_as_well(house: House) -> None:
    quorums = frozenset({Quorum(proof_class=ProofClass.CONSENT, group="elsewhere")})
    wanted = replace(nouns.challenge().requirement, quorums=quorums)
    challenge = await house.ceremony.open(nouns.challenge(requirement=wanted))
    assert (await house.post(house.order(challenge, user="U3"))).status_code == 200
    assert house.ledger.last("challenge.denied")["by"] == "eve"


async def test_an_order_sent_again_changes_nothing_and_is_void_after_five_minutes(house: House) -> None:
    challenge = await house.pause()
    raw = json.dumps(house.order(challenge)).encode()
    headers = signed(key_of(SECRET), "n_1", house.clock.wall, raw)
    assert [(await house.post(raw, headers=headers)).status_code for _ in range(2)] == [200, 409]
    house.clock.wall += 301
    assert (await house.post(raw, headers=headers)).status_code == 401


@pytest.mark.parametrize(
    ("changes", "how", "status"),
    [
        ({}, {"secret": OTHER}, 401),
        ({}, {"headers": {}}, 401),
        ({}, {"channel": "silent"}, 404),
        ({}, {"channel": "unknown"}, 404),
        ({}, {"channel": "other"}, 401),
        ({"user": "U2"}, {}, 403),
        ({"user": "U3"}, {}, 403),
        ({"user": "U4"}, {}, 403),
        ({"user": "ann"}, {}, 403),
        ({"user": ""}, {}, 403),
        ({"short_digest": "000000"}, {}, 403),
        ({"challenge": "c_none"}, {}, 404),
        ({"type": "challenge.approve"}, {}, 400),
        ({"type": "challenge.opened"}, {}, 400),
        ({"decision": "approve"}, {}, 400),
    ],
)
async def test_an_order_of_anybody_else_for_anything_else_is_refused(
    changes: dict[str, str], how: dict[str, object], status: int, house: House
) -> None:
    challenge = await house.pause()
    answer = await house.post(house.order(challenge, **changes), **how)  # type: ignore[arg-type]  # each case by name
    assert answer.status_code == status
    assert house.state(challenge) is State.PENDING


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b'{"type":"challenge.deny"}', b'{"type":"a","type":"challenge.deny"}', b"\xff", b"1" * 70_000],
)
async def test_a_body_that_is_no_order_is_refused(body: bytes, house: House) -> None:
    challenge = await house.pause()
    assert (await house.post(body)).status_code == 400
    assert house.state(challenge) is State.PENDING


async def test_a_notice_sent_back_is_no_order(house: House) -> None:
    challenge = await house.pause()
    told = words.notice(challenge, Stage.OPENED, groups=("approvers",), public_url="http://g", now=house.clock.wall)
    body = json.dumps(words.payload(told)).encode()
    assert (await house.post(body)).status_code == 400
    assert house.state(challenge) is State.PENDING


async def test_opening_the_address_denies_nothing_and_a_page_of_another_site_cannot_post(house: House) -> None:
    challenge = await house.pause()
    transport = httpx2.ASGITransport(app=house.app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost:7001") as client:
        assert (await client.get("/channels/chat/deny")).status_code == 405
    raw = json.dumps(house.order(challenge)).encode()
    headers = dict(signed(key_of(SECRET), "n_1", house.clock.wall, raw))
    assert (await house.post(raw, headers=headers | {"origin": "https://evil.example"})).status_code == 403
    assert house.state(challenge) is State.PENDING


async def test_what_was_approved_is_not_undone_by_a_chat(house: House) -> None:
    challenge = await house.pause()
    approved = replace(challenge, state=State.SATISFIED, proofs=(nouns.consent(),), version=1, decided=house.clock.wall)
    assert house.store.challenges.swap(challenge, approved, durable=False)
    assert (await house.post(house.order(challenge))).status_code == 409
