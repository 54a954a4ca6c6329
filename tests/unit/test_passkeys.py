"""Passkeys: what one assertion may do, how often, and every way in which it counts for nothing."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, generate_private_key
from fido2 import cbor
from fido2.cose import ES256, CoseKey
from hypothesis import given
from hypothesis import strategies as st

from guard.clock import SystemClock
from guard.errors import (
    NotFoundError,
    ProofError,
    ProofExpiredError,
    ProofInvalidError,
    ProofLockedError,
    ProofReplayedError,
    ProofWrongApproverError,
    ProofWrongCallError,
)
from guard.factors import register, webauthn
from guard.factors.approval import ApprovalFactor
from guard.factors.passkeys import CEREMONY, INVITATION, Passkeys
from guard.factors.webauthn import Site
from guard.identity.lifecycle import Lifecycle
from guard.model import Challenge, Demand, Proof, ProofClass
from guard.reasons import Code
from guard.requirement import satisfied
from guard.stepup.view import render
from guard.stepup.vote import Vote, passkey_challenge
from guard.store.seal import Keyring
from guard.store.sql import SqlStore
from guard.testing import race
from tests.nouns import challenge
from tests.passkey_device import DOMAIN, ORIGIN, Device
from tests.world_store import WorldLedger

CALL = challenge(Demand.CONSENT, strict=True)


class MovedClock(SystemClock):
    """The system's clock, moved by the test."""

    ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead


@dataclass
class Office:
    """People with passkeys, and who checks them."""

    store: SqlStore
    passkeys: Passkeys
    ledger: WorldLedger
    clock: MovedClock
    approval: ApprovalFactor
    lifecycle: Lifecycle

    def hire(self, name: str, device: Device | None = None) -> Device:
        """An approver with a passkey."""
        self.lifecycle.add_approver(name)
        return self.enrol(name, device or Device())

    def enrol(self, name: str, device: Device, **wrong: Any) -> Device:  # noqa: ANN401 - each test its own mistake
        invitation = self.passkeys.invite(name, by="root")
        made = device.create(self.passkeys.begin_enrolment(invitation), **wrong)
        self.passkeys.finish_enrolment(invitation, made["once"], made["client_data"], made["attestation"])
        return device

    def asked(
        self, name: str, call: Challenge = CALL, *, decision: str = "approve", view: str = ""
    ) -> Mapping[str, Any]:
        """What the person's device is asked to sign."""
        shown = view or render(call).digest
        vote = Vote(
            challenge=call,
            approver=name,
            decision="deny" if decision == "deny" else "approve",
            view_digest=shown,
            evidence={},
        )
        return self.passkeys.begin_vote(vote)

    def vote(self, name: str, answer: Mapping[str, str], call: Challenge = CALL, **more: str) -> Proof:
        """Verify an approval that rests on this assertion."""
        evidence = {"as": name, "method": "webauthn", "view_digest": render(call).digest, **answer, **more}
        return self.approval.verify(call, evidence, self.clock.now())


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    state = tmp_path / "state"
    keyring = Keyring.open(state)
    store, ledger, clock = SqlStore.open(state, keyring), WorldLedger(), MovedClock()
    passkeys = Passkeys(
        factors=store.factors,
        approvers=store.approvers,
        people=store.people,
        seal=keyring,
        ledger=ledger,
        clock=clock,
        site=Site.of(ORIGIN),
        audience="guard",
    )
    approval = ApprovalFactor(store.approvers, store.agents, {"webauthn": passkeys}, solo=False)
    yield Office(store, passkeys, ledger, clock, approval, Lifecycle(store, ledger, clock))
    store.close()


# ------------------------------------------------------------------ what it proves


def test_a_passkey_alone_is_consent_on_a_critical_call(office: Office) -> None:
    ann = office.hire("ann")
    proof = office.vote("ann", ann.get(office.asked("ann")), note="planned")
    assert (proof.proof_class, proof.kind, proof.subject, proof.note) == (
        ProofClass.CONSENT,
        "webauthn",
        "ann",
        "planned",
    )
    assert proof.view_digest == render(CALL).digest
    assert satisfied(CALL.requirement, [proof], proof.at)


