"""What the pipeline writes into the ledger about a call, and in which fields."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from guard import faults
from guard.errors import GuardError, LedgerUnavailableError
from guard.model import Call, Challenge, Classification, Decision, Finding, Grant, Json, Permit, Principal, Source
from guard.ports import Ledger, Redactor
from guard.reasons import Code, Reason
from guard.results import KIND, Kept

log = structlog.get_logger()

_KEPT: Final = 1024
_LONG: Final = 256  # characters of a name (a URI may have thousands) with which nothing is kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A call with everything the decision rests on."""

    call: Call
    classification: Classification
    findings: tuple[Finding, ...]


class Journal:
    """Turns the steps of a call into records; arguments leave only as keyed digests.

    Most of a record is the same for every call of one agent to one tool. That part is one object, kept here,
    which the ledger encodes once, from the second call on: what comes only once shall not fill its memory.
    """

    def __init__(
        self, ledger: Ledger, redactor: Redactor, same_uid: Collection[str] = (), watched: Collection[str] = ()
    ) -> None:
        """Write through `ledger`, mask through `redactor`.

        Servers in `same_uid` run as the guard's own user; calls to those in `watched` go through whatever is decided.
        """
        self._ledger, self._redactor, self._same_uid = ledger, redactor, frozenset(same_uid)
        self._watched = frozenset(watched)
        self._common: dict[tuple[Hashable, ...], tuple[Classification, dict[str, Json]]] = {}
        self._ends: dict[tuple[str, ...], dict[str, Json]] = {}

    def decided(self, judged: Judged, decision: Decision, *, result_of: str = "") -> None:
        """Write who asked for what and what was decided, before anything goes on.

        With `result_of`, whether the result of that earlier run may be delivered was decided, and nothing will run.

        Raises:
            LedgerUnavailableError: it cannot be written, so the call must not go on.
        """
        call = judged.call
        common, again = self._circumstances(judged)
        fields = self._details(judged)
        fields["decision"] = type(decision).__name__.lower()
        if result_of:
            fields["result_of"] = result_of
        if call.kind != "protocol":
            fields["args"] = self._redactor.arguments(call.arguments, judged.classification.log)
        told = {} if isinstance(decision, Permit) and not decision.grant else self._told(decision, call.server)
        if told:
            self._ledger.append("decision.made", common | fields | told)
        elif again:
            self._ledger.append("decision.made", fields, common)
        else:
            self._ledger.append("decision.made", common | fields)
        faults.point("decision.made")

    async def intend(self, judged: Judged, grant: Grant, *, continues: str = "") -> None:
        """Put on disk that this grant is about to be spent on this call, or that it `continues` one it was spent on.

        Raises:
            LedgerUnavailableError: it is not known to be on disk, so the grant must not be spent.
        """
        fields = self._circumstances(judged)[0] | self._details(judged) | _ids(grant)
        if continues:
            fields["continues"] = continues
        await self._ledger.append_durably("call.forwarded", fields | {"phase": "intent"})
        faults.point("intent.recorded")

    def concluded(self, call: Call, outcome: str, grant: Grant | None = None, **fields: Json) -> None:
        """Write how a call ended; what happened has happened, so a full disk is reported and no more."""
        key = (call.principal.subject, call.server, call.name, outcome)
        own: dict[str, Json] = {"call_id": call.id} | fields
        common = self._ends.get(key)
        if common is None:
            own = self._end(key) | own
        try:
            if grant is not None:
                self._ledger.append("call.concluded", own | _ids(grant), common)
            else:
                self._ledger.note("call.concluded", own, common)
        except LedgerUnavailableError as error:
            log.error("outcome.unrecorded", call_id=call.id, outcome=outcome, detail=error.detail)  # noqa: TRY400

    def _end(self, key: tuple[str, str, str, str]) -> dict[str, Json]:
        """What all calls that ended so have in common; kept for the next one."""
        subject, server, tool, outcome = key
        end: dict[str, Json] = {"principal": subject, "server": server, "tool": tool, "phase": "outcome"}
        end["outcome"] = outcome
        if server in self._watched:
            end["watched"] = True
        if len(tool) <= _LONG:
            if len(self._ends) >= _KEPT:
                self._ends.clear()
            self._ends[key] = end
        return end

    def result(self, event: str, kept: Kept, **more: Json) -> None:
        """Write what becomes of a result that was withheld.

        Raises:
            LedgerUnavailableError: it cannot be written, so nothing may come of it.
        """
        self._ledger.append(event, _kept_json(kept) | more)

    async def released(self, kept: Kept, call: Call, grant: Grant | None) -> None:
        """Put on disk that a withheld result is about to be delivered, as the answer to `call`.

        Raises:
            LedgerUnavailableError: it is not known to be on disk, so the result must not be delivered.
        """
        more = _ids(grant) if grant is not None else {}
        await self._ledger.append_durably("result.released", _kept_json(kept) | more | {"delivered_to": call.id})

    def rejected(self, *, server: str, source: Source, principal: Principal | None, error: Exception) -> None:
        """Write a message that was refused before or outside a decision; changes nothing when it cannot."""
        reason = error.reason if isinstance(error, GuardError) else Code.INTERNAL
        public = error.public if isinstance(error, GuardError) else reason.meaning
        record: dict[str, Json] = {
            "server": self._redactor.text(server),
            "principal": principal.subject if principal else "",
            "src": source.address,
            "transport": source.transport,
            "decision": "deny",
            "reasons": [{"code": str(reason), "by": "", "evidence": self._redactor.text(public)}],
        }
        try:
            self._ledger.append("call.rejected", record)
        except LedgerUnavailableError as failure:
            log.error("refusal.unrecorded", reason=str(reason), detail=failure.detail)  # noqa: TRY400

    def said(self, text: str) -> str:
        """Free text made safe for a record."""
        return self._redactor.text(text)

    def _told(self, decision: Decision, server: str) -> dict[str, Json]:
        """What a decision says beyond the tags, where no record of its challenge will."""
        told: dict[str, Json] = {"reasons": reasons_json(decision.reasons)}
        if isinstance(decision, Challenge):
            if server not in self._watched:
                return {}
            needed = decision.requirement
            told |= {"requirement": needed.label, "approver_group": needed.approvers, "quorums": [*needed.terms]}
        return told

    def _details(self, judged: Judged) -> dict[str, Json]:
        """What is this call's own."""
        call = judged.call
        fields: dict[str, Json] = {"call_id": call.id}
        if call.kind != "protocol":
            fields["args_digest"] = call.digest
            fields["args_bytes"] = len(call.canonical)
        if judged.findings:
            fields["findings"] = [_finding_json(finding) for finding in judged.findings]
        return fields

    def _circumstances(self, judged: Judged) -> tuple[dict[str, Json], bool]:
        """Who asked for what from where, and what its tags say; whether an earlier call had the very same object."""
        call, tags = judged.call, judged.classification
        who, source = call.principal, call.source
        key = (
            id(tags), who.subject, who.credential, source.transport, source.address, source.client,
            call.server, call.method, call.kind, call.name, call.definition,
        )  # fmt: skip
        known = self._common.get(key)
        if known is not None:
            return known[1], True
        fields = self._who(call) | _tags_json(tags)
        if len(call.name) <= _LONG:
            if len(self._common) >= _KEPT:
                self._common.clear()
            self._common[key] = tags, fields  # the tags live as long as their id means them
        return fields, False

    def _who(self, call: Call) -> dict[str, Json]:
        """Who asked for what, from where."""
        fields: dict[str, Json] = {
            "principal": call.principal.subject,
            "cred_thumbprint": call.principal.credential,
            "src": call.source.address,
            "transport": call.source.transport,
            "server": call.server,
            "method": call.method,
        }
        if call.source.client:
            fields["client_info"] = call.source.client
        if call.source.transport == "stdio" or call.server in self._same_uid:
            fields["same_uid"] = True
        if call.server in self._watched:
            fields["watched"] = True
        if call.kind != "protocol":
            fields["kind"] = call.kind
            fields["tool"] = call.name
        if call.definition:
            fields["tool_def_hash"] = call.definition
        return fields


