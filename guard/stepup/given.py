"""Consent to further calls: what a person allows beyond the call they approve. Pure.

It is an intent with the same closed constraints as a signed one (`guard.stepup.intent`), but nobody's key signs it: it
rests on the vote it was given with, is kept sealed, and counts only while that person could still vote. The call that
was looked at is always inside it, and it answers later only what was on the page then: a doubt no graver, and the same
rules and limits of the owner.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from guard.errors import ProofError, ProofExpiredError, ProofInvalidError, ProofWrongCallError, WireError
from guard.model import Band, Challenge, Doubt, Finding, Json, Proof
from guard.quorum import GIVEN, takes
from guard.reasons import Code
from guard.stepup import intent
from guard.stepup.intent import Manifest, require_covers
from guard.stepup.shape import Check, boolean, exactly, members, text, texts
from guard.wire.canonical import canonical, digest
from guard.wire.strict import read

TYPE: Final = "guard.intent.given"
VERSION: Final = 1
FIELDS: Final = ("also_uses", "also_minutes", "also_when")
"""What a vote says about further calls; texts, and empty ones say nothing."""

_RULED: Final = frozenset({Code.RULE, Code.RULE_FAILED, Code.OVER_LIMIT, Code.INNER_CALL, Code.INNER_UNKNOWN})
_WHOLE: Final = re.compile(r"[1-9][0-9]{0,5}", re.ASCII)
_NAMED: Final[Mapping[str, Check]] = {
    "v": exactly(VERSION),
    "typ": exactly(TYPE),
    "challenge": text(r"c_[0-9A-Za-z]{16,64}"),
    "factor": text(r".{1,256}"),
    "on_behalf_of": text(r".{0,256}"),
    "groups": texts(r".{1,256}"),
    "seen": texts(r".{1,64}"),
    "solo": boolean,
    "manifest": lambda value: isinstance(value, dict),
}
_SHAPE: Final = members(_NAMED)


@dataclass(frozen=True, slots=True)
class Also:
    """What a person wants to allow beyond the call: so many further ones, in so many minutes, with which arguments.

    `when` is a condition as in a manifest; empty, the arguments are exactly those of the call.
    """

    uses: int
    minutes: int
    when: str = ""

    @property
    def label(self) -> str:
        """The same in words, one text for one wish: it is shown, recorded, and signed by a passkey."""
        arguments = f"where {self.when}" if self.when else "with the same arguments"
        times = "1 further call" if self.uses == 1 else f"{self.uses} further calls"
        return f"allows {times} within {self.minutes} min, {arguments}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What was allowed: `manifest`, while approving `challenge`, with the person's `factor`, as a member of `groups`.

    `seen` are the doubts about what is wanted, and what the owner's rules and limits found, that the page showed;
    `solo` as in `guard.model.Proof`.
    """

    manifest: Manifest
    challenge: str
    factor: str
    on_behalf_of: str
    groups: frozenset[str]
    seen: frozenset[str]
    solo: bool


def wanted(evidence: Mapping[str, Json]) -> Also | None:
    """What a vote says about further calls; None when it is about its own call alone.

    Raises:
        ProofInvalidError: it cannot be understood.
    """
    uses, minutes, when = (evidence.get(name, "") for name in FIELDS)
    if not all(isinstance(value, str) for value in (uses, minutes, when)):
        raise ProofInvalidError("what is allowed further is said in texts")
    if not (uses or minutes or when):
        return None
    if not _WHOLE.fullmatch(str(uses)) or not _WHOLE.fullmatch(str(minutes)):
        raise ProofInvalidError("say how many further calls you allow, and for how many minutes")
    return Also(int(str(uses)), int(str(minutes)), str(when).strip())


def manifest(also: Also, challenge: Challenge, *, identifier: str, person: str, audience: str, now: float) -> Manifest:
    """The intent a person would give with their approval of this challenge at `now` (Unix seconds).

    Raises:
        ProofError: the policy does not let them (`not_taken`), or the condition does not hold for this very call.
    """
    limit = challenge.further
    if not limit or not takes(challenge.requirement, GIVEN):
        raise ProofError("the policy lets nobody allow further calls here", reason=Code.NOT_TAKEN)
    if also.uses > limit.uses or also.minutes * 60 > limit.seconds:
        most = f"at most {limit.uses} further calls within {limit.seconds / 60:g} minutes"
        raise ProofError(f"the policy lets you allow {most}", reason=Code.NOT_TAKEN)
    begins = int(now)
    made = Manifest(
        id=identifier,
        audience=audience,
        signer=person,
        key="",
        agent=challenge.principal.subject,
        server=challenge.server,
        tool=challenge.name,
        issued=begins,
        begins=begins,
        ends=begins + also.minutes * 60,
        uses=also.uses,
        definition=challenge.definition,
        exact="" if also.when else digest(challenge.arguments),
        when=also.when,
        reason=f"given while approving {challenge.short_digest}",
    )
    intent.parse(intent.payload(made))
    require_covers(made, challenge, begins)
    return made