@pytest.mark.parametrize(
    "wrong",
    [
        {"flags": 0x01},
        {"flags": 0x04},
        {"domain": "evil.example"},
        {"origin": "http://evil.example"},
        {"origin": "http://localhost:7002"},
        {"origin": "https://localhost:7001"},
        {"cross_origin": True},
        {"cross_origin": "false"},
        {"client": {"topOrigin": "http://evil.example"}},
        {"type": "webauthn.create"},
        {"type": "payment.get"},
        {"key": generate_private_key(SECP256R1())},
        {"key": generate_private_key(SECP384R1())},
        {"credential": b"another"},
        {"signature": b""},
        {"signature": b"0" * 70},
        {"challenge": "AAAA"},
        {"once": "another"},
    ],
    ids=lambda wrong: ",".join(f"{name}={value}" for name, value in wrong.items() if name != "key") or "another key",
)
def test_an_assertion_that_is_wrong_in_one_thing_is_refused_and_the_right_one_still_counts(
    wrong: dict[str, Any], office: Office
) -> None:
    ann = office.hire("ann")
    asked = office.asked("ann")
    with pytest.raises(ProofInvalidError):
        office.vote("ann", ann.get(asked, **wrong))
    assert office.vote("ann", ann.get(asked)).subject == "ann"


def test_an_assertion_is_bound_to_call_person_decision_and_view(office: Office) -> None:
    ann, ben = office.hire("ann"), office.hire("ben")
    other = replace(CALL, digest="6" * 64)
    second = replace(CALL, id="c_" + "Z" * 22, nonce="Z" * 22)
    answer = ann.get(office.asked("ann"))
    for call in (other, second):
        with pytest.raises(ProofInvalidError):
            office.vote("ann", answer, call)
    with pytest.raises(ProofInvalidError):
        office.vote("ann", answer, decision="deny")
    with pytest.raises(ProofInvalidError):
        office.vote("ben", answer)
    with pytest.raises(ProofInvalidError):
        office.vote("ann", ben.get(office.asked("ben")))
    with pytest.raises(ProofInvalidError):
        office.vote("ann", ann.get(office.asked("ann", view="0" * 64)))
    with pytest.raises(ProofWrongCallError, match="look at it again"):
        office.vote("ann", answer, view_digest="0" * 64)
    with pytest.raises(ProofInvalidError):
        replace(office.passkeys, audience="staging").vouch(
            Vote(
                challenge=CALL,
                approver="ann",
                decision="approve",
                view_digest=render(CALL).digest,
                evidence=answer,
            ),
            office.clock.now(),
        )
    assert office.vote("ann", answer).subject == "ann"


def test_an_assertion_counts_once_although_its_counter_stays_0(office: Office) -> None:
    ann = office.hire("ann")
    answer = ann.get(office.asked("ann"))
    assert office.vote("ann", answer)
    with pytest.raises(ProofReplayedError):
        office.vote("ann", answer)


def test_of_many_at_once_one_assertion_counts_once(office: Office) -> None:
    ann = office.hire("ann")
    answer = ann.get(office.asked("ann"))

    def attempt(_: int) -> bool:
        try:
            return office.vote("ann", answer) is not None
        except ProofError:
            return False

    assert sum(race(attempt, 16)) == 1


def test_a_counter_that_goes_back_is_refused(office: Office) -> None:
    ann = office.hire("ann", Device(counter=7))
    assert office.vote("ann", ann.get(office.asked("ann")))
    for counter in (8, 3, 0):
        with pytest.raises(ProofReplayedError, match="counter"):
            office.vote("ann", ann.get(office.asked("ann"), counter=counter))
    assert office.vote("ann", ann.get(office.asked("ann"), counter=100))


def test_an_assertion_that_comes_too_late_is_refused(office: Office) -> None:
    ann = office.hire("ann")
    answer = ann.get(office.asked("ann"))
    office.clock.ahead = CEREMONY + 1
    with pytest.raises(ProofReplayedError):
        office.vote("ann", answer)