def _finding_json(finding: Finding) -> dict[str, Json]:
    """What a signal saw, as the ledger spells it."""
    fields: dict[str, Json] = {
        "signal": finding.signal,
        "cause": str(finding.cause),
        "band": finding.band.name.lower(),
        "code": str(finding.reason.code),
        "evidence": finding.reason.evidence,
    }
    return fields | {"nats": round(finding.nats, 6)} if finding.nats else fields


def _tags_json(tags: Classification) -> dict[str, Json]:
    """What the owner's tags say, as the ledger spells it."""
    fields: dict[str, Json] = {
        "sensitivity": tags.sensitivity.label,
        "rule_id": tags.rule,
        "where": tags.where,
        "policy_revision": tags.revision,
        "reasons": reasons_json(tags.reasons),
    }
    if tags.effects:
        fields["effects"] = sorted(tags.effects)
    return fields


def reasons_json(reasons: Sequence[Reason]) -> list[Json]:
    """Reasons as the ledger spells them."""
    return [{"code": str(reason.code), "by": reason.by, "evidence": reason.evidence} for reason in reasons]


def _kept_json(kept: Kept) -> dict[str, Json]:
    """A withheld result, as the ledger spells it."""
    fields: dict[str, Json] = {
        "call_id": kept.call_id,
        "principal": kept.principal,
        "server": kept.server,
        "kind": KIND,
        "tool": kept.name,
        "args_digest": kept.call_digest,
        "result_digest": kept.digest,
        "result_bytes": kept.size,
        "limits": [*kept.limits],
    }
    if kept.rows >= 0:
        fields["rows"] = kept.rows
    return fields | ({"evidence": kept.evidence} if kept.evidence else {})


def _ids(grant: Grant) -> dict[str, Json]:
    return {"challenge_id": grant.challenge, "grant_id": grant.id}
