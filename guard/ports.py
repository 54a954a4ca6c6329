"""Every protocol through which the guard meets the outside, on one page.

The store is synchronous on purpose (SQLAlchemy Core): async shells call it through
`anyio.to_thread.run_sync`, the CLI calls it directly. All times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from guard.intents import Intents
from guard.model import Call, Challenge, Finding, Json, Principal, Proof, State
from guard.notices import Notice, Notices
from guard.people import People, Range
from guard.results import Results

# ------------------------------------------------------------------ time


class Clock(Protocol):
    """The only source of time and of unpredictable identifiers."""

    def now(self) -> float:
        """Unix seconds, UTC."""

    def mono(self) -> float:
        """Monotonic seconds."""

    def token(self, prefix: str) -> str:
        """`prefix` + "_" + 22 base62 characters (at least 128 random bits)."""


# ------------------------------------------------------------------ what the store keeps


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """An enrolled agent and the person who answers for it.

    Policies ask for its `groups`, and for its `claims` (name and text), in order of their names.
    """

    name: str
    owner: str
    created: float
    revoked: float = 0.0
    groups: frozenset[str] = frozenset()
    claims: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """One key of an agent. Only `digest` (SHA-256 of the key) is stored; `thumbprint` is its first 16 hex digits."""

    digest: str
    agent: str
    created: float
    expires: float = 0.0
    revoked: float = 0.0

    @property
    def thumbprint(self) -> str:
        """Public short name of the credential."""
        return self.digest[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Approver:
    """A person who may consent, in one or more groups. Removed people stay listed with a time."""

    name: str
    groups: frozenset[str]
    created: float
    removed: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """An enrolled factor. `public` is open data (JSON object), `secret` is sealed at rest.

    `counter` is the last accepted TOTP time step; `failures` the times of wrong codes, recent or since a right one.
    """

    id: str
    kind: str
    subject: str
    created: float
    attestation: int = 0
    public: Mapping[str, Json]
    secret: bytes = b""
    counter: int = 0
    failures: tuple[float, ...] = ()
    locked: float = 0.0
    revoked: float = 0.0
    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """How far one ledger lane is known to reach: `size` records whose RFC 6962 root is `root` (hex)."""

    name: str
    size: int
    root: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """The tool definition trusted on first use (`pinned`) and the one seen last (`seen`), by digest.

    `pinned_text` and `seen_text` are their JSON texts; "" where none was kept, because it was too long.
    """

    server: str
    tool: str
    pinned: str
    seen: str
    pinned_text: str = ""
    seen_text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Emergency:
    """One broken glass: who ran which call without the proofs it needs, why, and who looked at it afterwards."""

    challenge: str
    subject: str
    at: float
    reason: str
    ticket: str
    reviewed: float = 0.0
    reviewer: str = ""
    verdict: str = ""


class Agents(Protocol):
    """Agents and their credentials."""

    def add(self, agent: Agent) -> bool:
        """Insert; False when the name is taken."""

    def get(self, name: str) -> Agent | None:
        """One agent, revoked or not."""

    def all(self) -> Sequence[Agent]:
        """Every agent by name."""

    def revoke(self, name: str, at: float) -> bool:
        """Revoke the agent and every credential of it; False when there is no such live agent."""

    def describe(self, name: str, *, groups: frozenset[str], claims: tuple[tuple[str, str], ...]) -> bool:
        """Replace groups and claims of a live agent; False when there is none."""

    def add_credential(self, credential: Credential) -> None:
        """Insert a credential."""

    def expire_credentials(self, agent: str, at: float, *, but: str) -> None:
        """Let every live credential of the agent but the one with digest `but` end at `at` at the latest."""

    def credential(self, digest: str) -> Credential | None:
        """The credential with this digest, live or not."""

    def credentials(self, agent: str) -> Sequence[Credential]:
        """All credentials of an agent, newest first."""


class Approvers(Protocol):
    """People who may consent."""

    def put(self, approver: Approver) -> None:
        """Insert or replace."""

    def get(self, name: str) -> Approver | None:
        """One approver, removed or not."""

    def all(self) -> Sequence[Approver]:
        """Every approver by name."""


class Factors(Protocol):
    """Enrolled factors."""

    def add(self, factor: Factor) -> None:
        """Insert."""

    def get(self, factor_id: str) -> Factor | None:
        """One factor."""

    def of(self, subject: str, kind: str = "") -> Sequence[Factor]:
        """All factors of a subject, newest first, optionally of one kind. An empty subject means everyone's."""

    def swap(self, old: Factor, new: Factor) -> bool:
        """Durable compare-and-swap on `old.version`; False when somebody else was first."""