def test_a_login_is_never_consent_nor_consent_a_login(office: Office) -> None:
    ann = office.hire("ann")
    login = ann.get(office.passkeys.begin_login())
    with pytest.raises(ProofInvalidError):
        office.vote("ann", login)
    with pytest.raises(ProofInvalidError):
        office.passkeys.finish_login(ann.get(office.asked("ann")))
    assert office.passkeys.finish_login(login) == "ann"
    with pytest.raises(ProofReplayedError):
        office.passkeys.finish_login(login)


def test_a_login_that_takes_too_long_or_was_begun_elsewhere_is_refused(office: Office) -> None:
    ann = office.hire("ann")
    late = ann.get(office.passkeys.begin_login())
    foreign = office.passkeys.begin_login() | {"once": webauthn.encode(b"x" * 60)}
    with pytest.raises(ProofInvalidError):
        office.passkeys.finish_login(ann.get(foreign))
    office.clock.ahead = CEREMONY + 1
    with pytest.raises(ProofExpiredError):
        office.passkeys.finish_login(late)


def test_a_locked_revoked_or_removed_persons_passkey_opens_and_decides_nothing(office: Office) -> None:
    ann, ben, cy = office.hire("ann"), office.hire("ben"), office.hire("cy")
    asked = {name: office.asked(name) for name in ("ann", "ben", "cy")}
    logins = {name: office.passkeys.begin_login() for name in ("ann", "ben", "cy")}
    [locked], [revoked] = office.store.factors.of("ann"), office.store.factors.of("ben")
    register.lock(office.store.factors, locked, office.clock.now())
    register.revoke(office.store.factors, revoked, office.clock.now())
    office.lifecycle.remove_approver("cy")
    for name, device, refusal in (("ann", ann, ProofLockedError), ("ben", ben, ProofError), ("cy", cy, ProofError)):
        with pytest.raises(refusal):
            office.vote(name, device.get(asked[name]))
        with pytest.raises(refusal):
            office.passkeys.finish_login(device.get(logins[name]))


def test_a_proof_no_longer_stands_once_its_passkey_is_revoked(office: Office) -> None:
    ann = office.hire("ann")
    proof = office.vote("ann", ann.get(office.asked("ann")))
    assert office.approval.stands(CALL, proof)
    register.revoke(office.store.factors, office.store.factors.of("ann")[0], office.clock.now())
    assert not office.approval.stands(CALL, proof)


def test_the_agents_owner_does_not_even_spend_an_assertion(office: Office) -> None:
    olga = office.hire("olga")
    answer = olga.get(office.asked("olga"))
    with pytest.raises(ProofWrongApproverError):
        office.vote("olga", answer)
    ticket = sha256(answer["once"].encode()).hexdigest()
    assert office.store.people.tickets.peek(ticket, "vote", office.clock.now())


# ------------------------------------------------------------------ how one gets there


def test_an_invitation_works_once(office: Office) -> None:
    office.lifecycle.add_approver("ann")
    invitation = office.passkeys.invite("ann", by="root")
    first, second = Device(), Device()
    both = [one.create(office.passkeys.begin_enrolment(invitation)) for one in (first, second)]
    office.passkeys.finish_enrolment(invitation, both[0]["once"], both[0]["client_data"], both[0]["attestation"])
    with pytest.raises(ProofExpiredError):
        office.passkeys.finish_enrolment(invitation, both[1]["once"], both[1]["client_data"], both[1]["attestation"])
    with pytest.raises(ProofExpiredError):
        office.passkeys.begin_enrolment(invitation)
    assert len(office.store.factors.of("ann")) == 1


def test_of_many_who_use_one_invitation_at_once_one_enrols(office: Office) -> None:
    office.lifecycle.add_approver("ann")
    invitation = office.passkeys.invite("ann", by="root")
    made = [Device().create(office.passkeys.begin_enrolment(invitation)) for _ in range(8)]

    def attempt(number: int) -> bool:
        one = made[number]
        try:
            office.passkeys.finish_enrolment(invitation, one["once"], one["client_data"], one["attestation"])
        except ProofError:
            return False
        return True

    assert sum(race(attempt, 8)) == 1
    assert len(office.store.factors.of("ann")) == 1


