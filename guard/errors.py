"""Everything the guard raises. A refusal is a value (`guard.model.Deny`), not an exception.

::

    GuardError(public, reason, detail)
    ├ ConfigError ─ PolicyError ─ PluginError      start-up and reload only; they name file:line:column
    ├ WireError                                    malformed, ambiguous or too large: refused before policy
    ├ IdentityError                                no credential, or not a valid one
    ├ NotFoundError                                a name given to the CLI or API that does not exist
    ├ ProofError
    │   ├ ProofInvalidError · ProofExpiredError · ProofReplayedError
    │   └ ProofWrongCallError · ProofWrongApproverError · ProofLockedError · BreakGlassError
    ├ ChallengeError
    │   ├ IllegalTransitionError
    │   └ ChallengeClosedError
    ├ UnavailableError                             always fail closed
    │   └ StoreUnavailableError · LedgerUnavailableError · FactorUnavailableError
    ├ ChannelError                                 a notification; opens and delays nothing
    └ UpstreamError                                never retried after a forward

`public` may be shown to the caller; `detail` is for the operational log only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from guard.reasons import Code

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class GuardError(Exception):
    """Root of the tree. `public` is safe to show, `detail` is not."""

    default: ClassVar[Code] = Code.INTERNAL

    def __init__(self, public: str = "", *, reason: Code | None = None, detail: str = "") -> None:
        """Take the sentence for the caller, the closed reason, and what only the log may hold."""
        self.reason = reason if reason is not None else self.default
        self.public = public or self.reason.meaning
        self.detail = detail
        super().__init__(self.public)


class ConfigError(GuardError):
    """A mistake in a file people write. Raised at start-up and reload, never on the call path."""

    default = Code.BAD_CONFIG

    def __init__(self, public: str, *, file: Path | str = "", line: int = 0, column: int = 0) -> None:
        """Place the mistake; `line` and `column` count from 1, 0 means unknown."""
        self.file, self.line, self.column = str(file), line, column
        where = ":".join(str(part) for part in (self.file, line, column) if part)
        super().__init__(f"{where}: {public}" if where else public)


class PolicyError(ConfigError):
    """A mistake in a `tool_policies` file."""


class PluginError(ConfigError):
    """A configured plug-in that cannot be loaded."""


class WireError(GuardError):
    """A message that is malformed, ambiguous or too large. `rpc_code` is the JSON-RPC error code.

    `request_id` is the id of the refused request where it could be read beyond doubt, so that the caller
    waiting for it is answered; `data` is what the specification wants beside the code.
    """

    default = Code.MALFORMED

    def __init__(
        self,
        public: str,
        *,
        reason: Code = Code.MALFORMED,
        rpc_code: int = -32600,
        detail: str = "",
        data: Mapping[str, str | Sequence[str]] | None = None,
    ) -> None:
        """Take the JSON-RPC code beside the reason (-32700 parse, -32600 request, -32601 method, -32602 params)."""
        self.rpc_code = rpc_code
        self.data = data
        self.request_id: str | int | None = None
        super().__init__(public, reason=reason, detail=detail)


class IdentityError(GuardError):
    """No credential was presented, or it is unknown, expired or revoked."""

    default = Code.BAD_CREDENTIAL


class NotFoundError(GuardError):
    """A name given to the CLI or the API that does not exist."""

    default = Code.NOT_FOUND


class ProofError(GuardError):
    """A proof that does not count."""

    default = Code.PROOF_INVALID


class ProofInvalidError(ProofError):
    """The signature or code does not verify."""


class ProofExpiredError(ProofError):
    """The proof or the challenge it answers is too old."""

    default = Code.PROOF_EXPIRED


class ProofReplayedError(ProofError):
    """The proof was used before."""

    default = Code.PROOF_REPLAYED


class ProofWrongCallError(ProofError):
    """The proof was made for another call."""

    default = Code.PROOF_WRONG_CALL


class ProofWrongApproverError(ProofError):
    """This person may not decide about this call."""

    default = Code.PROOF_WRONG_APPROVER


class ProofLockedError(ProofError):
    """The factor is locked."""

    default = Code.PROOF_LOCKED


class ChallengeError(GuardError):
    """A challenge cannot take this event."""

    default = Code.CANCELLED


class IllegalTransitionError(ChallengeError):
    """The state machine has no such transition: a defect of the caller, never of the user."""

    default = Code.INTERNAL


class ChallengeClosedError(ChallengeError):
    """The challenge already ended (denied, expired, stale, consumed ...)."""


class UnavailableError(GuardError):
    """Something the guard needs is away. Always fail closed."""


class StoreUnavailableError(UnavailableError):
    """The state database cannot be read or written."""

    default = Code.STORE_UNAVAILABLE


class LedgerUnavailableError(UnavailableError):
    """The ledger cannot be written."""

    default = Code.AUDIT_UNAVAILABLE


class FactorUnavailableError(UnavailableError):
    """The signer, token or channel of a factor cannot be reached."""

    default = Code.FACTOR_UNAVAILABLE


class UpstreamError(GuardError):
    """The tool server failed. `sent` says whether any byte of the call may have reached it."""

    default = Code.UPSTREAM_UNAVAILABLE

    def __init__(self, public: str = "", *, sent: bool, reason: Code | None = None, detail: str = "") -> None:
        """Say whether bytes were sent: then the outcome is unknown and nothing is ever resent."""
        self.sent = sent
        super().__init__(public, reason=reason or (Code.UPSTREAM_BROKE if sent else self.default), detail=detail)


class ChannelError(GuardError):
    """A notification that could not be delivered. With `lasting`, another attempt would not help."""

    default = Code.CHANNEL_FAILED

    def __init__(self, public: str, *, lasting: bool = False, detail: str = "") -> None:
        """Say what happened, and whether it is worth trying again."""
        self.lasting = lasting
        super().__init__(public, detail=detail)


class BreakGlassError(ProofError):
    """Glass may not be broken now: the quota is used up, or an earlier emergency is not reviewed yet."""

    default = Code.BREAK_GLASS_CLOSED
