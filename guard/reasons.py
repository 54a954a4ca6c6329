"""Every reason a decision, a refusal or a record may give: its code and one sentence.

The vocabulary is closed. A code is what machines match on and never changes its meaning; the sentence
is what a security reviewer reads. ``docs/reference/reasons.md`` is generated from this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self


class Code(StrEnum):
    """Closed vocabulary of reasons. ``Code.meaning`` is the sentence for people."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        """Make a member whose value is the code and whose ``meaning`` is the sentence."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    # What the owner's tags say.
    TAG_PUBLIC = "tag_public", "the owner tagged this as public"
    TAG_INTERNAL = "tag_internal", "the owner tagged this as internal"
    TAG_SENSITIVE = "tag_sensitive", "the owner tagged this as sensitive"
    TAG_CRITICAL = "tag_critical", "the owner tagged this as critical"
    UNTAGGED = "untagged", "no entry of the policy names this, so it needs a step-up"
    NO_POLICY = "no_policy", "no policy file describes this server, so everything on it needs a step-up"
    IRREVERSIBLE = "irreversible", "an effect of this call cannot be undone"
    RULE = "rule", "a rule of the policy applies"
    RULE_FAILED = "rule_failed", "a rule's condition could not be evaluated, so its stricter branch counts"
    NOT_ALLOWED = "not_allowed", "the owner lets other agents call this, not this one"
    OVER_LIMIT = "over_limit", "this agent has called it as often as its owner expects in that time"
    RESULT_LIMIT = "result_limit", "what came back is more than its owner lets one agent take in that time"
    INNER_CALL = "inner_call", "what the tool is told to run counts as if it were called itself"
    INNER_UNKNOWN = "inner_unknown", "what the tool is told to run cannot be told, so it counts as critical"
    REQUIRED = "required", "the policy demands this proof whether or not anything is unusual"
    HINT_DESTRUCTIVE = "hint_destructive", "the server itself calls this untagged tool destructive"
    DEFINITION_CHANGED = "definition_changed", "the tool's definition changed since it was pinned"
    PROTOCOL = "protocol", "this method carries no power of a tool and passes"

    # What behavioural signals say.
    NEW_NETWORK = "new_network", "the key is used from a network it was never used from before"
    NEW_HOUR = "new_hour", "the key is used at an hour of the week it is never used at"
    NEW_CLIENT = "new_client", "the key is used with software it was never used with before"
    TWO_PLACES = "two_places", "the key is used from two networks at once"
    MANY_KEYS = "many_keys", "keys of many agents turn up at one network that none of them was used from before"
    OLD_KEY = "old_key", "the key is older than a key should become"
    MANY_CALLS = "many_calls", "the agent made far more calls today than it used to in a day"
    MUCH_DATA = "much_data", "the agent took in far more data today than it used to in a day"
    TOO_FAST = "too_fast", "the agent calls far faster than it used to"
    FIRST_KIND = "first_kind", "the agent never did anything of this kind"
    ESCALATION = "escalation", "the conversation went from harmless to dangerous within a few calls"
    UNDECLARED_TOOL = "undeclared_tool", "the tool is not among those this agent is declared to use"
    UNDECLARED_DESTINATION = "undeclared_destination", "it goes somewhere this agent is not declared to send anything"
    UNUSUAL_CALL = "unusual_call", "taken as a whole, the call is not like what this agent does"
    TOOL_NEW = "tool_new", "the agent never used this tool"
    TOOL_RARE = "tool_rare", "the agent rarely uses this tool"
    SEQUENCE = "sequence", "the tool does not usually follow the one before it"
    ARGUMENT_NEW = "argument_new", "an argument takes a value that it never took"
    DESTINATION_NEW = "destination_new", "it goes somewhere this agent never sent anything"
    FRESH = "fresh", "a share of the values is new"
    APART = "apart", "the call has nothing in common with the conversation before it"
    AFTER_READ = "after_read", "the agent read an untrusted result before"
    FROM_PROSE = "from_prose", "a new value first stood in the text of an untrusted result"
    FROM_FIELD = "from_field", "a new value first stood in a field of an untrusted result"
    ARGUMENT_FROM_RESULT = "argument_from_result", "the new argument was brought by an untrusted result"
    DESTINATION_FROM_RESULT = "destination_from_result", "a new destination, in a call that a result brought values to"
    APART_FROM_RESULT = "apart_from_result", "a result, and nothing before it, led to this call"
    BROUGHT_BEFORE = "brought_before", "its new value came with an earlier call that was as doubtful"

    # Why a call passes although it needs proof.
    GRANTED = "granted", "everything required was proven, and the grant is spent on this call"

    # Why a call waits or is refused.
    STEP_UP_PENDING = "step_up_pending", "the required proofs are not there yet"
    DENIED = "denied", "a person refused this call"
    COOL_DOWN = "cool_down", "this very call was refused a short while ago"
    EXPIRED = "expired", "the challenge ran out of time"
    CANCELLED = "cancelled", "the challenge was closed before it was decided"
    STALE = "stale", "policy, tool definition or credential changed since the challenge was opened"
    REVOKED = "revoked", "the grant was revoked"
    SPENT = "spent", "the grant was already spent; one approval runs one call"
    CALLER_LEFT = "caller_left", "the caller went away, so nothing was executed"
    STOPPING = "stopping", "the guard is shutting down"
    OVERLOADED = "overloaded", "too many calls are in flight"

    TOO_MANY_PENDING = "too_many_pending", "too many calls of this agent wait for a decision already"
    APPROVERS_BUSY = "approvers_busy", "too many calls wait already for the people who could decide this one"
    BACKING_OFF = (
        "backing_off",
        "the last calls of this agent that needed a proof were refused or left unanswered, so it has to wait",
    )

    SAME_UID = "same_uid", "critical tools are refused here because the tool server runs as the guard's own user"

    # What is wrong with a message.
    MALFORMED = "malformed", "the message is not valid JSON-RPC"
    AMBIGUOUS = "ambiguous", "another parser could read this message differently"
    NUMBER = "number", "a number is not finite or is larger than every JSON reader can hold exactly"
    ENCODING = "encoding", "the message is not plain UTF-8"
    TOO_LARGE = "too_large", "the message exceeds a bound on size, depth or members"
    UNKNOWN_METHOD = "unknown_method", "the method is not on the guard's list"
    UNKNOWN_MEMBER = "unknown_member", "the message has a member the protocol does not name"
    HEADER_MISMATCH = "header_mismatch", "a routing header disagrees with the body or is given twice"
    MEDIA_TYPE = "media_type", "the content type or encoding is not accepted"
    HOST = "host", "the Host or Origin header is not one of this listener's names"
    UNSOLICITED = "unsolicited", "this answers a question nobody asked on this connection"
    STATE_INVALID = "state_invalid", "this requestState was not issued for this very call, or is too old"
    DUPLICATE_ID = "duplicate_id", "a request with this id is still in flight"

    # Who is asking.
    NO_CREDENTIAL = "no_credential", "no credential was presented"
    BAD_CREDENTIAL = "bad_credential", "the credential is unknown, expired or revoked"
    CROSS_SITE = "cross_site", "the request does not come from the console's own pages, or lacks its login's token"
    LOGIN_REFUSED = "login_refused", "the login provider's answer does not count, or names nobody who may approve"
    FOREIGN_SESSION = "foreign_session", "the session belongs to another principal or is unknown"

    # What is wrong with a proof.
    PROOF_INVALID = "proof_invalid", "the proof does not verify"
    PROOF_REPLAYED = "proof_replayed", "the proof was used before"
    PROOF_WRONG_CALL = "proof_wrong_call", "the proof was made for another call"
    PROOF_WRONG_APPROVER = "proof_wrong_approver", "this person may not decide about this call"
    PROOF_LOCKED = "proof_locked", "the factor is locked after too many wrong attempts"
    PROOF_EXPIRED = "proof_expired", "the proof or its challenge is too old"
    NOT_TAKEN = "not_taken", "the policy does not take this kind of proof for this call"
    TICKET_REFUSED = "ticket_refused", "the change ticket is not approved, or its window is not open"
    TICKET_UNAVAILABLE = "ticket_unavailable", "the change system cannot be asked, so the ticket counts for nothing"
    FACTOR_UNSUITABLE = "factor_unsuitable", "the key or device does not have the property the factor needs"

    BREAK_GLASS_CLOSED = "break_glass_closed", "glass may not be broken at this moment"

    # What failed in the guard or behind it.
    STORE_UNAVAILABLE = "store_unavailable", "the state database cannot be read or written"
    AUDIT_UNAVAILABLE = "audit_unavailable", "the ledger cannot be written, and nothing goes on unrecorded"
    FACTOR_UNAVAILABLE = "factor_unavailable", "the signer or the token cannot be reached"
    CHANNEL_FAILED = "channel_failed", "a notification could not be delivered"
    UPSTREAM_UNAVAILABLE = "upstream_unavailable", "the tool server cannot be reached"
    RESULT_WITHHELD = "result_withheld", "the call ran, once; what came back is withheld for now"
    RESULT_GONE = "result_gone", "the call ran, once; what came back was withheld and will not be delivered"
    UPSTREAM_BROKE = "upstream_broke", "the tool server broke off after it received the call; the outcome is unknown"
    ANSWER_LOST = "answer_lost", "the connection broke and the answer is not kept any more; the outcome is unknown"
    UPSTREAM_RESTING = (
        "upstream_resting",
        "the tool server's process ended several times in a row, and a moment passes before it is started again",
    )
    TOO_MANY_CHILDREN = "too_many_children", "as many processes of tool servers run as the limits allow"
    SESSION_LOST = "session_lost", "the tool server lost the session and could not begin it again"
    ISSUER_UNAVAILABLE = (
        "issuer_unavailable",
        "the login provider cannot be asked, or answers in another form",
    )
    UNKNOWN_SERVER = "unknown_server", "no server of this name is configured"
    BAD_CONFIG = "bad_config", "a configuration or policy file has a mistake"
    NOT_FOUND = "not_found", "there is nothing by this name"
    INTERNAL = "internal", "the guard failed inside and refused to be safe"


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason: a code, who or what stated it (`by`), and the evidence or the owner's own words.

    `evidence` is bounded text for people; it never holds a raw argument value.
    """

    code: Code
    by: str = ""
    evidence: str = ""

    def __str__(self) -> str:
        """Say the reason as one sentence without a final stop."""
        text = self.code.meaning
        if self.by:
            text += f" ({self.by})"
        return f"{text}: {self.evidence}" if self.evidence else text