def test_an_invitation_ends_with_its_time_with_the_next_one_and_with_its_person(office: Office) -> None:
    office.lifecycle.add_approver("ann")
    first, second = (office.passkeys.invite("ann", by="root") for _ in range(2))
    with pytest.raises(ProofExpiredError):
        office.passkeys.begin_enrolment(first)
    assert office.passkeys.begin_enrolment(second)
    office.lifecycle.remove_approver("ann")
    with pytest.raises(ProofExpiredError):
        office.passkeys.begin_enrolment(second)
    with pytest.raises(NotFoundError):
        office.passkeys.invite("ann", by="root")
    office.lifecycle.add_approver("ann")
    third = office.passkeys.invite("ann", by="root")
    office.clock.ahead = INVITATION + 1
    with pytest.raises(ProofExpiredError):
        office.passkeys.begin_enrolment(third)


def test_a_lost_passkey_is_revoked_by_the_invitation_to_another(office: Office) -> None:
    old = office.hire("ann")
    asked = office.asked("ann")
    office.passkeys.invite("ann", by="root", lost=True)
    with pytest.raises(ProofInvalidError):
        office.vote("ann", old.get(asked))
    assert office.ledger.last("approver.invited") == {"approver": "ann", "by": "root", "lost": True}
    new = office.enrol("ann", Device())
    assert office.vote("ann", new.get(office.asked("ann")))


@pytest.mark.parametrize(
    "wrong",
    [
        {"unverified": True},
        {"origin": "http://evil.example"},
        {"domain": "evil.example"},
        {"cross_origin": True},
        {"type": "webauthn.get"},
        {"cose": {1: 2, 3: -257, -1: b"\x80" + b"\0" * 63, -2: b"\1\0\1"}},
        {"cose": {1: 2, 3: -65535, -1: b"\x80" + b"\0" * 255, -2: b"\1\0\1"}},
        {"cose": {1: 2, 3: -35, -1: 2, -2: b"x", -3: b"y"}},
        {"cose": {}},
    ],
    ids=str,
)
def test_a_registration_that_is_wrong_or_of_a_weak_key_enrols_nothing_and_keeps_the_link(
    wrong: dict[str, Any], office: Office
) -> None:
    office.lifecycle.add_approver("ann")
    invitation = office.passkeys.invite("ann", by="root")
    made = Device().create(office.passkeys.begin_enrolment(invitation), **wrong)
    with pytest.raises(ProofError):
        office.passkeys.finish_enrolment(invitation, made["once"], made["client_data"], made["attestation"])
    assert office.store.factors.of("ann") == ()
    assert office.passkeys.begin_enrolment(invitation)


def test_a_passkey_is_enrolled_for_one_person_once(office: Office) -> None:
    ann = office.hire("ann")
    office.lifecycle.add_approver("ben")
    with pytest.raises(ProofReplayedError):
        office.enrol("ben", ann)


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("http://localhost:7001", "localhost"),
        ("https://guard.example", "guard.example"),
        ("https://Guard.Example:8443/x", "guard.example"),
        ("http://guard.example", None),
        ("https://192.0.2.1", None),
        ("http://127.0.0.1:7001", None),
        ("https://[2001:db8::1]", None),
    ],
)
def test_passkeys_need_a_name_and_a_secure_address(url: str, domain: str | None, office: Office) -> None:
    site = Site.of(url)
    assert (site and site.domain) == domain
    office.lifecycle.add_approver("ann")
    if site is None:
        with pytest.raises(ProofError, match="public_url") as refused:
            replace(office.passkeys, site=site).invite("ann", by="root")
        assert refused.value.reason is Code.FACTOR_UNSUITABLE


# ------------------------------------------------------------------ garbage

SITE = Site(ORIGIN, DOMAIN)
_garbage = st.one_of(st.text(max_size=200), st.binary(max_size=200).map(webauthn.encode))


