"""One-time codes, approvals and signatures: what counts as a proof and what never does."""

from __future__ import annotations

import base64
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import pyotp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.errors import (
    ProofError,
    ProofInvalidError,
    ProofLockedError,
    ProofReplayedError,
    ProofWrongApproverError,
    ProofWrongCallError,
)
from guard.factors import register
from guard.factors.approval import ApprovalFactor
from guard.factors.ecdsa import public_key
from guard.factors.signature import SignatureFactor, workload_factor
from guard.factors.totp import TotpFactor
from guard.model import (
    Challenge,
    Demand,
    Json,
    Principal,
    Proof,
    ProofClass,
    Quorum,
    Requirement,
    Sensitivity,
    State,
)
from guard.ports import Agent, Approver, Factor
from guard.reasons import Code, Reason
from guard.stepup.binding import challenge_bytes
from guard.stepup.view import render
from guard.store.seal import Keyring
from guard.store.sql import SqlStore
from guard.wire.canonical import call_digest

NOW = 1_700_000_010.0
AUDIENCE = "guard"


@dataclass
class HandClock:
    at: float = NOW
    tokens: int = 0

    def now(self) -> float:
        return self.at

    def mono(self) -> float:
        return self.at

    def token(self, prefix: str) -> str:
        self.tokens += 1
        return f"{prefix}_{self.tokens:022d}"


@dataclass
class Journal:
    records: list[tuple[str, Mapping[str, Json]]] = field(default_factory=list)

    def append(self, event: str, fields: Mapping[str, Json]) -> int:
        self.records.append((event, fields))
        return len(self.records)

    async def append_durably(self, event: str, fields: Mapping[str, Json]) -> int:
        return self.append(event, fields)


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring.open(tmp_path / "state")


@pytest.fixture
def store(tmp_path: Path, keyring: Keyring) -> Iterator[SqlStore]:
    opened = SqlStore.open(tmp_path / "state", keyring)
    yield opened
    opened.close()


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def totp(store: SqlStore, keyring: Keyring, journal: Journal) -> TotpFactor:
    return TotpFactor(store.factors, keyring, journal, HandClock())


@pytest.fixture
def app(totp: TotpFactor) -> pyotp.TOTP:
    """Ann's authenticator app."""
    return app_of(totp, "ann")


def app_of(totp: TotpFactor, person: str) -> pyotp.TOTP:
    parsed = pyotp.parse_uri(totp.enroll(person, issuer="guard").uri)
    assert isinstance(parsed, pyotp.TOTP)
    return parsed