class Challenges(Protocol):
    """Challenges and, through their state, grants."""

    def open_or_join(self, challenge: Challenge) -> Challenge:
        """Insert, or return the open challenge that already exists for this digest."""

    def get(self, challenge_id: str) -> Challenge | None:
        """One challenge."""

    def by_digest(self, digest: str) -> Challenge | None:
        """The newest challenge for a call digest, whatever its state."""

    def find(
        self, *, states: frozenset[State] = frozenset(), principal: str = "", due: float | None = None
    ) -> Sequence[Challenge]:
        """Challenges by state and principal, oldest first; with `due`, those only that expire then or before."""

    def page(self, wanted: Range) -> Sequence[tuple[int, Challenge]]:
        """One page, as place and challenge **without its arguments**; the last place is where the next one begins."""

    def pulse(self, groups: frozenset[str] | None, now: float, named: frozenset[str] | None = None) -> tuple[int, str]:
        """How many challenges of these groups wait, and a mark that differs when one of them came, went or changed."""

    def count_open(self, principal: str, now: float) -> int:
        """How many challenges of a principal are open, and not out of time at `now`."""

    def waiting(self, now: float) -> Mapping[str, int]:
        """How many challenges wait for people at `now`, by the group that is asked."""

    def decided(self, principal: str, limit: int, *, state: State | None = None) -> Sequence[Challenge]:
        """The challenges of a principal in this state, or PENDING no longer: the newest `limit`, newest first."""

    def swap(self, old: Challenge, new: Challenge, *, durable: bool, spends: Mapping[str, int] = ...) -> bool:
        """One compare-and-swap on `old.version` and `old.state`; fsynced before it returns when `durable`.

        `spends` maps ids of intents to how many uses they have: one use of each is counted in the same transaction, and
        where one has none left or was revoked, nothing changes.
        """

    def states(self, ids: Sequence[str]) -> Mapping[str, tuple[State, int]]:
        """State and version of the given challenges; cheap, for waiting."""


class Emergencies(Protocol):
    """Broken glass and its reviews."""

    def add(self, emergency: Emergency) -> bool:
        """Insert, durably; False when an earlier one is not reviewed yet."""

    def since(self, at: float) -> Sequence[Emergency]:
        """All that began after `at`, and all that are not reviewed, oldest first."""

    def review(self, challenge_id: str, *, by: str, verdict: str, at: float) -> bool:
        """Note a review, durably; False when there is none that waits for it."""


class Lanes(Protocol):
    """The outside memory of the ledger."""

    def get(self, name: str) -> Lane | None:
        """What is known of a lane."""

    def all(self) -> Sequence[Lane]:
        """Every lane."""

    def put(self, lane: Lane) -> None:
        """Remember that the lane reaches this far; a smaller size than known is refused (ValueError)."""


class Baselines(Protocol):
    """Versioned JSON snapshots of what was learnt by watching: drift profiles and habits of agents, by key."""

    def get(self, key: str) -> str | None:
        """The snapshot, or None."""

    def put(self, key: str, snapshot: str) -> None:
        """Insert or replace."""


class Sessions(Protocol):
    """Which principal a legacy MCP session belongs to."""

    def bind(self, server: str, session: str, subject: str, at: float) -> None:
        """Remember the owner of a new session id."""

    def owner(self, server: str, session: str) -> str | None:
        """The owner's subject, or None when the session is unknown."""

    def drop(self, server: str, session: str) -> None:
        """Forget a session."""


class Pins(Protocol):
    """Tool definitions trusted on first use."""

    def see(self, server: str, definitions: Mapping[str, str], texts: Mapping[str, str] | None = None) -> Sequence[Pin]:
        """Record the listed definitions (tool → digest), pinning new tools; return the pins that now differ.

        `texts` are their JSON texts, for those that are short enough to be kept.
        """

    def all(self, server: str) -> Sequence[Pin]:
        """Every pin of a server."""

    def accept(self, server: str, tool: str = "") -> int:
        """Pin what was seen last, for one tool or all; how many changed."""


class Store(Protocol):
    """The state every process of one deployment shares.

    Every method raises `StoreUnavailableError` when the database cannot serve.
    """

    @property
    def agents(self) -> Agents:
        """Agents and credentials."""

    @property
    def approvers(self) -> Approvers:
        """People."""

    @property
    def factors(self) -> Factors:
        """Factors."""

    @property
    def challenges(self) -> Challenges:
        """Challenges and grants."""

    @property
    def notices(self) -> Notices:
        """Who was told what."""

    @property
    def emergencies(self) -> Emergencies:
        """Broken glass."""

    @property
    def intents(self) -> Intents:
        """Published intents."""

    @property
    def lanes(self) -> Lanes:
        """Ledger heads."""

    @property
    def baselines(self) -> Baselines:
        """Drift snapshots."""

    @property
    def sessions(self) -> Sessions:
        """Legacy sessions."""

    @property
    def pins(self) -> Pins:
        """Tool definitions."""

    @property
    def people(self) -> People:
        """What the console remembers."""

    @property
    def results(self) -> Results:
        """Withheld results."""

    def changed(self) -> int:
        """A number that moves whenever another connection committed; cheap enough to poll ten times a second."""

    def close(self) -> None:
        """Release every connection."""


