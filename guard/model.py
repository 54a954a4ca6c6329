"""The nouns of the guard, and nothing else.

A **Principal** makes a **Call**; the owner's tags (**Classification**) and behavioural signals
(**Finding**) turn it into a **Decision**: `Permit`, `Challenge` or `Deny`; a **Challenge** waits for
proofs (**Proof**) until they add up to a single-use **Grant** bound to exactly that call.

Everything here is a frozen value. Times are Unix seconds (UTC) as floats, digests are lower-case
hex SHA-256, and nothing here reads a clock, draws a random number or touches the outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final, TypeAlias

from guard.reasons import Code, Reason

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
"""What one strict JSON text can hold."""

SET_BACK: Final = 60.0
"""Seconds a clock may be corrected backwards before what was opened later counts as out of time."""


class Sensitivity(IntEnum):
    """How bad it is when this goes wrong, in the owner's judgement."""

    PUBLIC = 0
    INTERNAL = 1
    SENSITIVE = 2
    CRITICAL = 3

    @property
    def label(self) -> str:
        """The word used in policies and records."""
        return self.name.lower()

    def raised(self) -> Sensitivity:
        """One step up; critical stays critical."""
        return Sensitivity(min(self + 1, Sensitivity.CRITICAL))


class Doubt(StrEnum):
    """What a finding casts doubt on, and therefore who may answer it."""

    IDENTITY = "identity"
    INTENT = "intent"


class Band(IntEnum):
    """How far from normal."""

    CALM = 0
    UNUSUAL = 1
    ALARMING = 2


class ProofClass(StrEnum):
    """What a proof says: this is the enrolled workload, or someone else wants exactly this.

    An emergency is neither: a person takes the call on themselves without the proofs it needs, and answers for it.
    """

    POSSESSION = "possession"
    CONSENT = "consent"
    EMERGENCY = "emergency"


class Demand(StrEnum):
    """One conjunct of a requirement."""

    STEP_UP = "step_up"
    POSSESSION = "possession"
    CONSENT = "consent"
    TWO_PEOPLE = "two_people"