def given(made: Manifest, challenge: Challenge, proof: Proof) -> Given:
    """What is kept of an intent that was given with a proof."""
    return Given(
        manifest=made,
        challenge=challenge.id,
        factor=proof.factor,
        on_behalf_of=challenge.principal.on_behalf_of,
        groups=proof.groups,
        seen=frozenset(said for one in challenge.findings for said in _shown(one)) | _by_rule(challenge),
        solo=proof.solo,
    )


def _shown(finding: Finding) -> Iterator[str]:
    """A doubt whether the call is wanted, as grave as it is, and everything less grave of its kind."""
    if finding.cause is Doubt.INTENT:
        for band in Band:
            if band <= finding.band:
                yield f"{finding.reason.code.value}:{band.name.lower()}"


def _by_rule(challenge: Challenge) -> frozenset[str]:
    """What rules, limits and inner calls make of this call, each in its own words."""
    return frozenset(
        f"{one.code.value}:{digest(f'{one.by}:{one.evidence}')[:16]}" for one in challenge.reasons if one.code in _RULED
    )


def _doubts(challenge: Challenge) -> frozenset[str]:
    """What somebody who allows this call ahead must have seen."""
    found = (
        f"{one.reason.code.value}:{one.band.name.lower()}" for one in challenge.findings if one.cause is Doubt.INTENT
    )
    return frozenset(found) | _by_rule(challenge)


def payload(kept: Given) -> bytes:
    """The RFC 8785 text that is kept."""
    said: dict[str, Json] = {
        "v": VERSION,
        "typ": TYPE,
        "challenge": kept.challenge,
        "factor": kept.factor,
        "on_behalf_of": kept.on_behalf_of,
        "groups": sorted(kept.groups),
        "seen": sorted(kept.seen),
        "solo": kept.solo,
        "manifest": read(intent.payload(kept.manifest)),
    }
    return canonical(said).encode()


def parse(raw: bytes) -> Given:
    """Read what `payload` wrote.

    Raises:
        ProofInvalidError: it is something else.
    """
    try:
        found = read(raw)
    except WireError as error:
        raise ProofInvalidError(f"what was given is not strict JSON: {error.public}") from error
    if not isinstance(found, dict) or not _SHAPE(found):
        raise ProofInvalidError("not an intent that somebody gave while approving")
    return Given(
        manifest=intent.parse(canonical(found["manifest"]).encode()),
        challenge=found["challenge"],
        factor=found["factor"],
        on_behalf_of=found["on_behalf_of"],
        groups=frozenset(found["groups"]),
        seen=frozenset(found["seen"]),
        solo=found["solo"],
    )


def stated(raw: bytes) -> Manifest:
    """The manifest of an intent, whether somebody's key signed it or somebody gave it while approving.

    Raises:
        ProofInvalidError: it is neither.
    """
    try:
        return intent.parse(raw)
    except ProofInvalidError:
        return parse(raw).manifest


def require_given(kept: Given, challenge: Challenge, now: float) -> None:
    """Return if this call, at `now`, is one that was allowed, and the policy still lets it be.

    Raises:
        ProofWrongCallError: another agent, delegator, server, tool, definition or arguments, or a doubt nobody saw.
        ProofExpiredError: the time is over, or the policy allows less now.
    """
    wished, limit = kept.manifest, challenge.further
    if wished.uses > limit.uses or wished.ends - wished.begins > limit.seconds:
        raise ProofExpiredError("the policy no longer lets this be allowed in advance")
    if kept.on_behalf_of != challenge.principal.on_behalf_of:
        raise ProofWrongCallError("it was allowed on behalf of another")
    if wished.definition != challenge.definition:
        raise ProofWrongCallError("the tool changed since it was allowed")
    if new := _doubts(challenge) - kept.seen:
        codes = sorted({one.partition(":")[0] for one in new})
        raise ProofWrongCallError(f"there is something that nobody saw who allowed it: {', '.join(codes)}")
    require_covers(wished, challenge, now)