def challenge(number: int = 1, **changes: object) -> Challenge:
    nonce, arguments = f"{number:022d}", '{"path":"prod/db"}'
    made = Challenge(
        id=f"c_{nonce}",
        nonce=nonce,
        principal=Principal(subject="robot", credential="ab" * 8, owner="oli"),
        server="vault",
        method="tools/call",
        kind="tool",
        name="delete",
        arguments=arguments,
        definition="d" * 64,
        digest=call_digest(
            principal="robot",
            server="vault",
            kind="tool",
            name="delete",
            definition="d" * 64,
            canonical_arguments=arguments,
        ),
        policy_revision="r1",
        rule="vault.yaml#tools.delete",
        sensitivity=Sensitivity.CRITICAL,
        effects=frozenset({"destroy"}),
        requirement=Requirement(frozenset({Demand.CONSENT}), approvers="oncall"),
        reasons=(Reason(Code.TAG_CRITICAL, by="sec"),),
        findings=(),
        opened=NOW - 10,
        expires=NOW + 900,
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # each test changes one field by name


# ------------------------------------------------------------------ one-time codes


def test_a_current_code_counts_once(totp: TotpFactor, app: pyotp.TOTP) -> None:
    code = app.at(NOW)
    assert totp.authenticate("ann", code, NOW).startswith("f_")
    with pytest.raises(ProofReplayedError):
        totp.authenticate("ann", code, NOW + 1)


def test_an_earlier_code_never_counts_after_a_later_one(totp: TotpFactor, app: pyotp.TOTP) -> None:
    totp.authenticate("ann", app.at(NOW), NOW)
    with pytest.raises(ProofReplayedError):
        totp.authenticate("ann", app.at(NOW - 30), NOW)


def test_an_app_is_enrolled_as_rfc_6238_has_it_and_that_is_on_record(
    totp: TotpFactor, store: SqlStore, journal: Journal
) -> None:
    made = totp.enroll("ann", issuer="guard of ACME")
    app = pyotp.parse_uri(made.uri)
    assert isinstance(app, pyotp.TOTP)
    assert (app.name, app.issuer, app.digits, app.interval) == ("ann", "guard of ACME", 6, 30)
    assert store.factors.of("ann") == (made.factor,)
    assert made.factor.id.startswith("f_")
    assert (made.factor.kind, made.factor.subject, made.factor.created) == ("totp", "ann", NOW)
    assert made.factor.public == {"algorithm": "SHA1", "digits": 6, "period": 30}
    assert journal.records == [("factor.enrolled", {"factor": made.factor.id, "kind": "totp", "subject": "ann"})]


def test_enrolling_one_person_leaves_the_apps_of_others_and_other_kinds_alone(
    totp: TotpFactor, app: pyotp.TOTP, store: SqlStore, keyring: Keyring, journal: Journal
) -> None:
    bob = app_of(totp, "bob")
    glass = TotpFactor(store.factors, keyring, journal, HandClock(tokens=50), kind="break_glass")
    glass.enroll("ann", issuer="guard")
    totp.authenticate("ann", app.at(NOW), NOW)
    totp.authenticate("bob", bob.at(NOW), NOW)


def test_a_locked_factor_is_on_record_with_whose_it_is(totp: TotpFactor, app: pyotp.TOTP, journal: Journal) -> None:
    for _ in range(4):
        with pytest.raises(ProofInvalidError):
            totp.authenticate("ann", "no", NOW)
    with pytest.raises(ProofLockedError):
        totp.authenticate("ann", "no", NOW)
    identifier = journal.records[0][1]["factor"]
    said = {"factor": identifier, "kind": "totp", "subject": "ann", "by": "wrong codes"}
    assert journal.records[-1] == ("factor.locked", said)


def test_every_code_that_is_tried_makes_a_new_version_of_the_factor(
    totp: TotpFactor, app: pyotp.TOTP, store: SqlStore
) -> None:
    [first] = store.factors.of("ann")
    with pytest.raises(ProofInvalidError):
        totp.authenticate("ann", "no", NOW)
    totp.authenticate("ann", app.at(NOW), NOW)
    [after] = store.factors.of("ann")
    assert (after.version, after.counter) == (first.version + 2, NOW // 30)


@pytest.mark.parametrize(("after", "locks"), [(899.0, True), (900.0, False)])
def test_wrong_codes_are_counted_for_less_than_fifteen_minutes(
    after: float, locks: bool, totp: TotpFactor, app: pyotp.TOTP, store: SqlStore
) -> None:
    for _ in range(4):
        with pytest.raises(ProofInvalidError):
            totp.authenticate("ann", "no", NOW)
    with pytest.raises(ProofLockedError if locks else ProofInvalidError):
        totp.authenticate("ann", "no", NOW + after)
    assert (store.factors.of("ann")[0].locked > 0) is locks


def test_a_clock_set_back_opens_no_used_code(totp: TotpFactor, app: pyotp.TOTP) -> None:
    totp.authenticate("ann", app.at(NOW), NOW)
    with pytest.raises(ProofReplayedError):
        totp.authenticate("ann", app.at(NOW - 60), NOW - 60)


@pytest.mark.parametrize(("skew", "counts"), [(-60, False), (-30, True), (0, True), (30, True), (60, False)])
def test_a_code_counts_one_step_early_or_late_and_no_further(
    skew: int, counts: bool, totp: TotpFactor, app: pyotp.TOTP
) -> None:
    if counts:
        totp.authenticate("ann", app.at(NOW + skew), NOW)
    else:
        with pytest.raises(ProofInvalidError):
            totp.authenticate("ann", app.at(NOW + skew), NOW)


@pytest.mark.parametrize(
    "spell",
    [
        lambda code: f" {code}",
        lambda code: f"{code} ",
        lambda code: f"{code}\n",
        lambda code: f"+{code}",
        lambda code: f"0{code}",
        lambda code: f"{code[:3]} {code[3:]}",
        lambda code: f"{code}\0",
        lambda code: code.translate({ord("0") + n: chr(0xFF10 + n) for n in range(10)}),
        lambda code: code.translate({ord("0") + n: chr(0x0660 + n) for n in range(10)}),
        lambda _: "",
    ],
)
def test_a_right_code_in_another_spelling_is_wrong_and_is_counted(
    spell: object, totp: TotpFactor, app: pyotp.TOTP, store: SqlStore
) -> None:
    assert callable(spell)
    with pytest.raises(ProofInvalidError):
        totp.authenticate("ann", spell(app.at(NOW)), NOW)
    assert len(store.factors.of("ann")[0].failures) == 1


def test_five_wrong_codes_lock_and_the_right_one_no_longer_helps(
    totp: TotpFactor, app: pyotp.TOTP, journal: Journal
) -> None:
    for _ in range(4):
        with pytest.raises(ProofInvalidError):
            totp.authenticate("ann", "no", NOW)
    with pytest.raises(ProofLockedError):
        totp.authenticate("ann", "no", NOW)
    with pytest.raises(ProofLockedError):
        totp.authenticate("ann", app.at(NOW + 3600), NOW + 3600)
    assert [event for event, _ in journal.records].count("factor.locked") == 1


def test_wrong_codes_fade_after_fifteen_minutes(totp: TotpFactor, app: pyotp.TOTP) -> None:
    for _ in range(4):
        with pytest.raises(ProofInvalidError):
            totp.authenticate("ann", "no", NOW)
    with pytest.raises(ProofInvalidError):
        totp.authenticate("ann", "no", NOW + 901)
    totp.authenticate("ann", app.at(NOW + 902), NOW + 902)


def test_a_hundred_wrong_codes_without_a_right_one_lock_however_slowly_they_come(
    totp: TotpFactor, app: pyotp.TOTP, journal: Journal
) -> None:
    for wrong in range(99):
        with pytest.raises(ProofInvalidError):
            totp.authenticate("ann", "no", NOW + 901 * wrong)
    with pytest.raises(ProofLockedError):
        totp.authenticate("ann", "no", NOW + 901 * 99)
    assert journal.records[-1][0] == "factor.locked"


def test_a_right_code_begins_the_slow_count_anew_and_not_the_quick_one(
    totp: TotpFactor, app: pyotp.TOTP, store: SqlStore
) -> None:
    for wrong in range(99):
        with pytest.raises(ProofInvalidError):
            totp.authenticate("ann", "no", NOW + 901 * wrong)
    late = NOW + 901 * 98
    totp.authenticate("ann", app.at(late), late)
    assert store.factors.of("ann")[0].failures == (late,)
    for _ in range(3):
        with pytest.raises(ProofInvalidError):
            totp.authenticate("ann", "no", late + 1)
    with pytest.raises(ProofLockedError):
        totp.authenticate("ann", "no", late + 1)


def test_enrolling_again_unlocks_and_retires_the_old_app(totp: TotpFactor, app: pyotp.TOTP, store: SqlStore) -> None:
    register.lock(store.factors, store.factors.of("ann")[0], NOW)
    fresh = app_of(totp, "ann")
    with pytest.raises(ProofInvalidError):
        totp.authenticate("ann", app.at(NOW), NOW)
    totp.authenticate("ann", fresh.at(NOW), NOW)


def test_fifty_threads_with_one_code_have_one_winner(totp: TotpFactor, app: pyotp.TOTP) -> None:
    outcomes = race(50, lambda: totp.authenticate("ann", app.at(NOW), NOW))
    assert outcomes == {"accepted": 1, "ProofReplayedError": 49}


def test_fifty_threads_guessing_have_five_guesses_and_one_alarm(
    totp: TotpFactor, app: pyotp.TOTP, store: SqlStore, journal: Journal
) -> None:
    del app
    outcomes = race(50, lambda: totp.authenticate("ann", "no", NOW))
    assert outcomes == {"ProofInvalidError": 4, "ProofLockedError": 46}
    assert len(store.factors.of("ann")[0].failures) == 5
    assert [event for event, _ in journal.records].count("factor.locked") == 1


def race(threads: int, attempt: object) -> Counter[str]:
    assert callable(attempt)
    gate, outcomes = threading.Barrier(threads), []

    def run() -> None:
        gate.wait()
        try:
            attempt()
            outcomes.append("accepted")
        except ProofError as error:
            outcomes.append(type(error).__name__)

    runners = [threading.Thread(target=run) for _ in range(threads)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    return Counter(outcomes)


def test_the_secret_is_sealed_and_in_no_record(
    totp: TotpFactor, app: pyotp.TOTP, store: SqlStore, journal: Journal, tmp_path: Path
) -> None:
    factor = store.factors.of("ann")[0]
    assert app.secret.encode() not in factor.secret
    assert app.secret not in str(journal.records)
    files = [path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert files
    assert not any(app.secret.encode() in content for content in files)


def test_nobody_is_not_everybody(totp: TotpFactor, app: pyotp.TOTP) -> None:
    with pytest.raises(ProofInvalidError):
        totp.authenticate("", app.at(NOW), NOW)


# ------------------------------------------------------------------ approvals


@dataclass
class Desk:
    """Two approvers on call, an owner, and the apps of all three."""

    store: SqlStore
    totp: TotpFactor
    apps: dict[str, pyotp.TOTP]

    def approve(self, name: str, to: Challenge, *, solo: bool = False, **changes: str) -> Proof:
        app = self.apps.get(name, self.apps["ann"])
        evidence = {"as": name, "code": app.at(NOW), "view_digest": render(to).digest, **changes}
        return self.factor(solo=solo).verify(to, evidence, NOW)

    def factor(self, *, solo: bool = False) -> ApprovalFactor:
        return ApprovalFactor(self.store.approvers, self.store.agents, {"totp": self.totp}, solo=solo)

    def spent(self, name: str) -> bool:
        factor = self.store.factors.of(name)[0]
        return bool(factor.counter or factor.failures)


@pytest.fixture
def desk(store: SqlStore, totp: TotpFactor) -> Desk:
    store.agents.add(Agent(name="robot", owner="oli", created=NOW))
    for name in ("ann", "ben", "oli"):
        store.approvers.put(Approver(name=name, groups=frozenset({"oncall"}), created=NOW))
    store.approvers.put(Approver(name="eve", groups=frozenset({"approvers"}), created=NOW))
    return Desk(store, totp, {name: app_of(totp, name) for name in ("ann", "ben", "oli", "eve", "robot")})


def test_an_approver_of_the_group_consents(desk: Desk) -> None:
    proof = desk.approve("ann", challenge(), note="looks\x1b[2J right")
    assert (proof.proof_class, proof.kind, proof.subject, proof.solo) == (ProofClass.CONSENT, "totp", "ann", False)
    assert proof.view_digest == render(challenge()).digest
    assert "\x1b" not in proof.note


@pytest.mark.parametrize(
    ("note", "kept"),
    [("", ""), ("planned", "planned"), ("a\u202eb", "a⟨U+202E RIGHT-TO-LEFT OVERRIDE⟩b"), ("x" * 501, "x" * 500)],
)
def test_a_persons_words_are_kept_with_their_proof_and_fit_for_every_sink(note: str, kept: str, desk: Desk) -> None:
    proof = desk.approve("ann", challenge(), **({"note": note} if note else {}))
    assert (proof.note, proof.groups, proof.at, proof.factor) == (
        kept,
        frozenset({"oncall"}),
        NOW,
        desk.store.factors.of("ann")[0].id,
    )


@pytest.mark.parametrize("evidence", [{"note": 7}, {"method": 7}, {"method": "oracle"}, {"decision": None}], ids=str)
def test_evidence_of_another_type_or_method_is_none_and_loses_no_code(evidence: dict[str, Json], desk: Desk) -> None:
    whole = {"as": "ann", "code": desk.apps["ann"].at(NOW), "view_digest": render(challenge()).digest}
    with pytest.raises(ProofError):
        desk.factor().verify(challenge(), {**whole, **evidence}, NOW)
    assert not desk.spent("ann")


def test_an_agent_that_nobody_enrolled_has_no_owner_to_bar(desk: Desk) -> None:
    stranger = challenge(principal=Principal(subject="jwt-agent", credential="ab" * 8))
    assert desk.approve("oli", stranger).subject == "oli"


@pytest.mark.parametrize("name", ["oli", "eve", "robot"])
def test_owner_stranger_and_agent_are_refused_and_lose_no_code(name: str, desk: Desk) -> None:
    if name == "robot":
        desk.store.approvers.put(Approver(name="robot", groups=frozenset({"oncall"}), created=NOW))
    with pytest.raises(ProofWrongApproverError):
        desk.approve(name, challenge())
    assert not desk.spent(name)


def test_a_delegator_may_not_approve_what_is_done_for_them(desk: Desk) -> None:
    mine = challenge(principal=Principal(subject="robot", credential="ab" * 8, owner="oli", on_behalf_of="Ann"))
    with pytest.raises(ProofWrongApproverError):
        desk.approve("ann", mine)


def test_an_owner_who_gained_the_agent_later_may_not_approve_either(desk: Desk) -> None:
    orphan = challenge(principal=Principal(subject="robot", credential="ab" * 8))
    with pytest.raises(ProofWrongApproverError):
        desk.approve("oli", orphan)


def test_solo_mode_lets_the_owner_and_says_so(desk: Desk) -> None:
    assert desk.approve("oli", challenge(), solo=True).solo
    assert not desk.approve("ann", challenge(), solo=True).solo


def test_what_an_owner_approved_in_solo_mode_ends_with_it(desk: Desk) -> None:
    own = desk.approve("oli", challenge(), solo=True)
    assert desk.factor(solo=True).stands(challenge(), own)
    assert not desk.factor().stands(challenge(), own)


def test_the_approval_of_somebody_who_became_a_party_to_the_call_does_not_stand(desk: Desk) -> None:
    orphan = challenge(principal=Principal(subject="jwt-agent", credential="ab" * 8))
    given = desk.approve("oli", orphan)
    assert desk.factor().stands(orphan, given)
    desk.store.agents.add(Agent(name="jwt-agent", owner="oli", created=NOW))
    assert not desk.factor().stands(orphan, given)


def test_a_removed_approver_is_refused_like_an_unknown_one(desk: Desk) -> None:
    desk.store.approvers.put(Approver(name="ann", groups=frozenset({"oncall"}), created=NOW, removed=NOW))
    with pytest.raises(ProofInvalidError):
        desk.approve("ann", challenge())
    assert not desk.spent("ann")


def test_an_unknown_person_and_a_wrong_code_look_the_same(desk: Desk) -> None:
    said = []
    for name, code in (("nobody", "123456"), ("ann", "wrong")):
        with pytest.raises(ProofInvalidError) as refused:
            desk.approve(name, challenge(), code=code)
        said.append((refused.value.public, refused.value.reason))
    assert said[0] == said[1]


def test_one_person_is_one_voice_but_may_still_refuse(desk: Desk) -> None:
    first = desk.approve("ann", challenge())
    voted = challenge(proofs=(first,), requirement=Requirement(frozenset({Demand.TWO_PEOPLE}), approvers="oncall"))
    with pytest.raises(ProofReplayedError):
        desk.approve("ann", voted)
    assert desk.approve("ann", voted, decision="deny", code=desk.apps["ann"].at(NOW + 30)).subject == "ann"
    assert desk.approve("ben", voted).subject == "ben"


def test_a_code_of_one_challenge_does_not_serve_another(desk: Desk) -> None:
    desk.approve("ann", challenge(1))
    with pytest.raises(ProofReplayedError):
        desk.approve("ann", challenge(2))


def test_what_was_shown_must_be_this_call(desk: Desk) -> None:
    with pytest.raises(ProofWrongCallError):
        desk.approve("ann", challenge(), view_digest=render(challenge(arguments='{"path":"tmp"}')).digest)
    assert not desk.spent("ann")


def removed(desk: Desk) -> None:
    desk.store.approvers.put(Approver(name="ann", groups=frozenset({"oncall"}), created=NOW, removed=NOW))


def moved_to_another_group(desk: Desk) -> None:
    desk.store.approvers.put(Approver(name="ann", groups=frozenset({"elsewhere"}), created=NOW))


def enrolled_again(desk: Desk) -> None:
    app_of(desk.totp, "ann")


@pytest.mark.parametrize("fate", [removed, moved_to_another_group, enrolled_again])
def test_an_approval_stands_as_long_as_its_giver_and_factor_do(fate: Callable[[Desk], None], desk: Desk) -> None:
    proof = desk.approve("ann", challenge())
    assert desk.factor().stands(challenge(), proof)
    fate(desk)
    assert not desk.factor().stands(challenge(), proof)


def test_wrong_codes_of_somebody_else_do_not_undo_an_approval_that_was_given(desk: Desk) -> None:
    proof = desk.approve("ann", challenge())
    register.lock(desk.store.factors, desk.store.factors.of("ann")[0], NOW)
    assert desk.factor().stands(challenge(), proof)


def test_a_proof_that_came_between_look_and_vote_does_not_void_the_vote(desk: Desk) -> None:
    shown = render(challenge()).digest
    meanwhile = challenge(proofs=(desk.approve("ben", challenge()),))
    assert desk.approve("ann", meanwhile, view_digest=shown).subject == "ann"


@pytest.mark.parametrize("missing", ["as", "code", "view_digest"])
def test_evidence_without_a_member_is_refused(missing: str, desk: Desk) -> None:
    evidence = {"as": "ann", "code": desk.apps["ann"].at(NOW), "view_digest": render(challenge()).digest}
    del evidence[missing]
    with pytest.raises(ProofInvalidError):
        desk.factor().verify(challenge(), evidence, NOW)


# ------------------------------------------------------------------ signatures


@dataclass
class Workload:
    """A workload's key, and its enrolled factor."""

    store: SqlStore
    key: ec.EllipticCurvePrivateKey
    factor: Factor

    def sign(self, signed: bytes) -> str:
        return encode(raw(self.key, signed))

    def verify(self, to: Challenge, signature: str) -> Proof:
        evidence = {"factor": self.factor.id, "signature": signature}
        return SignatureFactor(self.store.factors, audience=AUDIENCE).verify(to, evidence, NOW)


def raw(key: ec.EllipticCurvePrivateKey, signed: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def encode(signature: bytes) -> str:
    return base64.b64encode(signature).decode()


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def workload(store: SqlStore) -> Workload:
    key = ec.generate_private_key(ec.SECP256R1())
    factor = workload_factor(identifier="f_key", subject="robot", spki=spki(key), attestation=1, now=NOW)
    store.factors.add(factor)
    return Workload(store, key, factor)


def test_the_workloads_signature_proves_possession(workload: Workload) -> None:
    one = challenge()
    proof = workload.verify(one, workload.sign(challenge_bytes(one, audience=AUDIENCE)))
    assert (proof.proof_class, proof.subject, proof.attestation) == (ProofClass.POSSESSION, "robot", 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"arguments": '{"path":"tmp"}'},
        {"name": "list"},
        {"server": "other"},
        {"definition": "e" * 64},
        {"digest": "f" * 64},
        {"policy_revision": "r2"},
        {"nonce": "9" * 22},
        {"expires": NOW + 5000},
        {"requirement": Requirement(frozenset({Demand.STEP_UP}), approvers="oncall")},
        {"principal": Principal(subject="robot", credential="cd" * 8, owner="oli")},
    ],
)
def test_a_signature_is_void_when_any_bound_field_changes(changes: dict[str, object], workload: Workload) -> None:
    signature = workload.sign(challenge_bytes(challenge(), audience=AUDIENCE))
    with pytest.raises(ProofInvalidError):
        workload.verify(challenge(**changes), signature)


def test_a_signature_stands_until_its_key_is_revoked(workload: Workload) -> None:
    proof = workload.verify(challenge(), workload.sign(challenge_bytes(challenge(), audience=AUDIENCE)))
    verifier = SignatureFactor(workload.store.factors, audience=AUDIENCE)
    assert verifier.stands(challenge(), proof)
    register.revoke(workload.store.factors, workload.factor, NOW)
    assert not verifier.stands(challenge(), proof)


def test_a_signature_for_another_installation_is_void(workload: Workload) -> None:
    with pytest.raises(ProofInvalidError):
        workload.verify(challenge(), workload.sign(challenge_bytes(challenge(), audience="elsewhere")))


def test_a_signature_over_the_bare_document_or_id_is_void(workload: Workload) -> None:
    for signed in (challenge().id.encode(), challenge().digest.encode(), b""):
        with pytest.raises(ProofInvalidError):
            workload.verify(challenge(), workload.sign(signed))


def test_another_workloads_key_is_refused(workload: Workload) -> None:
    other = challenge(principal=Principal(subject="other", credential="ab" * 8))
    with pytest.raises(ProofWrongCallError):
        workload.verify(other, workload.sign(challenge_bytes(other, audience=AUDIENCE)))


def test_a_revoked_or_locked_key_is_refused_at_once(workload: Workload) -> None:
    signature = workload.sign(challenge_bytes(challenge(), audience=AUDIENCE))
    register.lock(workload.store.factors, workload.factor, NOW)
    with pytest.raises(ProofLockedError):
        workload.verify(challenge(), signature)
    register.revoke(workload.store.factors, workload.factor, NOW)
    with pytest.raises(ProofInvalidError):
        workload.verify(challenge(), signature)


@settings(max_examples=50)
@given(st.binary(max_size=80))
def test_garbage_is_no_signature(garbage: bytes) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    factor = workload_factor(identifier="f", subject="robot", spki=spki(key), attestation=1, now=NOW)

    class One:
        def get(self, factor_id: str) -> Factor | None:
            return factor if factor_id == "f" else None

    verifier = SignatureFactor(One(), audience=AUDIENCE)  # type: ignore[arg-type]  # the one method it calls
    for text in (encode(garbage), garbage.decode("latin-1")):
        with pytest.raises(ProofInvalidError):
            verifier.verify(challenge(), {"factor": "f", "signature": text}, NOW)


def test_der_padding_whitespace_and_zeros_are_no_spelling_of_a_signature(workload: Workload) -> None:
    signed = challenge_bytes(challenge(), audience=AUDIENCE)
    good = raw(workload.key, signed)
    wrong_hash = decode_dss_signature(workload.key.sign(signed, ec.ECDSA(SHA1())))
    for text in (
        encode(workload.key.sign(signed, ec.ECDSA(SHA256()))),
        encode(good + b"\0"),
        encode(good) + "\n",
        encode(good).rstrip("="),
        encode(bytes(64)),
        encode(b"".join(part.to_bytes(32, "big") for part in wrong_hash)),
        encode(sha256(signed).digest() * 2),
    ):
        with pytest.raises(ProofInvalidError):
            workload.verify(challenge(), text)


def test_a_closed_challenge_takes_no_signature(workload: Workload) -> None:
    signature = workload.sign(challenge_bytes(challenge(), audience=AUDIENCE))
    with pytest.raises(ProofError):
        workload.verify(challenge(state=State.EXPIRED, arguments=""), signature)


def test_only_p256_keys_can_be_enrolled() -> None:
    weak = (
        ec.generate_private_key(ec.SECP192R1()),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    )
    for key in weak:
        with pytest.raises(ProofError) as refused:
            public_key(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
        assert refused.value.reason is Code.FACTOR_UNSUITABLE
    with pytest.raises(ProofError) as refused:
        public_key(b"not a key")
    assert refused.value.reason is Code.FACTOR_UNSUITABLE


# ------------------------------------------------------------------ requirements in full


def asks(*quorums: Quorum, barred: frozenset[str] = frozenset(), **more: object) -> Challenge:
    wanted = Requirement(frozenset({Demand.TWO_PEOPLE}), approvers="oncall", quorums=frozenset(quorums), barred=barred)
    return challenge(requirement=wanted, **more)


@pytest.mark.parametrize("name", ["ann", "Ann"])
def test_whoever_changed_the_policy_last_is_refused_and_loses_no_code(name: str, desk: Desk) -> None:
    with pytest.raises(ProofWrongApproverError, match="changed the policy last"):
        desk.approve("ann", asks(barred=frozenset({name})))
    assert not desk.spent("ann")
    assert not desk.approve("ben", asks(barred=frozenset({name}))).solo
    assert desk.approve("ann", asks(barred=frozenset({name})), solo=True).solo


@pytest.mark.parametrize(
    "quorum",
    [
        Quorum(proof_class=ProofClass.CONSENT, kinds=frozenset({"webauthn"})),
        Quorum(proof_class=ProofClass.CONSENT, attestation=1),
    ],
)
def test_a_code_that_the_policy_does_not_take_is_not_spent(quorum: Quorum, desk: Desk) -> None:
    with pytest.raises(ProofError, match="a proof by totp is not taken here") as refused:
        desk.approve("ann", asks(quorum))
    assert refused.value.reason is Code.NOT_TAKEN
    assert not desk.spent("ann")
    assert desk.approve("ann", asks(replace(quorum, kinds=frozenset({"totp"}), attestation=0)))


def test_a_vote_that_became_too_old_may_be_given_again_and_no_other(desk: Desk) -> None:
    young = Quorum(proof_class=ProofClass.CONSENT, max_age=60)
    old = replace(desk.approve("ann", asks(young)), at=NOW - 61)
    with pytest.raises(ProofReplayedError):
        desk.approve("ann", asks(proofs=(old,)), code=desk.apps["ann"].at(NOW + 30))
    with pytest.raises(ProofReplayedError):
        desk.approve("ann", asks(young, proofs=(replace(old, at=NOW - 59),)), code=desk.apps["ann"].at(NOW + 30))
    assert desk.approve("ann", asks(young, proofs=(old,)), code=desk.apps["ann"].at(NOW + 30))


def test_neither_an_intent_nor_a_signature_by_the_same_name_is_a_vote(desk: Desk) -> None:
    vote = desk.approve("ann", asks())
    for proof in (replace(vote, kind="intent"), replace(vote, proof_class=ProofClass.POSSESSION)):
        assert desk.approve("ben", asks(proofs=(replace(proof, subject="ben"),)), code=desk.apps["ben"].at(NOW))
        desk.store.factors.swap(
            found := desk.store.factors.of("ben", "totp")[0], replace(found, counter=0, version=found.version + 1)
        )


def test_a_member_of_a_quorums_group_may_consent_and_the_proof_says_as_what(desk: Desk) -> None:
    audit = Quorum(proof_class=ProofClass.CONSENT, group="audit")
    desk.store.approvers.put(Approver(name="eve", groups=frozenset({"audit", "x"}), created=NOW))
    assert desk.approve("eve", asks(audit)).groups == {"audit"}
    with pytest.raises(ProofWrongApproverError, match="not in the group oncall"):
        desk.approve("eve", asks())


def test_a_vote_that_can_fill_no_named_place_is_refused_and_loses_no_code(desk: Desk) -> None:
    audit = Quorum(proof_class=ProofClass.CONSENT, group="audit")
    named = Requirement(frozenset({Demand.CONSENT}), approvers="oncall", quorums=frozenset({audit}))
    with pytest.raises(ProofError, match="every place is for a member of group audit, and ann is in none") as refused:
        desk.approve("ann", challenge(requirement=named))
    assert refused.value.reason is Code.NOT_TAKEN
    assert not desk.spent("ann")
    second = replace(named, demands=frozenset({Demand.TWO_PEOPLE}))
    assert desk.approve("ann", challenge(requirement=second)), "the second of two people needs no group"


def test_a_group_that_is_asked_late_is_refused_where_every_place_is_named_and_may_still_refuse_the_call(
    desk: Desk,
) -> None:
    audit = Quorum(proof_class=ProofClass.CONSENT, group="audit")
    named = Requirement(frozenset({Demand.CONSENT}), approvers="audit", quorums=frozenset({audit}))
    late = challenge(requirement=named, opened=NOW - 600, expires=NOW + 60)
    factor = ApprovalFactor(
        desk.store.approvers, desk.store.agents, {"totp": desk.totp}, solo=False, escalate={"audit": "oncall"}
    )
    evidence = {"as": "ann", "code": desk.apps["ann"].at(NOW), "view_digest": render(late).digest}
    with pytest.raises(ProofError, match="every place"):
        factor.verify(late, evidence, NOW)
    assert not desk.spent("ann")
    assert factor.verify(late, {**evidence, "decision": "deny"}, NOW).subject == "ann"


def test_a_vote_falls_with_the_group_it_was_given_for(desk: Desk) -> None:
    audit = asks(Quorum(proof_class=ProofClass.CONSENT, group="audit"))
    factor = ApprovalFactor(desk.store.approvers, desk.store.agents, {"totp": desk.totp}, solo=False)
    desk.store.approvers.put(Approver(name="ann", groups=frozenset({"audit", "oncall"}), created=NOW))
    vote = desk.approve("ann", audit)
    assert factor.stands(audit, vote)
    desk.store.approvers.put(Approver(name="ann", groups=frozenset({"oncall"}), created=NOW))
    assert not factor.stands(audit, vote)
    assert factor.stands(audit, replace(vote, kind="intent", subject="releases"))
    assert factor.stands(audit, replace(vote, proof_class=ProofClass.POSSESSION, subject="robot"))


def test_a_revoked_factor_has_no_secret_and_is_revoked_once(desk: Desk) -> None:
    [factor] = desk.store.factors.of("ann", "totp")
    assert register.lock(desk.store.factors, factor, NOW + 1)
    locked = desk.store.factors.get(factor.id)
    assert locked == replace(factor, locked=NOW + 1, version=factor.version + 1)
    assert not register.lock(desk.store.factors, factor, NOW + 2)
    assert register.revoke(desk.store.factors, factor, NOW + 3)
    assert desk.store.factors.get(factor.id) == replace(locked, revoked=NOW + 3, secret=b"", version=locked.version + 1)
    assert not register.revoke(desk.store.factors, factor, NOW + 4)
    assert not register.lock(desk.store.factors, replace(factor, revoked=NOW), NOW)