_IMPLIED: Final[Mapping[Demand, frozenset[Demand]]] = {
    Demand.POSSESSION: frozenset({Demand.STEP_UP}),
    Demand.CONSENT: frozenset({Demand.STEP_UP}),
    Demand.TWO_PEOPLE: frozenset({Demand.STEP_UP, Demand.CONSENT}),
    Demand.STEP_UP: frozenset(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quorum:
    """What the proofs of one class must be like, beyond being there; the owner's long form of `require`.

    `people` different ones must consent, each with a proof of one of `kinds` (none: any), of at least this
    `attestation`, and at most `max_age` seconds old when it is used (0: of any age). With a `group` only its members
    fill the places; without, whoever may consent. For possession, `people` is 1 and `group` empty.
    """

    proof_class: ProofClass
    people: int = 1
    group: str = ""
    kinds: frozenset[str] = frozenset()
    attestation: int = 0
    max_age: float = 0.0

    @property
    def label(self) -> str:
        """The same in words, one text for one quorum: it is shown, recorded and signed."""
        parts = [self.proof_class.value]
        if self.proof_class is ProofClass.CONSENT:
            whose = "somebody" if self.people == 1 else f"{self.people} people"
            parts[0] += f" of {whose}" + (f" of group {self.group}" if self.group else "")
        if self.kinds:
            parts.append(f"by {' or '.join(sorted(self.kinds))}")
        if self.attestation:
            parts.append(f"of attestation {self.attestation} or more")
        if self.max_age:
            parts.append(f"at most {self.max_age:g} s old")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Requirement:
    """A conjunction of demands and quorums; `|` joins two and can only raise.

    `approvers` is the group whose members may consent, beside those of the quorums' groups; `barred` are people who may
    not. With `strict` (critical calls) an approval authenticated by a one-time code alone counts only together with
    possession.
    """

    demands: frozenset[Demand] = frozenset()
    approvers: str = "approvers"
    strict: bool = False
    quorums: frozenset[Quorum] = frozenset()
    barred: frozenset[str] = frozenset()

    def __or__(self, other: Requirement) -> Requirement:
        """Join; the approver group is that of the left side."""
        return Requirement(
            self.demands | other.demands,
            self.approvers,
            self.strict or other.strict,
            self.quorums | other.quorums,
            self.barred | other.barred,
        )

    def __bool__(self) -> bool:
        """Whether anything is demanded at all."""
        return bool(self.demands or self.quorums)

    @property
    def groups(self) -> frozenset[str]:
        """The groups whose members may consent."""
        return frozenset({self.approvers, *(quorum.group for quorum in self.quorums if quorum.group)})

    @property
    def terms(self) -> tuple[str, ...]:
        """The quorums in words, in order."""
        return tuple(sorted(quorum.label for quorum in self.quorums))

    @property
    def irreducible(self) -> frozenset[Demand]:
        """The demands no other demand implies."""
        implied = frozenset[Demand]().union(*(_IMPLIED[demand] for demand in self.demands))
        return self.demands - implied

    @property
    def label(self) -> str:
        """The name in the surface: none, step_up, possession, consent, both, two_people, or joined by `+`."""
        demands = self.irreducible
        if demands == {Demand.POSSESSION, Demand.CONSENT}:
            return "both"
        return "+".join(sorted(demands)) or "none"


@dataclass(frozen=True, slots=True)
class Further:
    """How many more calls whoever approves one may consent to, and within how many seconds; false: none."""

    uses: int = 0
    seconds: float = 0.0

    def __bool__(self) -> bool:
        """Whether there is any."""
        return self.uses > 0 and self.seconds > 0

    def __and__(self, other: Further) -> Further:
        """What both allow."""
        return Further(min(self.uses, other.uses), min(self.seconds, other.seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The authenticated agent. `credential` is the thumbprint of the credential that proved it, made at `since`.

    `groups` and `claims` (name and text) are what is enrolled about the agent; policies ask for them. They and `since`
    (0: unknown) belong to the moment of a call: a stored challenge does not keep them.
    """

    subject: str
    credential: str
    owner: str = ""
    on_behalf_of: str = ""
    groups: frozenset[str] = frozenset()
    claims: tuple[tuple[str, str], ...] = ()
    since: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a call came from. `address` is the peer of the socket ("" on stdio); `client` is what it calls itself."""

    transport: str
    address: str = ""
    client: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request of a principal, decoded strictly, with the digests that bind everything after it.

    `kind` is "tool", "resource", "prompt" or "protocol" and `name` what it names (tool name, canonical
    URI, prompt name; the method itself for protocol calls). `canonical` is the RFC 8785 text of the
    arguments; `digest` covers principal, server, kind, name, tool definition and arguments
    (`guard.wire.canonical.call_digest`).
    """

    id: str
    principal: Principal
    source: Source
    server: str
    method: str
    kind: str
    name: str
    arguments: Mapping[str, Json]
    canonical: str
    definition: str
    digest: str
    received: float

    @property
    def short_digest(self) -> str:
        """Six characters that page, chat, CLI and agent text all show."""
        return self.digest[:6]


class Measure(StrEnum):
    """What a limit counts: calls that ran, or bytes or rows of results that were delivered."""

    CALLS = "calls"
    BYTES = "bytes"
    ROWS = "rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How much one principal may have in `seconds` before each further call, or result, needs `demands` and `quorums`.

    `name` is that of the policy's entry or file, whose calls are counted together; `reason` is in its owner's words.
    """

    name: str
    most: int
    seconds: float
    measure: Measure = Measure.CALLS
    demands: frozenset[Demand]
    quorums: frozenset[Quorum] = frozenset()
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """What the owner's tags say about one call.

    `rule` names the deciding entry (`payments.yaml#tools.refund.rules[0]`) and `where` its place
    (`payments.yaml:12`). `sensitivity` and `effects` are final, after rules; `demands` and `quorums` are what
    `require` adds, and `barred` the people who changed the policy last. `further` is what the owner lets an approver
    consent to beyond the call. `log` holds the argument fields the owner opted into the ledger. With a `refusal` the
    owner does not let this agent call it at all. `limits` say how often it may be called before that needs a proof.
    """

    sensitivity: Sensitivity
    effects: frozenset[str] = frozenset()
    demands: frozenset[Demand] = frozenset()
    quorums: frozenset[Quorum] = frozenset()
    barred: frozenset[str] = frozenset()
    approvers: str = "approvers"
    further: Further = Further()
    tagged: bool = True
    rule: str = ""
    where: str = ""
    revision: str = ""
    owner: str = ""
    log: frozenset[str] = frozenset()
    reasons: tuple[Reason, ...] = ()
    refusal: Reason | None = None
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one signal saw: its reason, which doubt it raises, how strongly (`nats` adds up to a score)."""

    signal: str
    cause: Doubt
    band: Band
    reason: Reason
    nats: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Verified evidence from a factor. `subject` is the person or workload; `kind` the method (signature, totp).

    `attestation` is the level of step-up.md §5 (0 bare key, 1 enrolled on a token that never gives it
    away); `view_digest` is the digest of what the approver was shown, and `groups` are those of the requirement
    that the person belonged to.
    """

    proof_class: ProofClass
    kind: str
    factor: str
    subject: str
    at: float
    attestation: int = 0
    view_digest: str = ""
    note: str = ""
    solo: bool = False
    groups: frozenset[str] = frozenset()


class State(StrEnum):
    """Where a challenge stands (step-up.md §3)."""

    PENDING = "pending"
    SATISFIED = "satisfied"
    CONSUMED = "consumed"
    COMPLETED = "completed"
    FAILED = "failed"
    UNKNOWN = "unknown"
    DENIED = "denied"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    STALE = "stale"
    REVOKED = "revoked"

    @property
    def open(self) -> bool:
        """Whether proofs or a consumption may still come."""
        return self in {State.PENDING, State.SATISFIED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A single-use permission for one call digest, as proven by a satisfied challenge.

    It is re-checked against the present (`guard.decide`) and consumed by one compare-and-swap.
    """

    id: str
    challenge: str
    digest: str
    credential: str
    policy_revision: str
    definition: str
    requirement: Requirement
    proofs: tuple[Proof, ...]
    expires: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """Forward. With a `grant`, only after that grant was consumed."""

    reasons: tuple[Reason, ...]
    grant: Grant | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deny:
    """Refuse. The first reason is the decisive one; every reason may be shown to the caller."""

    reasons: tuple[Reason, ...]
    challenge: str = ""

    @property
    def code(self) -> Code:
        """The decisive reason's code."""
        return self.reasons[0].code if self.reasons else Code.INTERNAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """A demand for proofs about one call, and everything that happened to it since (`guard.stepup.machine`).

    `decide` makes it PENDING; `version` counts its changes for the store's compare-and-swap. `arguments`
    is the canonical text for the approver's eyes: sealed at rest, dropped when the challenge ends.
    `ended_by` and `ended_because` say who closed it and in which words. `further` is what its approver may also allow.
    """

    id: str
    nonce: str
    principal: Principal
    server: str
    method: str
    kind: str
    name: str
    arguments: str
    definition: str
    digest: str
    policy_revision: str
    rule: str
    sensitivity: Sensitivity
    effects: frozenset[str]
    requirement: Requirement
    reasons: tuple[Reason, ...]
    findings: tuple[Finding, ...]
    opened: float
    expires: float
    further: Further = Further()
    state: State = State.PENDING
    version: int = 0
    proofs: tuple[Proof, ...] = ()
    decided: float = 0.0
    ended_by: str = ""
    ended_because: str = ""

    @property
    def short_digest(self) -> str:
        """Six characters that page, chat, CLI and agent text all show."""
        return self.digest[:6]

    def timely(self, now: float) -> bool:
        """Whether `now` is within its life. A clock that was set back before its opening lengthens nobody's."""
        return self.opened - SET_BACK <= now < self.expires

    @property
    def grant(self) -> Grant | None:
        """The grant a satisfied challenge carries; None in every other state."""
        if self.state is not State.SATISFIED:
            return None
        return Grant(
            id="g" + self.id[1:],
            challenge=self.id,
            digest=self.digest,
            credential=self.principal.credential,
            policy_revision=self.policy_revision,
            definition=self.definition,
            requirement=self.requirement,
            proofs=self.proofs,
            expires=self.expires,
        )


Decision: TypeAlias = Permit | Challenge | Deny
"""The closed sum every call ends in; match it with `assert_never`."""
