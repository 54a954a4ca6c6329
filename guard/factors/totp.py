"""One-time codes (RFC 6238): six digits, 30 seconds, SHA-1, as phone apps make them.

A code counts once: the time step it belongs to must be later than the last one that was accepted, and that
is written by compare-and-swap before anybody learns that the code was right. Five refused codes within 15
minutes lock the factor, or a hundred without a right one in between (NIST SP 800-63B-4, section 3.2.2), so that
nobody guesses slowly for ever. All challenges and connections count together, and the count is committed although
the request fails. A locked factor stays locked until the person is enrolled again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final, Protocol

import pyotp
import structlog
from pyotp.exceptions import OTPVerificationError

from guard.errors import FactorUnavailableError, ProofInvalidError, ProofLockedError, ProofReplayedError
from guard.factors.register import revoke
from guard.ports import Clock, Factor, Factors, Ledger
from guard.stepup.vote import Vote

KIND: Final = "totp"
WINDOW_STEPS: Final = 1
FAILURES_ALLOWED: Final = 5
FAILURES_WITHIN: Final = 900.0
FAILURES_IN_A_ROW: Final = 100
_CODE: Final = re.compile(r"[0-9]{6}", re.ASCII)
_TRIES: Final = 64

log = structlog.get_logger(__name__)


class Sealer(Protocol):
    """Seals secrets at rest (`guard.store.seal.Keyring`)."""

    def seal(self, plain: bytes, aad: bytes) -> bytes:
        """Encrypt and authenticate, bound to `aad`."""

    def unseal(self, sealed: bytes, aad: bytes) -> bytes:
        """The plain text, if sealed by this key ring with the same `aad`."""


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A new factor, and the `otpauth://` URI with its secret: shown once, to its holder only."""

    factor: Factor
    uri: str


class TotpFactor:
    """Enrols code generators and checks their codes (a `guard.factors.approval.Authenticator`).

    `kind` keeps generators for different purposes apart: a code of one never counts for the other.
    """

    __slots__ = ("_clock", "_factors", "_kind", "_ledger", "_sealer")

    def __init__(self, factors: Factors, sealer: Sealer, ledger: Ledger, clock: Clock, *, kind: str = KIND) -> None:
        self._factors, self._sealer, self._ledger, self._clock, self._kind = factors, sealer, ledger, clock, kind

    def enroll(self, subject: str, *, issuer: str) -> Enrolment:
        """Make a code generator for a person; earlier ones of theirs stop working.

        `issuer` is the name of the installation, shown by the app.
        """
        secret = pyotp.random_base32()
        identifier, now = self._clock.token("f"), self._clock.now()
        earlier = [factor for factor in self._factors.of(subject, self._kind) if not factor.revoked]
        factor = Factor(
            id=identifier,
            kind=self._kind,
            subject=subject,
            created=now,
            public={"algorithm": "SHA1", "digits": 6, "period": 30},
            secret=self._sealer.seal(secret.encode(), identifier.encode()),
        )
        self._factors.add(factor)
        for old in earlier:
            revoke(self._factors, old, now)
        self._ledger.append("factor.enrolled", {"factor": identifier, "kind": self._kind, "subject": subject})
        return Enrolment(factor, pyotp.TOTP(secret).provisioning_uri(name=subject, issuer_name=issuer))

    def authenticate(self, subject: str, code: str, now: float) -> str:
        """Check and spend one code of a person; return the id of the factor that made it.

        Raises:
            ProofInvalidError: the code is not six ASCII digits or not of now, or there is no such person.
            ProofReplayedError: the code, or a later one, was accepted before.
            ProofLockedError: the factor is locked, possibly by this very attempt.
            FactorUnavailableError: too many others use the factor at this moment.
            StoreUnavailableError: the factor cannot be read or written.
        """
        for _ in range(_TRIES):
            factor = self._live(subject)
            if factor is None:
                raise ProofInvalidError(detail=f"{subject} has no working {self._kind} factor")
            if factor.locked:
                raise ProofLockedError(detail=f"factor {factor.id} of {subject}")
            step = self._step(factor, code, now)
            if step is None:
                after = _after_failure(factor, now)
                if self._factors.swap(factor, after):
                    self._refuse(after)
            elif step <= factor.counter:
                raise ProofReplayedError(detail=f"factor {factor.id} of {subject}")
            elif self._factors.swap(factor, _after_success(factor, step, now)):
                return factor.id
        raise FactorUnavailableError(detail=f"factor {self._kind} of {subject} is contended")

    def vouch(self, vote: Vote, now: float) -> str:
        """Check and spend the `code` in a vote's evidence.

        A code says nothing about what it is spent on; the page or terminal it is typed into must be the guard's own.

        Raises:
            ProofError, UnavailableError: as `authenticate`.
        """
        code = vote.evidence.get("code")
        if not isinstance(code, str):
            raise ProofInvalidError(detail="evidence lacks the text 'code'")
        return self.authenticate(vote.approver, code, now)

    def works(self, factor: str) -> bool:
        """Whether the factor of this id exists and was not revoked; a locked one was good when it was used."""
        found = self._factors.get(factor)
        return found is not None and found.kind == self._kind and not found.revoked

    def _live(self, subject: str) -> Factor | None:
        """The person's code generator; an empty name is nobody's (to the store it means everybody's)."""
        found = self._factors.of(subject, self._kind) if subject else ()
        return next((factor for factor in found if not factor.revoked), None)

    def _step(self, factor: Factor, code: str, now: float) -> int | None:
        """The time step the code belongs to, None when it belongs to none that is current."""
        secret = self._sealer.unseal(factor.secret, factor.id.encode()).decode()
        if not _CODE.fullmatch(code):
            return None
        try:
            return pyotp.TOTP(secret).verify_and_get_timecode(code, for_time=now, valid_window=WINDOW_STEPS)
        except OTPVerificationError:
            return None

    def _refuse(self, factor: Factor) -> None:
        """Raise for a wrong code whose count is already committed."""
        if not factor.locked:
            raise ProofInvalidError(detail=f"wrong code {len(factor.failures)} for factor {factor.id}")
        log.warning("factor locked", factor=factor.id, subject=factor.subject, failures=len(factor.failures))
        self._ledger.append(
            "factor.locked", {"factor": factor.id, "kind": self._kind, "subject": factor.subject, "by": "wrong codes"}
        )
        raise ProofLockedError(detail=f"factor {factor.id} of {factor.subject}")


def _after_failure(factor: Factor, now: float) -> Factor:
    """The factor with one more wrong attempt, locked when that was one too many."""
    failures = (*factor.failures, now)
    many = len(_recent(failures, now)) >= FAILURES_ALLOWED or len(failures) >= FAILURES_IN_A_ROW
    return replace(factor, failures=failures, locked=now if many else 0.0, version=factor.version + 1)


def _after_success(factor: Factor, step: int, now: float) -> Factor:
    """The factor with a code spent; wrong ones of a short while ago still count."""
    return replace(factor, counter=step, failures=_recent(factor.failures, now), version=factor.version + 1)


def _recent(failures: tuple[float, ...], now: float) -> tuple[float, ...]:
    return tuple(at for at in failures if at > now - FAILURES_WITHIN)