@given(_garbage, _garbage, _garbage)
def test_garbage_is_refused_and_never_crashes(client: str, data: str, signature: str) -> None:
    device = Device()
    key = device.create({"once": "", "publicKey": {"challenge": "AAAA"}})
    good = webauthn.register(SITE, challenge=b"\0\0\0", client_data=key["client_data"], attestation=key["attestation"])
    refusals: list[Callable[[], object]] = [
        lambda: webauthn.register(SITE, challenge=b"\0\0\0", client_data=client, attestation=data),
        lambda: webauthn.register(SITE, challenge=b"\0\0\0", client_data=key["client_data"], attestation=data),
        lambda: webauthn.check(
            SITE, key=good.key, challenge=b"", client_data=client, authenticator_data=data, signature=signature
        ),
        lambda: webauthn.check(
            SITE,
            key=good.key,
            challenge=b"\0\0\0",
            client_data=device.get({"once": "", "publicKey": {"challenge": "AAAA"}})["client_data"],
            authenticator_data=data,
            signature=signature,
        ),
    ]
    for refused in refusals:
        with pytest.raises(ProofError):
            refused()


# ------------------------------------------------------------------ what browsers are asked, what is on record


def test_a_browser_is_asked_to_create_a_passkey_as_webauthn_has_it(office: Office) -> None:
    ann = office.hire("ann")
    asked = office.passkeys.begin_enrolment(office.passkeys.invite("ann", by="root"))
    once, options = asked["once"], dict(asked["publicKey"])
    signed = passkey_challenge("guard.enrolment", audience="guard", once=str(once), approver="ann")
    assert options.pop("user") == {
        "id": webauthn.encode(sha256(b"guard\0ann").digest()),
        "name": "ann",
        "displayName": "ann",
    }
    assert options == {
        "rp": {"id": "localhost", "name": "guard"},
        "challenge": webauthn.encode(signed),
        "pubKeyCredParams": [{"type": "public-key", "alg": alg} for alg in (-7, -8, -257)],
        "authenticatorSelection": {"residentKey": "required", "userVerification": "required"},
        "attestation": "none",
        "excludeCredentials": [{"type": "public-key", "id": webauthn.encode(ann.credential)}],
        "timeout": 300_000,
    }


def test_a_browser_is_asked_to_sign_as_webauthn_has_it_and_a_login_names_no_passkey(office: Office) -> None:
    ann = office.hire("ann")
    mine = [{"type": "public-key", "id": webauthn.encode(ann.credential)}]
    login = office.passkeys.begin_login()
    signed = passkey_challenge("guard.login", audience="guard", once=str(login["once"]))
    for asked, allowed in ((login, []), (office.asked("ann"), mine)):
        options = dict(asked["publicKey"])
        challenge_ = options.pop("challenge")
        assert options == {
            "rpId": "localhost",
            "allowCredentials": allowed,
            "userVerification": "required",
            "timeout": 300_000,
        }
        assert (challenge_ == webauthn.encode(signed)) is (asked is login)


def test_invitations_enrolments_and_lost_passkeys_are_on_record(office: Office) -> None:
    office.hire("ann")
    [factor] = office.store.factors.of("ann")
    assert office.ledger.last("approver.invited") == {"approver": "ann", "by": "root", "lost": False}
    assert office.ledger.last("factor.enrolled") == {"factor": factor.id, "kind": "webauthn", "subject": "ann"}
    office.passkeys.invite("ann", by="ben", lost=True)
    assert office.ledger.last("factor.revoked") == {"factor": factor.id, "kind": "webauthn", "subject": "ann"}
    assert office.ledger.last("approver.invited") == {"approver": "ann", "by": "ben", "lost": True}
    office.passkeys.invite("ann", by="ben", lost=True)
    assert office.ledger.events.count("factor.revoked") == 1