# ------------------------------------------------------------------ what the guard writes and asks


class Ledger(Protocol):
    """Append-only record of every step. Raises `LedgerUnavailableError`; nothing goes on without its record.

    `event` is `noun.verb-past` from `guard.audit.record.EVENTS`; `fields` are its JSON fields (already
    redacted by the caller through `guard.audit.redact`).
    """

    def append(self, event: str, fields: Mapping[str, Json], shared: Mapping[str, Json] | None = None) -> int:
        """Write one record to the operating system; return its sequence number.

        `shared` are further fields; whoever writes many records hands over the same object each time.
        """

    def note(self, event: str, fields: Mapping[str, Json], shared: Mapping[str, Json] | None = None) -> int:
        """Take a record of what has happened already; it is written within 5 ms, or with the next one."""

    async def append_durably(self, event: str, fields: Mapping[str, Json]) -> int:
        """Write one record and wait until it is on disk (concurrent callers share the fsync)."""


class Seal(Protocol):
    """Encrypts small texts that leave the guard and come back."""

    def seal(self, plain: bytes, aad: bytes) -> bytes:
        """Encrypt and authenticate, together with what the text is for."""

    def unseal(self, sealed: bytes, aad: bytes) -> bytes:
        """What was sealed for the same purpose.

        Raises:
            StoreUnavailableError: it was not sealed by this deployment, or not for this.
        """


class Redactor(Protocol):
    """Keeps secrets and control characters out of every sink."""

    def arguments(self, args: Mapping[str, Json], log: frozenset[str]) -> Json:
        """Arguments as keyed digests by top-level field; the fields in `log` in clear."""

    def text(self, text: str) -> str:
        """Free text with secrets masked and control characters made visible, bounded."""


class Identifier(Protocol):
    """Turns a credential into a principal."""

    async def identify(self, credential: str) -> Principal:
        """The principal this credential proves.

        Raises:
            IdentityError: missing, unknown, expired or revoked.
        """

    def recheck(self, principal: Principal) -> None:
        """Look again, past every cache, whether the credential behind this principal still holds; blocks.

        Raises:
            IdentityError: it was revoked or expired meanwhile.
        """


class Signal(Protocol):
    """One behavioural detector. It may raise the bar, never lower it."""

    def assess(self, call: Call) -> Sequence[Finding]:
        """What is unusual about this call for its principal. Pure and fast (microseconds)."""

    def learn(self, call: Call, proven: frozenset[str]) -> bool:
        """Fold an executed call into the profile, as far as its proof classes vouch; True when something changed."""


class FactorVerifier(Protocol):
    """Verifies one kind of proof by raising."""

    def verify(self, challenge: Challenge, evidence: Mapping[str, Json], now: float) -> Proof:
        """The proof that this evidence gives for this challenge.

        Raises:
            ProofError: it does not count; the subclass says why.
        """

    def stands(self, challenge: Challenge, proof: Proof) -> bool:
        """Whether who gave this proof could give it still; True for proofs of another kind."""


@runtime_checkable
class CodeAuthenticator(Protocol):
    """Checks one code of one person by raising, and spends it."""

    def authenticate(self, subject: str, code: str, now: float) -> str:
        """The id of the factor that made this code.

        Raises:
            ProofError: the code does not count; the subclass says why.
        """

    def works(self, factor: str) -> bool:
        """Whether the factor of this id exists and was not revoked; a locked one was good when it was used."""


@runtime_checkable
class ListVerifier(FactorVerifier, Protocol):
    """A factor with which one person can prove several calls at once, every one of them shown."""

    def verify_list(self, challenges: Sequence[Challenge], evidence: Mapping[str, Json], now: float) -> Sequence[Proof]:
        """One proof for each challenge, in order; all of them or none.

        Raises:
            ProofError: one of them does not count, or the list is not the one that was shown.
        """


class Notifier(Protocol):
    """One channel to people. It tells; it never decides."""

    async def notify(self, notice: Notice) -> None:
        """Deliver one notice, in one attempt; the caller bounds its time by cancelling it.

        Raises:
            ChannelError: it was not delivered.
        """
