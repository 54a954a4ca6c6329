"""Signed intents: what one covers, who may sign it, how often it counts, and what never does."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import (
    ProofError,
    ProofExpiredError,
    ProofInvalidError,
    ProofReplayedError,
    ProofWrongApproverError,
    ProofWrongCallError,
    UnavailableError,
)
from guard.factors import register
from guard.factors.ecdsa import thumbprint
from guard.factors.intent import PUBLISH_WITHIN, IntentFactor, envelope
from guard.factors.signature import workload_factor
from guard.intents import Intent
from guard.model import Challenge, Demand, Json, Principal, ProofClass, Quorum, Requirement, State
from guard.ports import Agent
from guard.reasons import Code, Reason
from guard.signer.filekey import FileKey
from guard.stepup.binding import SKEW, pae
from guard.stepup.ceremony import Ceremony
from guard.stepup.intent import (
    LONGEST,
    MAX_BYTES,
    MOST,
    Manifest,
    parse,
    payload,
    require_covers,
    require_issued,
    signed_bytes,
)
from guard.store.seal import Keyring
from guard.store.sql import SqlStore
from guard.web.intents import Rate
from guard.wire.canonical import canonical, digest
from tests import nouns
from tests.world_store import WorldClock, WorldLedger, WorldStore

NOW = int(nouns.NOW)
ARGUMENTS: Mapping[str, Json] = {"version": "1.4.2", "environment": "prod", "options": {"canary": True, "replicas": 3}}
TEXT = canonical(ARGUMENTS)


def manifest(**changes: object) -> Manifest:
    made = Manifest(
        id="i_" + "0" * 22,
        audience="guard",
        signer="releases",
        key="",
        agent="deployer",
        server="payments",
        tool="refund",
        issued=NOW,
        begins=NOW,
        ends=NOW + 600,
        uses=1,
        equals=ARGUMENTS,
        ticket="CHG0030001",
        reason="release 1.4.2",
    )
    return replace(made, **changes)


def call(arguments: Mapping[str, Json] = ARGUMENTS, **changes: object) -> Challenge:
    return nouns.challenge(arguments=canonical(arguments), digest=digest(canonical(arguments)), **changes)


def covers(wanted: Manifest, asked: Challenge, now: float = NOW + 1) -> bool:
    try:
        require_covers(wanted, asked, now)
    except ProofError:
        return False
    return True


# ------------------------------------------------------------------ what a manifest covers


def test_a_manifest_covers_exactly_the_call_it_names() -> None:
    assert covers(manifest(), call())


@pytest.mark.parametrize(
    "other",
    [
        call({**ARGUMENTS, "version": "1.4.3"}),
        call({**ARGUMENTS, "environment": "staging"}),
        call({**ARGUMENTS, "force": True}),
        call({**ARGUMENTS, "options": {"canary": True, "replicas": 3, "force": True}}),
        call({**ARGUMENTS, "options": {"canary": 1, "replicas": 3}}),
        call({"version": "1.4.2"}),
        call({}),
        call(principal=Principal(subject="other", credential="k")),
        call(server="other"),
        call(name="other"),
        call(kind="prompt"),
        call(kind="resource"),
        call(kind="result"),
        call(reasons=(Reason(Code.TAG_CRITICAL), Reason(Code.DEFINITION_CHANGED))),
    ],
)
def test_a_manifest_covers_nothing_else(other: Challenge) -> None:
    with pytest.raises(ProofWrongCallError):
        require_covers(manifest(), other, NOW + 1)


@pytest.mark.parametrize(
    ("now", "open_"), [(NOW - 1, False), (NOW, True), (NOW + 599.9, True), (NOW + 600, False), (NOW + 9999, False)]
)
def test_the_window_is_open_from_its_beginning_until_just_before_its_end(now: float, open_: bool) -> None:
    assert covers(manifest(), call(), now) is open_
    if not open_:
        with pytest.raises(ProofExpiredError):
            require_covers(manifest(), call(), now)


def test_a_digest_names_the_arguments_as_a_whole() -> None:
    exact = manifest(equals=None, exact=digest(TEXT))
    assert covers(exact, call())
    assert covers(exact, call(dict(reversed(ARGUMENTS.items()))))
    assert not covers(exact, call({**ARGUMENTS, "more": 1}))
    assert covers(replace(exact, when='args.version == "1.4.2"'), call())
    assert not covers(replace(exact, when='args.version != "1.4.2"'), call())
    assert not covers(replace(exact, equals={"version": "2"}), call())


@pytest.mark.parametrize(
    ("when", "arguments", "covered"),
    [
        ("args.n > 3", {"n": 4}, True),
        ("args.n > 3", {"n": 3}, False),
        ("args.n > 3", {"n": "4"}, False),
        ("args.n > 3", {}, False),
        ("args.n > 3", {"n": 4, "m": 1}, False),
        ("args.n > 3 && !has(args.m)", {"n": 4}, True),
        ("args.n > 3 && !has(args.m)", {"n": 4, "m": 1}, False),
        ("args.o.n > 3", {"o": {"n": 4}}, True),
        ("args.o.n > 3", {"o": {"n": 4, "m": 1}}, False),
        ("args.o.n > 3", {"o": {"n": 4}, "p": {}}, False),
        ('args.v.matches("^1[.]4[.]")', {"v": "1.4.9"}, True),
        ('args.v.matches("^1[.]4[.]")', {"v": "1.5.0"}, False),
        ('now < timestamp("2000-01-01T00:00:00Z")', {}, False),
        ('now > timestamp("2000-01-01T00:00:00Z")', {}, True),
        ('now > timestamp("2000-01-01T00:00:00Z")', {"n": 1}, False),
    ],
)
def test_a_condition_covers_what_it_names_and_nothing_that_it_does_not(
    when: str, arguments: Mapping[str, Json], covered: bool
) -> None:
    assert covers(manifest(equals=None, when=when), call(arguments)) is covered


def test_equality_and_condition_together_name_the_arguments() -> None:
    both = manifest(equals={"environment": "prod"}, when='args.version.startsWith("1.4.")')
    assert covers(both, call({"environment": "prod", "version": "1.4.7"}))
    assert not covers(both, call({"environment": "prod", "version": "1.5.0"}))
    assert not covers(both, call({"environment": "prod", "version": "1.4.7", "force": True}))


def test_a_changed_definition_is_covered_only_by_name() -> None:
    changed = call(reasons=(Reason(Code.DEFINITION_CHANGED),), definition="e" * 64)
    assert covers(manifest(definition="e" * 64), changed)
    assert not covers(manifest(definition="d" * 64), changed)
    assert not covers(manifest(definition="e" * 64), call(definition="f" * 64))


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=2),
    max_leaves=6,
)
objects = st.dictionaries(st.sampled_from(["a", "b", "c"]), values, max_size=3)


@given(objects, objects)
def test_equality_covers_equal_arguments_and_no_others(wanted: dict[str, Json], asked: dict[str, Json]) -> None:
    assert covers(manifest(equals=wanted), call(asked)) is (canonical(wanted) == canonical(asked))


# ------------------------------------------------------------------ reading


@given(objects, st.integers(1, MOST), st.sampled_from(["", "1 == 1 && args.a"]), st.text("ab c", max_size=9))
def test_what_is_written_is_read_back(equals: dict[str, Json], uses: int, when: str, reason: str) -> None:
    wanted = manifest(key="a" * 64, equals=equals, uses=uses, when=when, reason=reason)
    assert parse(payload(wanted)) == wanted


def spoiled(**changes: Json) -> bytes:
    value = json.loads(payload(manifest(key="a" * 64)))
    return canonical({name: one for name, one in (value | changes).items() if one != "-"}).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        spoiled(v=2),
        spoiled(v="1"),
        spoiled(typ="guard.stepup-challenge"),
        spoiled(id="i_short"),
        spoiled(id="c_" + "0" * 22),
        spoiled(key="A" * 64),
        spoiled(signer="a b"),
        spoiled(agent=""),
        spoiled(tool=""),
        spoiled(upstream=""),
        spoiled(aud=""),
        spoiled(arguments={}),
        spoiled(arguments={"equals": []}),
        spoiled(arguments={"digest": "x"}),
        spoiled(arguments={"when": ""}),
        spoiled(arguments={"when": "args.n >"}),
        spoiled(arguments={"when": "principal.subject == 'x'"}),
        spoiled(arguments={"when": "windows.office"}),
        spoiled(arguments={"any": True}),
        spoiled(iat=-1),
        spoiled(iat=True),
        spoiled(uses=0),
        spoiled(uses=MOST + 1),
        spoiled(uses=1.5),
        spoiled(exp=NOW),
        spoiled(exp=NOW + LONGEST + 1),
        spoiled(nbf=NOW - SKEW - 1),
        spoiled(ticket="CHG1^ORactive=true"),
        spoiled(ticket="../x"),
        spoiled(reason="x" * 501),
        spoiled(extra=1),
        spoiled(reason="-"),
        spoiled().replace(b'":', b'": ', 1),
        spoiled() + b"\n",
        spoiled().replace(b'{"agent"', b'{"agent":"x","agent"', 1),
        b"\xff",
        b'{"a":"' + b"x" * MAX_BYTES + b'"}',
    ],
)
def test_anything_but_the_one_spelling_of_a_sensible_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(ProofInvalidError):
        parse(raw)


def test_the_longest_window_and_the_most_uses_are_allowed() -> None:
    assert parse(spoiled(exp=NOW - SKEW + LONGEST, uses=MOST, nbf=NOW - SKEW, ticket="")).uses == MOST


@pytest.mark.parametrize(
    ("changes", "arguments"),
    [
        ({}, {"equals": dict(ARGUMENTS)}),
        ({"equals": None, "exact": "e" * 64}, {"digest": "e" * 64}),
        ({"equals": {}, "when": "args.n < 3"}, {"equals": {}, "when": "args.n < 3"}),
    ],
)
def test_a_manifest_is_written_in_the_form_of_version_1(
    changes: dict[str, object], arguments: dict[str, object]
) -> None:
    wanted = manifest(key="a" * 64, definition="d" * 64, **changes)
    text = {
        "v": 1,
        "typ": "guard.intent",
        "aud": "guard",
        "id": "i_" + "0" * 22,
        "signer": "releases",
        "key": "a" * 64,
        "agent": "deployer",
        "upstream": "payments",
        "tool": "refund",
        "tool_schema_digest": "d" * 64,
        "arguments": arguments,
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 600,
        "uses": 1,
        "ticket": "CHG0030001",
        "reason": "release 1.4.2",
    }
    raw = payload(wanted)
    assert raw == json.dumps(text, sort_keys=True, separators=(",", ":")).encode()
    assert parse(raw) == wanted
    kind = "application/vnd.guard.intent.v1+json"
    assert signed_bytes(raw) == f"DSSEv1 {len(kind)} {kind} {len(raw)} ".encode() + raw
    assert envelope(raw, b"signature", "thumb") == {
        "payloadType": kind,
        "payload": base64.b64encode(raw).decode(),
        "signatures": [{"keyid": "thumb", "sig": base64.b64encode(b"signature").decode()}],
    }


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"server": "vault"}, "the intent is for another server"),
        ({"name": "pay"}, "the intent is for another tool"),
        ({"kind": "resource"}, "the intent is for another tool"),
        ({"principal": Principal(subject="x", credential="k"), "server": "v"}, "for another agent and server"),
        (
            {"principal": Principal(subject="x", credential="k"), "server": "v", "name": "n"},
            "agent and server and tool",
        ),
    ],
)
def test_an_agent_is_told_for_what_else_an_intent_is(other: dict[str, object], said: str) -> None:
    with pytest.raises(ProofWrongCallError, match=said):
        require_covers(manifest(), call(**other), NOW)


@pytest.mark.parametrize(("now", "said"), [(NOW - 0.5, "has not begun"), (NOW + 600, "is over")])
def test_an_agent_is_told_whether_a_window_has_not_begun_or_is_over(now: float, said: str) -> None:
    with pytest.raises(ProofExpiredError, match=f"the window of the intent {said}$"):
        require_covers(manifest(), call(), now)


def test_integers_that_a_float_cannot_hold_are_compared_exactly() -> None:
    text = '{"amount":9007199254740993}'
    asked = nouns.challenge(arguments=text, digest=digest(text))
    wanted = manifest(equals={}, when="args.amount == 9007199254740992")
    assert not covers(wanted, asked)
    assert covers(replace(wanted, when="args.amount == 9007199254740993"), asked)


def test_a_tool_without_arguments_is_covered_by_an_intent_that_names_none() -> None:
    assert covers(manifest(equals={}), call({}))
    assert not covers(manifest(equals={}), call({"a": {}}))


@pytest.mark.parametrize(
    ("issued", "enrolled", "ends", "taken"),
    [
        (NOW, NOW + SKEW, NOW + 600, True),
        (NOW, NOW + SKEW + 1, NOW + 600, False),
        (NOW - 3600, 0, NOW + 600, True),
        (NOW - 3601, 0, NOW + 600, False),
        (NOW + SKEW, 0, NOW + 600, True),
        (NOW + SKEW + 1, 0, NOW + 600, False),
        (NOW - 9, 0, NOW + 1, True),
        (NOW - 9, 0, NOW, False),
    ],
)
def test_a_manifest_is_taken_if_it_was_signed_lately_and_is_not_over(
    issued: int, enrolled: float, ends: int, taken: bool
) -> None:
    signed = manifest(issued=issued, begins=issued, ends=ends)
    if taken:
        require_issued(signed, enrolled=enrolled, now=NOW, within=3600)
        return
    with pytest.raises(ProofExpiredError):
        require_issued(signed, enrolled=enrolled, now=NOW, within=3600)


def test_a_note_is_ticket_and_reason() -> None:
    assert manifest().note == "CHG0030001: release 1.4.2"
    assert manifest(ticket="").note == "release 1.4.2"
    assert manifest(reason="").note == "CHG0030001"


# ------------------------------------------------------------------ publishing and proving


@dataclass
class Office:
    """A store with an agent, a release system with its key, and the factor under test."""

    store: SqlStore
    ledger: WorldLedger = field(default_factory=WorldLedger)
    clock: WorldClock = field(default_factory=lambda: WorldClock(nouns.NOW, lambda: 0.0))
    tokens: int = 0

    def __post_init__(self) -> None:
        self.clock.token = self.token  # type: ignore[method-assign]
        self.key = new_key()
        self.store.agents.add(Agent(name="deployer", owner="olga", created=NOW))
        self.factor = self.make()
        self.enrolled = self.factor.enroll(
            "releases", self.key.public_spki(), agents=["deploy*"], servers=["payments"], attestation=1
        )

    def token(self, prefix: str) -> str:
        self.tokens += 1
        return f"{prefix}_{self.tokens:022d}"

    def make(self, **more: object) -> IntentFactor:
        s = self.store
        return IntentFactor(s.intents, s.factors, s.agents, self.ledger, self.clock, audience="guard", **more)

    def signed(self, by: FileKey | None = None, **changes: object) -> dict[str, Json]:
        signer = by or self.key
        raw = payload(manifest(**{"key": thumbprint(signer.public_spki()), "id": self.token("i"), **changes}))
        return envelope(raw, signer.sign(signed_bytes(raw)), "")

    def publish(self, **changes: object) -> Intent:
        return self.factor.publish(self.signed(**changes))

    def ceremony(self, **more: object) -> Ceremony:
        sources = {"intent": self.factor}
        return Ceremony(
            self.store, self.ledger, self.clock, verifiers=sources, beforehand=sources, cool_down=60, **more
        )


def new_key() -> FileKey:
    return FileKey(ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    store = SqlStore.open(tmp_path / "state", Keyring.open(tmp_path / "state"))
    yield Office(store)
    store.close()


def test_a_published_intent_consents_by_its_signer_with_ticket_and_attestation(office: Office) -> None:
    intent = office.publish()
    proof = office.factor.verify(call(), {"intent": intent.id}, NOW + 1)
    assert (proof.proof_class, proof.kind, proof.subject, proof.factor) == (
        ProofClass.CONSENT,
        "intent",
        "releases",
        intent.id,
    )
    assert (proof.attestation, proof.at, proof.note) == (1, NOW + 1, "CHG0030001: release 1.4.2")
    record = office.ledger.last("intent.published")
    assert record == {
        "intent": intent.id,
        "signer": "releases",
        "factor": office.enrolled.id,
        "attestation": 1,
        "agent": "deployer",
        "server": "payments",
        "tool": "refund",
        "manifest_digest": digest(intent.payload),
        "issued": NOW,
        "begins": NOW,
        "ends": NOW + 600,
        "uses": 1,
        "ticket": "CHG0030001",
        "note": "release 1.4.2",
    }
    assert "1.4.2" not in json.dumps({**record, "note": ""})


def test_publishing_the_same_intent_again_changes_nothing(office: Office) -> None:
    signed = office.signed(id="i_" + "7" * 22)
    first = office.factor.publish(signed)
    assert office.factor.publish(signed) == first
    assert office.ledger.events.count("intent.published") == 1
    assert office.store.intents.revoke(first.id, NOW)
    assert office.factor.publish(signed).revoked == NOW


def test_an_id_that_was_used_for_something_else_is_refused(office: Office) -> None:
    office.publish(id="i_" + "7" * 22)
    with pytest.raises(ProofReplayedError):
        office.publish(id="i_" + "7" * 22, uses=999)
    assert office.ledger.last("intent.rejected")["signer"] == "releases"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"agent": "builder"}, ProofWrongCallError),
        ({"server": "vault"}, ProofWrongCallError),
        ({"audience": "elsewhere"}, ProofWrongCallError),
        ({"signer": "changes"}, ProofInvalidError),
        ({"key": "b" * 64}, ProofInvalidError),
        ({"issued": NOW + SKEW + 1, "begins": NOW + 100}, ProofExpiredError),
        ({"issued": NOW - SKEW - 1}, ProofExpiredError),
    ],
)
def test_an_intent_beyond_what_its_key_is_enrolled_for_is_refused(
    changes: dict[str, Any], error: type[ProofError], office: Office
) -> None:
    with pytest.raises(error):
        office.publish(**changes)
    assert not office.store.intents.find(limit=9)


@pytest.mark.parametrize(("late", "taken"), [(0, True), (PUBLISH_WITHIN, True), (PUBLISH_WITHIN + 1, False)])
def test_an_intent_is_published_soon_after_it_was_signed(late: float, taken: bool, office: Office) -> None:
    signed = office.signed(ends=NOW + 7200)
    office.clock.wall = NOW + late
    if taken:
        assert office.factor.publish(signed).published == NOW + late
    else:
        with pytest.raises(ProofExpiredError):
            office.factor.publish(signed)


def test_an_intent_whose_window_is_over_is_not_published(office: Office) -> None:
    signed = office.signed()
    office.clock.wall = NOW + 600
    with pytest.raises(ProofExpiredError):
        office.factor.publish(signed)


def test_neither_the_agent_nor_its_owner_nor_a_key_of_the_agent_signs_for_it(office: Office) -> None:
    for name in ("deployer", "DEPLOYER", "Olga"):
        key = new_key()
        office.factor.enroll(name, key.public_spki(), agents=["*"], servers=["*"], attestation=1)
        with pytest.raises(ProofWrongApproverError):
            office.factor.publish(office.signed(key, signer=name))
    office.store.factors.add(
        workload_factor(identifier="f_w", subject="deployer", spki=office.key.public_spki(), attestation=1, now=NOW)
    )
    with pytest.raises(ProofWrongApproverError):
        office.publish()


def test_a_key_is_enrolled_with_what_it_may_sign_for_and_that_is_on_record(office: Office) -> None:
    made, spki = office.enrolled, office.key.public_spki()
    assert made.id.startswith("f_")
    assert (made.kind, made.subject, made.created, made.attestation) == ("intent", "releases", NOW, 1)
    assert made.public == {
        "algorithm": "ecdsa-p256-sha256",
        "spki": base64.b64encode(spki).decode(),
        "agents": ["deploy*"],
        "servers": ["payments"],
    }
    assert office.ledger.last("factor.enrolled") == {
        "factor": made.id,
        "kind": "intent",
        "subject": "releases",
        "attestation": 1,
        "agents": ["deploy*"],
        "servers": ["payments"],
    }


def test_a_new_key_of_one_signer_leaves_those_of_others_alone(office: Office) -> None:
    office.factor.enroll("changes", new_key().public_spki(), agents=["*"], servers=["*"], attestation=1)
    assert office.factor.publish(office.signed()).agent == "deployer"


def test_why_a_signed_intent_was_not_taken_is_on_record(office: Office) -> None:
    with pytest.raises(ProofWrongCallError):
        office.publish(id="i_" + "8" * 22, agent="builder")
    assert office.ledger.records[-1] == (
        "intent.rejected",
        {
            "intent": "i_" + "8" * 22,
            "signer": "releases",
            "agent": "builder",
            "reasons": [
                {
                    "code": Code.PROOF_WRONG_CALL.value,
                    "by": "",
                    "evidence": "the key of releases may not sign for this agent",
                }
            ],
        },
    )


def test_a_key_that_is_enrolled_for_something_else_cannot_be_enrolled_for_intents(office: Office) -> None:
    key = new_key()
    office.store.factors.add(
        workload_factor(identifier="f_w", subject="deployer", spki=key.public_spki(), attestation=1, now=NOW)
    )
    for spki in (key.public_spki(), office.key.public_spki()):
        with pytest.raises(ProofError) as refused:
            office.factor.enroll("changes", spki, agents=["*"], servers=["*"], attestation=1)
        assert refused.value.reason is Code.FACTOR_UNSUITABLE


def test_an_agent_with_a_key_of_its_own_may_still_be_signed_for(office: Office) -> None:
    office.store.factors.add(
        workload_factor(identifier="f_w", subject="deployer", spki=new_key().public_spki(), attestation=1, now=NOW)
    )
    assert office.factor.verify(call(), {"intent": office.publish().id}, NOW + 1)
    assert office.publish(agent="deploy-of-a-jwt").agent == "deploy-of-a-jwt"


def test_of_two_that_publish_an_id_at_once_the_second_is_told_which_it_is(office: Office) -> None:
    class Raced:
        """An office in which somebody else publishes first, between the look and the insertion."""

        def __init__(self, first: dict[str, Json]) -> None:
            self.first, self.looked = first, False

        def get(self, intent_id: str) -> Intent | None:
            if self.looked:
                return office.store.intents.get(intent_id)
            self.looked = True
            office.factor.publish(self.first)
            return None

        def add(self, intent: Intent) -> bool:
            return office.store.intents.add(intent)

    def racing(first: dict[str, Json]) -> IntentFactor:
        s = office.store
        return IntentFactor(Raced(first), s.factors, s.agents, office.ledger, office.clock, audience="guard")  # type: ignore[arg-type]

    mine = office.signed(id="i_" + "5" * 22)
    assert racing(mine).publish(mine).id == "i_" + "5" * 22
    again = office.signed(id="i_" + "6" * 22)
    theirs = office.signed(id="i_" + "6" * 22, uses=2)
    with pytest.raises(ProofReplayedError):
        racing(theirs).publish(again)


def test_the_key_of_a_workload_signs_no_intent(office: Office) -> None:
    key = new_key()
    office.store.factors.add(
        workload_factor(identifier="f_w", subject="builder", spki=key.public_spki(), attestation=1, now=NOW)
    )
    with pytest.raises(ProofInvalidError):
        office.factor.publish(office.signed(key, signer="builder"))


def test_a_new_key_ends_the_old_one_and_a_revoked_key_ends_its_intents(office: Office) -> None:
    intent = office.publish()
    office.factor.enroll("releases", new_key().public_spki(), agents=["*"], servers=["*"], attestation=1)
    with pytest.raises(ProofInvalidError):
        office.factor.verify(call(), {"intent": intent.id}, NOW + 1)
    assert office.ledger.last("factor.enrolled")["agents"] == ["*"]


def test_a_locked_key_gives_nothing(office: Office) -> None:
    intent = office.publish()
    register.lock(office.store.factors, office.enrolled, NOW)
    with pytest.raises(ProofInvalidError):
        office.factor.verify(call(), {"intent": intent.id}, NOW + 1)


def tampered(signed: dict[str, Json], change: Callable[[dict[str, Any]], object]) -> dict[str, Json]:
    copy: dict[str, Any] = json.loads(json.dumps(signed))
    change(copy)
    return copy


def rewrite(**changes: Json) -> Callable[[dict[str, Any]], object]:
    def change(copy: dict[str, Any]) -> None:
        value = json.loads(base64.b64decode(copy["payload"]))
        copy["payload"] = base64.b64encode(canonical({**value, **changes}).encode()).decode()

    return change


@pytest.mark.parametrize(
    "change",
    [
        rewrite(uses=999),
        rewrite(exp=NOW + 6000),
        rewrite(nbf=NOW - 30),
        rewrite(iat=NOW - 30),
        rewrite(agent="deployer2"),
        rewrite(tool="other"),
        rewrite(arguments={"when": "1 == 1"}),
        rewrite(ticket="CHG1"),
        lambda copy: copy["signatures"].append(copy["signatures"][0]),
        lambda copy: copy["signatures"].clear(),
        lambda copy: copy.update(signatures={}),
        lambda copy: copy.update(signatures=[1]),
        lambda copy: copy.update(payloadType="application/vnd.guard.stepup-challenge.v1+json"),
        lambda copy: copy.update(payload=7),
        lambda copy: copy.update(more=1),
        lambda copy: copy.pop("payload"),
        lambda copy: copy.pop("payloadType"),
        lambda copy: copy["signatures"][0].update(sig=""),
        lambda copy: copy["signatures"][0].update(sig="AAAA"),
        lambda copy: copy["signatures"][0].update(sig=base64.b64encode(bytes(64)).decode()),
        lambda copy: copy["signatures"][0].update(sig=None),
        lambda copy: copy["signatures"][0].update(sig=copy["signatures"][0]["sig"] + "\n"),
    ],
)
def test_a_changed_envelope_is_refused(change: Callable[[dict[str, Any]], object], office: Office) -> None:
    with pytest.raises(ProofInvalidError):
        office.factor.publish(tampered(office.signed(), change))
    assert not office.store.intents.find(limit=9)


def test_a_signature_over_other_bytes_is_no_signature(office: Office) -> None:
    raw = payload(manifest(key=thumbprint(office.key.public_spki())))
    for signed in (raw, pae("application/vnd.guard.stepup-challenge.v1+json", raw)):
        with pytest.raises(ProofInvalidError):
            office.factor.publish(envelope(raw, office.key.sign(signed), ""))


def test_what_the_store_says_is_believed_only_where_the_signed_bytes_agree(office: Office) -> None:
    intent = office.publish()
    moved = replace(intent, id="i_" + "9" * 22, tool="wipe")
    assert office.store.intents.add(moved)
    with pytest.raises(ProofInvalidError):
        office.factor.verify(call(name="wipe"), {"intent": moved.id}, NOW + 1)
    forged = replace(intent, id="i_" + "8" * 22, payload=payload(manifest(id="i_" + "8" * 22, key="c" * 64)))
    assert office.store.intents.add(forged)
    with pytest.raises(ProofInvalidError):
        office.factor.verify(call(), {"intent": forged.id}, NOW + 1)


@pytest.mark.parametrize("evidence", [{}, {"intent": 7}, {"intent": "i_none"}, {"intent": "", "decision": "deny"}])
def test_evidence_that_names_no_intent_or_would_refuse_is_no_evidence(
    evidence: dict[str, Json], office: Office
) -> None:
    intent = office.publish()
    with pytest.raises(ProofInvalidError):
        office.factor.verify(call(), evidence, NOW + 1)
    with pytest.raises(ProofInvalidError):
        office.factor.verify(call(), {"intent": intent.id, "decision": "deny"}, NOW + 1)


def test_a_revoked_or_used_up_intent_gives_nothing(office: Office) -> None:
    intent, spent = office.publish(), office.publish()
    office.store.intents.revoke(intent.id, NOW)
    with pytest.raises(ProofExpiredError) as revoked:
        office.factor.verify(call(), {"intent": intent.id}, NOW + 1)
    assert "was revoked" in revoked.value.public
    challenge = call()
    office.store.challenges.open_or_join(challenge)
    done = replace(challenge, state=State.CONSUMED, arguments="", version=1)
    assert office.store.challenges.swap(challenge, done, durable=True, spends={spent.id: 1})
    with pytest.raises(ProofReplayedError):
        office.factor.verify(call(), {"intent": spent.id}, NOW + 1)
    with pytest.raises(ProofReplayedError):
        office.factor.uses(nouns.consent("releases", "intent", spent.id))


def test_an_intent_stands_until_it_is_over_revoked_or_used(office: Office) -> None:
    intent = office.publish()
    proof = office.factor.verify(call(), {"intent": intent.id}, NOW + 1)
    assert office.factor.stands(call(), proof)
    assert office.factor.uses(proof) == 1
    assert office.factor.stands(call(), nouns.consent("ann"))
    assert office.factor.stands(call(), nouns.possession())
    office.clock.wall = NOW + 600
    assert not office.factor.stands(call(), proof)
    with pytest.raises(ProofExpiredError):
        office.factor.uses(proof)
    office.clock.wall = NOW + 1
    office.store.intents.revoke(intent.id, NOW)
    assert not office.factor.stands(call(), proof)


def test_live_intents_are_offered_and_without_one_the_last_for_the_reason(office: Office) -> None:
    assert office.factor.evidence(call()) == ()
    first, second = office.publish(), office.publish()
    assert office.factor.evidence(call()) == ({"intent": second.id}, {"intent": first.id})
    office.store.intents.revoke(second.id, NOW)
    assert office.factor.evidence(call()) == ({"intent": first.id}, {"intent": second.id})
    office.clock.wall = NOW + 600
    assert office.factor.evidence(call()) == ({"intent": second.id},)
    assert office.factor.evidence(call(kind="prompt")) == ()
    assert office.factor.evidence(call(name="other")) == ()
    assert office.factor.evidence(call(server="other")) == ()
    assert office.factor.evidence(call(principal=Principal(subject="x", credential="k"))) == ()


class Desk:
    """A change system that says what the test wants."""

    def __init__(self) -> None:
        self.refuses, self.asked = False, list[str]()

    def check(self, ticket: str, now: float) -> None:
        del now
        self.asked.append(ticket)
        if self.refuses:
            raise ProofError(reason=Code.TICKET_REFUSED)


def test_a_ticket_is_asked_about_whenever_the_intent_is_used(office: Office) -> None:
    tickets = Desk()
    office.factor = office.make(tickets=tickets, ticketed=True)
    intent = office.publish()
    proof = office.factor.verify(call(), {"intent": intent.id}, NOW + 1)
    assert tickets.asked == ["CHG0030001"]
    tickets.refuses = True
    assert not office.factor.stands(call(), proof)
    with pytest.raises(ProofError) as refused:
        office.factor.verify(call(), {"intent": intent.id}, NOW + 1)
    assert refused.value.reason is Code.TICKET_REFUSED
    assert refused.value.public.startswith(intent.id)


def test_where_tickets_are_required_an_intent_without_one_is_not_taken(office: Office) -> None:
    earlier = office.publish(ticket="")
    office.factor = office.make(tickets=Desk(), ticketed=True)
    with pytest.raises(ProofInvalidError):
        office.publish(ticket="")
    with pytest.raises(ProofInvalidError):
        office.factor.verify(call(), {"intent": earlier.id}, NOW + 1)
    office.factor = office.make(tickets=Desk())
    assert office.factor.verify(call(), {"intent": office.publish(ticket="").id}, NOW + 1)


# ------------------------------------------------------------------ in a ceremony


def run(work: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever the ceremony returns
    return anyio.run(work)


def test_a_call_that_an_intent_wants_is_satisfied_as_it_opens_and_the_use_is_counted_when_it_is_spent(
    office: Office,
) -> None:
    intent = office.publish()
    ceremony = office.ceremony()

    async def story() -> bool:
        opened = await ceremony.open(call())
        assert opened.state is State.SATISFIED
        assert (found := office.store.intents.get(intent.id)) is not None
        assert found.used == 0
        [grant] = await ceremony.grants(opened.digest)
        return await ceremony.consume(grant)

    assert run(story)
    found = office.store.intents.get(intent.id)
    assert found is not None
    assert found.used == 1
    assert office.ledger.events[-3:] == ["challenge.opened", "proof.accepted", "grant.consumed"]
    [factor] = office.ledger.last("grant.consumed")["factors"]  # type: ignore[misc]
    assert factor["note"] == "CHG0030001: release 1.4.2"  # type: ignore[index,call-overload]


def test_one_use_serves_one_of_two_calls_that_both_were_satisfied_by_it(office: Office) -> None:
    office.publish(equals=None, when="args.n > 0")
    ceremony = office.ceremony()

    async def story() -> list[bool]:
        grants = []
        for number in (1, 2):
            opened = await ceremony.open(call({"n": number}, id=f"c_{number:022d}", nonce=f"{number:022d}"))
            grants += await ceremony.grants(opened.digest)
        return [await ceremony.consume(grant) for grant in grants]

    assert run(story) == [True, False]


def test_a_grant_of_an_intent_is_not_spent_after_its_window(office: Office) -> None:
    office.publish()
    ceremony = office.ceremony()

    async def story() -> tuple[bool, Challenge]:
        opened = await ceremony.open(call())
        [grant] = await ceremony.grants(opened.digest)
        office.clock.wall = NOW + 601
        spent = await ceremony.consume(grant)
        again = call(id=f"c_{'Z' * 22}", nonce="Z" * 22, opened=nouns.NOW + 601, expires=nouns.NOW + 900)
        return spent, await ceremony.open(again)

    spent, again = run(story)
    assert not spent
    assert again.state is State.PENDING
    assert "the window of the intent is over" in str(office.ledger.last("proof.rejected"))


def test_why_an_intent_gives_nothing_is_recorded_once_for_a_challenge(office: Office) -> None:
    intent = office.publish()
    ceremony, other = office.ceremony(), call({"version": "6.6.6"})

    async def story() -> Challenge:
        await ceremony.open(other)
        return await ceremony.open(replace(other, id=f"c_{'Z' * 22}", nonce="Z" * 22))

    assert run(story).state is State.PENDING
    assert office.ledger.events.count("proof.rejected") == 1
    [reason] = office.ledger.last("proof.rejected")["reasons"]  # type: ignore[misc]
    assert reason["code"] == "proof_wrong_call"  # type: ignore[index,call-overload]
    assert intent.id in reason["evidence"]  # type: ignore[index,call-overload,operator]


def test_an_intent_alone_is_never_two_people_nor_possession(office: Office) -> None:
    office.publish(equals=None, when="args.n > 0", uses=9)
    ceremony = office.ceremony()

    async def story() -> list[State]:
        states = []
        for number, demand in enumerate([Demand.TWO_PEOPLE, Demand.POSSESSION, Demand.STEP_UP]):
            nonce = f"{number:022d}"
            asked = call({"n": number + 1}, id=f"c_{nonce}", nonce=nonce, requirement=Requirement(frozenset({demand})))
            states.append((await ceremony.open(asked)).state)
        return states

    assert run(story) == [State.PENDING, State.PENDING, State.SATISFIED]


def test_an_intent_of_too_low_attestation_is_told_and_not_taken(office: Office) -> None:
    office.publish()
    strong = Quorum(proof_class=ProofClass.CONSENT, attestation=2)
    asked = call(requirement=Requirement(frozenset({Demand.CONSENT}), quorums=frozenset({strong})))
    assert run(lambda: office.ceremony().open(asked)).state is State.PENDING
    assert "not_taken" in str(office.ledger.last("proof.rejected"))


def test_a_person_whom_an_agent_acts_for_does_not_consent_by_an_intent(office: Office) -> None:
    office.publish()
    for who in ({"on_behalf_of": "Releases"}, {"owner": "releases"}):
        asked = call(principal=replace(nouns.PRINCIPAL, **who))
        assert run(lambda asked=asked: office.ceremony().open(asked)).state is State.PENDING


def test_a_closed_challenge_takes_no_intent(office: Office) -> None:
    ceremony = office.ceremony()

    async def story() -> Challenge:
        opened = await ceremony.open(call())
        await ceremony.decline(opened.id, by="agent", because="no")
        office.publish()
        return await ceremony.open(call(id=f"c_{'Z' * 22}", nonce="Z" * 22))

    assert run(story).state is State.DENIED


# ------------------------------------------------------------------ keys in files


def test_a_key_file_that_others_can_read_or_that_is_no_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    file.chmod(0o644)
    with pytest.raises(Exception, match="others can read"):
        FileKey.read(file)
    file.chmod(0o600)
    assert len(FileKey.read(file).sign(b"x")) == 64
    file.write_text("no key")
    with pytest.raises(Exception, match="not an unencrypted PEM"):
        FileKey.read(file)
    with pytest.raises(Exception, match="cannot be read"):
        FileKey.read(tmp_path / "none")
    file.write_bytes(
        ec.generate_private_key(ec.SECP384R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    with pytest.raises(Exception, match="P-256"):
        FileKey.read(file)


def test_the_simulated_store_counts_uses_as_the_real_one_does() -> None:
    store = WorldStore()
    challenge = call()
    store.open_or_join(challenge)
    done = replace(challenge, state=State.CONSUMED, arguments="", version=1)
    assert not store.swap(challenge, done, durable=True, spends={"i_1": 0})
    assert store.swap(challenge, done, durable=True, spends={"i_1": 1})


# ------------------------------------------------------------------ what is bounded


def test_an_intent_that_is_long_over_is_erased_and_can_not_be_published_again(office: Office) -> None:
    signed = office.signed()
    kept = office.factor.publish(signed)
    assert office.store.intents.purge(kept.ends) == 0
    assert office.store.intents.purge(kept.ends + 1) == 1
    assert office.store.intents.get(kept.id) is None
    office.clock.wall = kept.ends + 31 * 86400
    with pytest.raises(ProofExpiredError):
        office.factor.publish(signed)


def test_an_address_and_all_together_have_only_so_many_envelopes_looked_at_in_a_minute() -> None:
    rate = Rate(each=2, all_of_them=3)
    for source in ("a", "a", "b"):
        rate.take(source, 100.0)
    for source in ("a", "b", "c"):
        with pytest.raises(UnavailableError) as refused:
            rate.take(source, 159.9)
        assert refused.value.reason is Code.OVERLOADED
    rate.take("a", 160.0)
    rate.take("a", 160.0)
    with pytest.raises(UnavailableError):
        rate.take("a", 160.0)
    rate.take("b", 160.0)