def test_an_enrolled_passkey_is_kept_with_its_credential_key_counter_and_whether_it_is_synced(office: Office) -> None:
    ann = office.hire("ann", Device(counter=7))
    [factor] = office.store.factors.of("ann")
    key = cbor.encode(dict(ES256.from_cryptography_key(ann.key.public_key())))
    assert factor.public == {
        "credential": webauthn.encode(ann.credential),
        "key": webauthn.encode(key),
        "synced": False,
    }
    assert (factor.kind, factor.subject, factor.counter) == ("webauthn", "ann", 7)
    assert factor.id == "f_" + sha256(b"guard.passkey/1\0" + ann.credential).hexdigest()[:32]


def test_the_counter_of_an_assertion_is_kept_and_the_next_must_be_larger(office: Office) -> None:
    ann = office.hire("ann", Device(counter=7))
    before = office.store.factors.of("ann")[0]
    office.vote("ann", ann.get(office.asked("ann")))
    after = office.store.factors.of("ann")[0]
    assert (after.counter, after.version) == (8, before.version + 1)


P256, EDWARDS, RSA = {1: 2, 3: -7, -1: 1}, {1: 1, 3: -8, -1: 6}, {1: 3, 3: -257}


@pytest.mark.parametrize(
    ("cose", "sound"),
    [
        (P256, True),
        (EDWARDS, True),
        (RSA | {-1: b"\x80" + b"\0" * 255}, True),
        (RSA | {-1: b"\x7f" + b"\xff" * 255}, False),  # 2047 bits
        (RSA | {-1: b"\0" * 64 + b"\xff" * 255}, False),  # 2040 bits, and zeros before
        (P256 | {-1: 2}, False),
        (P256 | {-1: 6}, False),
        (EDWARDS | {-1: 1}, False),
        (EDWARDS | {-1: 7, -2: 6}, False),
        ({1: 2, 3: -35, -1: 1}, False),
        ({1: 2, 3: 7, -1: 6}, False),
        ({1: 3, 3: -258, -1: b"\x80" + b"\0" * 255}, False),
        ({1: 3, 3: 257, -1: b"\x80" + b"\0" * 255}, False),
        ({}, False),
    ],
    ids=str,
)
def test_a_key_is_taken_only_on_its_curve_and_of_its_length(cose: dict[int, object], sound: bool) -> None:
    key = CoseKey(cose)
    if sound:
        webauthn._require_sound(key)
        return
    with pytest.raises(ProofError) as refused:
        webauthn._require_sound(key)
    assert refused.value.reason is Code.FACTOR_UNSUITABLE


@pytest.mark.parametrize("raw", [b"", b"\0", b"=", b"ab", b"\xff\xfe\xfd", b"\xfb\xff" * 40, b"\n \t"])
def test_bytes_have_one_spelling_in_base64url(raw: bytes) -> None:
    text = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    assert webauthn.encode(raw) == text
    assert webauthn.decode(text) == raw


@pytest.mark.parametrize(
    "text", ["-_=", "YQ==", "YR", "a", "+/+/", "YW Jj", "YWJj\n", "Ä", "YWJj" * 4097], ids=lambda text: text[:9]
)
def test_every_other_spelling_is_refused(text: str) -> None:
    with pytest.raises(ProofInvalidError):
        webauthn.decode(text)


def test_the_longest_text_is_taken() -> None:
    assert len(webauthn.decode("YWJj" * 4096)) == 3 * 4096


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("https://guard.example", "guard.example"),
        ("https://Guard.Example:8443", "guard.example"),
        ("http://localhost:7001", "localhost"),
        ("http://guard.localhost", "guard.localhost"),
        ("https://localhost", "localhost"),
        ("http://guard.example", None),
        ("http://notlocalhost", None),
        ("http://localhost.example", None),
        ("https://192.0.2.1", None),
        ("https://[::1]", None),
        ("https://[v1.a:b.c]", None),
        ("https://", None),
    ],
)
def test_passkeys_are_bound_to_a_name_over_https_or_to_this_machine(url: str, domain: str | None) -> None:
    site = Site.of(url)
    assert (site.domain if site else None) == domain
    if site:
        assert site.origin == url.lower()
        assert site.domain_hash == sha256(site.domain.encode()).digest()
