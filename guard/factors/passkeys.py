"""Passkeys of people: invited, enrolled, used to log in, and used to vote.

Every ceremony begins with a secret that is part of what the passkey signs, and that is used up in the store by one
winner when the assertion is accepted. So each assertion counts once, also where the device's signature counter
stays 0 (synced passkeys). A counter that does count must grow.

Votes and enrolments, which somebody known begins, are tickets in the store. Anybody may begin to log in: there the
secret is the sealed time, and only what was used is written down, so that nobody fills the store or keeps others out.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from guard.errors import (
    FactorUnavailableError,
    NotFoundError,
    ProofError,
    ProofExpiredError,
    ProofInvalidError,
    ProofLockedError,
    ProofReplayedError,
    StoreUnavailableError,
)
from guard.factors import register, webauthn
from guard.factors.webauthn import KIND, Site
from guard.model import SET_BACK, Json
from guard.people import People, Ticket
from guard.ports import Approvers, Clock, Factor, Factors, Ledger, Seal
from guard.reasons import Code
from guard.stepup.vote import Vote, passkey_challenge

INVITATION: Final = 900.0
"""Seconds an enrolment link works."""
CEREMONY: Final = 300.0
"""Seconds a person has between being asked for their passkey and its answer."""

_MOST: Final[Mapping[str, int]] = {"invite": 1024, "enrol": 256, "login": 65536, "vote": 4096}
"""Tickets that may live at a time, by purpose; whoever asks for more waits."""
_TRIES: Final = 64
_LOGIN: Final = b"guard.login"


@dataclass(frozen=True, slots=True)
class Passkeys:
    """Everything passkeys do. `site` is None where the console has no name a passkey could be bound to."""

    factors: Factors
    approvers: Approvers
    people: People
    seal: Seal
    ledger: Ledger
    clock: Clock
    site: Site | None
    audience: str

    # ------------------------------------------------------------------ enrolment

    def invite(self, name: str, *, by: str, lost: bool = False) -> str:
        """The secret of a one-time enrolment link for an approver; an earlier link of theirs stops working.

        With `lost`, every factor the person has is revoked and their logins end at once. `by` is who invites.

        Raises:
            NotFoundError: there is no such approver.
            ProofError: the console's address cannot have passkeys (`factor_unsuitable`).
        """
        self._usable()
        self._person(name)
        self.people.tickets.drop("invite", name)
        if lost:
            self._revoke_all(name)
        secret = self._issue("invite", name, "", INVITATION)
        self.ledger.append("approver.invited", {"approver": name, "by": by, "lost": lost})
        return secret

    def _revoke_all(self, name: str) -> None:
        for one in self.factors.of(name):
            if register.revoke(self.factors, one, self.clock.now()):
                self.ledger.append("factor.revoked", {"factor": one.id, "kind": one.kind, "subject": name})
        self.people.logins.close_all(name)

    def begin_enrolment(self, invitation: str) -> dict[str, Json]:
        """What the browser is asked to create (`PublicKeyCredentialCreationOptionsJSON`), with `once`.

        Raises:
            ProofExpiredError: the link is unknown, used or too old.
        """
        site, name = self._usable(), self._invited(invitation).subject
        once = self._issue("enrol", name, "", CEREMONY)
        known: list[Json] = [self._descriptor(one) for one in self._live(name)]
        return {
            "once": once,
            "publicKey": {
                "rp": {"id": site.domain, "name": self.audience},
                "user": {
                    "id": webauthn.encode(sha256(f"{self.audience}\0{name}".encode()).digest()),
                    "name": name,
                    "displayName": name,
                },
                "challenge": webauthn.encode(self._enrolling(name, once)),
                "pubKeyCredParams": [{"type": "public-key", "alg": one} for one in webauthn.ALGORITHMS],
                "authenticatorSelection": {"residentKey": "required", "userVerification": "required"},
                "attestation": "none",
                "excludeCredentials": known,
                "timeout": int(CEREMONY * 1000),
            },
        }

    def finish_enrolment(self, invitation: str, once: str, client_data: str, attestation: str) -> Factor:
        """Enrol the passkey the browser made, and use the link up.

        Raises:
            ProofExpiredError: the link or the ceremony is unknown, used or too old.
            ProofError: the registration does not verify, or the key is unsuitable or known.
        """
        site, name, now = self._usable(), self._invited(invitation).subject, self.clock.now()
        made = webauthn.register(
            site, challenge=self._enrolling(name, once), client_data=client_data, attestation=attestation
        )
        identifier = _factor_id(made.credential)
        if self.factors.get(identifier) is not None:
            raise ProofReplayedError("this passkey is enrolled already")
        self._take("enrol", once, name)
        if self.people.tickets.take(_digest(invitation), "invite", now) is None:
            raise ProofExpiredError("this link was used already")
        factor = Factor(
            id=identifier,
            kind=KIND,
            subject=name,
            created=now,
            public={
                "credential": webauthn.encode(made.credential),
                "key": webauthn.encode(made.key),
                "synced": made.synced,
            },
            counter=made.counter,
        )
        self.factors.add(factor)
        self.ledger.append("factor.enrolled", {"factor": identifier, "kind": KIND, "subject": name})
        return factor

    # ------------------------------------------------------------------ use

    def begin_login(self) -> dict[str, Json]:
        """What the browser is asked to sign to show who its person is (`PublicKeyCredentialRequestOptionsJSON`)."""
        stamp = f"{self.clock.now():.3f} {secrets.token_urlsafe(16)}"
        once = webauthn.encode(self.seal.seal(stamp.encode(), _LOGIN))
        return self._request(once, self._logging_in(once), [])

    def finish_login(self, evidence: Mapping[str, Json]) -> str:
        """The approver whose passkey signed; this lets them look, and decides nothing.

        Raises:
            ProofError: the assertion does not count.
        """
        once = _text(evidence, "once")
        factor = self._check(evidence, self._logging_in(once))
        self._use(once)
        self._count(factor)
        try:
            self._person(factor.subject)
        except NotFoundError as error:
            raise ProofInvalidError(detail=f"{factor.subject} is no approver") from error
        return factor.subject

    def begin_vote(self, vote: Vote) -> dict[str, Json]:
        """What the browser is asked to sign for this very vote.

        Raises:
            ProofInvalidError: the person has no passkey that works.
        """
        live = [one for one in self._live(vote.approver) if not one.locked]
        if not live:
            raise ProofInvalidError("you have no passkey here", detail=f"{vote.approver} has no passkey")
        once = self._issue("vote", vote.approver, vote.challenge.id, CEREMONY)
        return self._request(
            once, vote.signed(once=once, audience=self.audience), [self._descriptor(one) for one in live]
        )

    def vouch(self, vote: Vote, now: float) -> str:
        """The id of the passkey that signed exactly this vote (a `guard.factors.approval.Authenticator`).

        Evidence: `once`, `credential`, `client_data`, `authenticator_data`, `signature`.

        Raises:
            ProofInvalidError: it is not by a passkey of this person, or not over this vote.
            ProofReplayedError, ProofExpiredError: it was used, or asked for too long ago.
            ProofLockedError: the passkey is locked.
        """
        del now
        once = _text(vote.evidence, "once")
        factor = self._check(vote.evidence, vote.signed(once=once, audience=self.audience), of=vote.approver)
        self._take("vote", once, vote.approver)
        self._count(factor)
        return factor.id

    def works(self, factor: str) -> bool:
        """Whether the passkey exists and was not revoked."""
        found = self.factors.get(factor)
        return found is not None and found.kind == KIND and not found.revoked

    # ------------------------------------------------------------------ parts

    def _check(self, evidence: Mapping[str, Json], challenge: bytes, *, of: str = "") -> Factor:
        """The factor whose key made this assertion over this challenge."""
        site = self._usable()
        factor = self.factors.get(_factor_id(webauthn.decode(_text(evidence, "credential"))))
        if factor is None or factor.kind != KIND or factor.revoked or (of and factor.subject != of):
            raise ProofInvalidError(detail="no such passkey of this person")
        if factor.locked:
            raise ProofLockedError(detail=f"factor {factor.id}")
        counter = webauthn.check(
            site,
            key=webauthn.decode(_text(factor.public, "key")),
            challenge=challenge,
            client_data=_text(evidence, "client_data"),
            authenticator_data=_text(evidence, "authenticator_data"),
            signature=_text(evidence, "signature"),
        )
        return replace(factor, counter=self._grown(factor, counter))

    @staticmethod
    def _grown(factor: Factor, counter: int) -> int:
        """The counter of a new assertion: 0 for ever, or larger than every one before."""
        if (counter or factor.counter) and counter <= factor.counter:
            raise ProofReplayedError("the passkey's counter went back; it may have been copied")
        return counter

    def _count(self, used: Factor) -> None:
        """Write the new counter down, if there is one, whoever else uses the passkey at the moment."""
        if not used.counter:
            return
        for _ in range(_TRIES):
            current = self.factors.get(used.id)
            if current is None or current.revoked:
                raise ProofInvalidError(detail="the passkey was revoked meanwhile")
            counter = self._grown(current, used.counter)
            if self.factors.swap(current, replace(current, counter=counter, version=current.version + 1)):
                return
        raise FactorUnavailableError(detail=f"passkey {used.id} is contended")

    def _request(self, once: str, challenge: bytes, allowed: list[Json]) -> dict[str, Json]:
        return {
            "once": once,
            "publicKey": {
                "challenge": webauthn.encode(challenge),
                "rpId": self._usable().domain,
                "allowCredentials": allowed,
                "userVerification": "required",
                "timeout": int(CEREMONY * 1000),
            },
        }

    def _enrolling(self, name: str, once: str) -> bytes:
        return passkey_challenge("guard.enrolment", audience=self.audience, once=once, approver=name)

    def _logging_in(self, once: str) -> bytes:
        return passkey_challenge("guard.login", audience=self.audience, once=once)

    def _issue(self, purpose: str, subject: str, bound: str, lasting: float) -> str:
        secret, now = secrets.token_urlsafe(32), self.clock.now()
        ticket = Ticket(
            digest=_digest(secret), purpose=purpose, subject=subject, bound=bound, created=now, expires=now + lasting
        )
        if not self.people.tickets.issue(ticket, most=_MOST[purpose]):
            raise FactorUnavailableError("too many people ask at once", reason=Code.OVERLOADED)
        return secret

    def _take(self, purpose: str, once: str, subject: str) -> None:
        """Use a ticket up; of all who bring the same one, the first only gets past here."""
        taken = self.people.tickets.take(_digest(once), purpose, self.clock.now())
        if taken is None or taken.subject != subject:
            raise ProofReplayedError("this was used already, or asked for too long ago; try again")

    def _use(self, once: str) -> None:
        """Use up the secret of a login: it was sealed here a short while ago, and is written down as used."""
        now = self.clock.now()
        try:
            issued = float(self.seal.unseal(webauthn.decode(once), _LOGIN).split()[0])
        except (StoreUnavailableError, ValueError, IndexError) as error:
            raise ProofInvalidError(detail="the secret of this login is not from here") from error
        if not issued - SET_BACK <= now < issued + CEREMONY:
            raise ProofExpiredError("this took too long; try again")
        until = issued + CEREMONY + SET_BACK
        used = Ticket(digest=_digest(once), purpose="login", subject="", bound="", created=now, expires=until)
        if not self.people.tickets.issue(used, most=_MOST["login"]):
            raise ProofReplayedError

    def _invited(self, invitation: str) -> Ticket:
        found = self.people.tickets.peek(_digest(invitation), "invite", self.clock.now())
        if found is None:
            raise ProofExpiredError("this link was used already, or is too old; ask for another one")
        try:
            self._person(found.subject)
        except NotFoundError as error:
            raise ProofExpiredError("this link no longer counts") from error
        return found

    def _person(self, name: str) -> None:
        person = self.approvers.get(name)
        if person is None or person.removed:
            raise NotFoundError(f"there is no approver {name}; guard approver add {name}")

    def _live(self, name: str) -> list[Factor]:
        return [one for one in self.factors.of(name, KIND) if not one.revoked] if name else []

    @staticmethod
    def _descriptor(factor: Factor) -> Json:
        return {"type": "public-key", "id": factor.public.get("credential")}

    def _usable(self) -> Site:
        if self.site is None:
            raise ProofError(
                "passkeys need a name over https, or localhost, in [console] public_url",
                reason=Code.FACTOR_UNSUITABLE,
            )
        return self.site


def _factor_id(credential: bytes) -> str:
    """A passkey's id is a function of its credential, so that it is found by one look and enrolled once."""
    return "f_" + sha256(b"guard.passkey/1\0" + credential).hexdigest()[:32]


def _digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def _text(members: Mapping[str, Json], key: str) -> str:
    value = members.get(key)
    if not isinstance(value, str):
        raise ProofInvalidError(detail=f"evidence lacks the text {key!r}")
    return value
