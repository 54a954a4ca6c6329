"""A signed intent: what somebody else wants an agent to do, written down before the agent asks. Pure.

A manifest names one agent, server and tool, says which arguments are wanted, from when to when and how often, and is
signed by the key of a principal that is neither the agent nor anybody the agent acts for. The bytes signed are the DSSE
pre-authentication encoding of its RFC 8785 form under a payload type of its own, as in `guard.stepup.binding`.

The constraints are closed: an argument that none of them names is outside, and so is the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from guard.errors import ProofExpiredError, ProofInvalidError, ProofWrongCallError, WireError
from guard.model import Call, Challenge, Json, Source
from guard.policy.conditions import Condition, Failure, compile_condition, evaluate
from guard.policy.expression import SyntaxMistake
from guard.policy.facts import Asked, Declared
from guard.reasons import Code
from guard.stepup.binding import SKEW, pae
from guard.stepup.shape import Check, exactly, members, text, whole
from guard.wire.canonical import canonical, digest
from guard.wire.strict import read

CONTENT_TYPE: Final = "application/vnd.guard.intent.v1+json"
TYPE: Final = "guard.intent"
VERSION: Final = 1
MAX_BYTES: Final = 32 * 1024
LONGEST: Final = 31 * 86400
"""Seconds from the beginning to the end of the longest window."""
MOST: Final = 1000
"""The most uses of one intent."""

_VARIABLES: Final = frozenset({"args", "now"})
_NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What was signed. Times are whole Unix seconds.

    `key` is the hex SHA-256 of the signer's DER public key, empty where nobody's key signs (`guard.stepup.given`).
    `definition` is the digest of the tool's definition that the signer looked at, or empty for the pinned one. Of the
    constraints at least one is given: `exact` (hex SHA-256 of the canonical arguments), `equals` (top-level arguments
    and their values), `when` (a CEL condition over `args` and `now`).
    """

    id: str
    audience: str
    signer: str
    key: str
    agent: str
    server: str
    tool: str
    issued: int
    begins: int
    ends: int
    uses: int = 1
    definition: str = ""
    exact: str = ""
    equals: Mapping[str, Json] | None = None
    when: str = ""
    ticket: str = ""
    reason: str = ""

    @property
    def note(self) -> str:
        """Ticket and reason in a line, for records and for people."""
        return ": ".join(part for part in (self.ticket, self.reason) if part)


# ------------------------------------------------------------------ writing and reading


def payload(manifest: Manifest) -> bytes:
    """The RFC 8785 text of a manifest.

    Raises:
        WireError: a value of `equals` has no such text.
    """
    arguments: dict[str, Json] = {}
    if manifest.exact:
        arguments["digest"] = manifest.exact
    if manifest.equals is not None:
        arguments["equals"] = dict(manifest.equals)
    if manifest.when:
        arguments["when"] = manifest.when
    return canonical(
        {
            "v": VERSION,
            "typ": TYPE,
            "aud": manifest.audience,
            "id": manifest.id,
            "signer": manifest.signer,
            "key": manifest.key,
            "agent": manifest.agent,
            "upstream": manifest.server,
            "tool": manifest.tool,
            "tool_schema_digest": manifest.definition,
            "arguments": arguments,
            "iat": manifest.issued,
            "nbf": manifest.begins,
            "exp": manifest.ends,
            "uses": manifest.uses,
            "ticket": manifest.ticket,
            "reason": manifest.reason,
        }
    ).encode()


def signed_bytes(signed: bytes) -> bytes:
    """The bytes to sign for the payload of a manifest."""
    return pae(CONTENT_TYPE, signed)


_FORMS: Final[Mapping[str, Check]] = {
    "digest": text(r"[0-9a-f]{64}"),
    "equals": lambda value: isinstance(value, dict),
    "when": text(r".{1,1000}"),
}


def _arguments(value: object) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and value.keys() <= _FORMS.keys()
        and all(_FORMS[name](one) for name, one in value.items())
    )


_SHAPE: Final[Mapping[str, Check]] = {
    "v": exactly(VERSION),
    "typ": exactly(TYPE),
    "aud": text(r".{1,256}"),
    "id": text(r"i_[0-9A-Za-z]{22,64}"),
    "signer": text(_NAME),
    "key": text(r"([0-9a-f]{64})?"),
    "agent": text(r".{1,256}"),
    "upstream": text(r".{1,256}"),
    "tool": text(r".{1,512}"),
    "tool_schema_digest": text(r"([0-9a-f]{64})?"),
    "arguments": _arguments,
    "iat": whole,
    "nbf": whole,
    "exp": whole,
    "uses": whole,
    "ticket": text(r"([A-Za-z0-9][A-Za-z0-9_-]{0,63})?"),
    "reason": text(r".{0,500}"),
}
_WHOLE: Final = members(_SHAPE)


def parse(signed: bytes) -> Manifest:
    """Read the payload of a manifest, strictly; whether its signature holds is for the caller to check.

    Raises:
        ProofInvalidError: it is not the one spelling of a manifest of version 1, or contradicts itself.
    """
    if len(signed) > MAX_BYTES:
        raise ProofInvalidError(f"the manifest is larger than {MAX_BYTES} bytes")
    try:
        found = read(signed)
        same = canonical(found).encode() == signed
    except WireError as error:
        raise ProofInvalidError(f"the manifest is not strict JSON: {error.public}") from error
    if not isinstance(found, dict) or not _WHOLE(found):
        raise ProofInvalidError("not a manifest of version 1")
    if not same:
        raise ProofInvalidError("the manifest is not spelled as RFC 8785 says")
    manifest = Manifest(
        id=found["id"],
        audience=found["aud"],
        signer=found["signer"],
        key=found["key"],
        agent=found["agent"],
        server=found["upstream"],
        tool=found["tool"],
        definition=found["tool_schema_digest"],
        exact=found["arguments"].get("digest", ""),
        equals=found["arguments"].get("equals"),
        when=found["arguments"].get("when", ""),
        issued=found["iat"],
        begins=found["nbf"],
        ends=found["exp"],
        uses=found["uses"],
        ticket=found["ticket"],
        reason=found["reason"],
    )
    _require_sense(manifest)
    return manifest


def _require_sense(manifest: Manifest) -> None:
    """Raise for a manifest that nobody can have meant."""
    if manifest.begins < manifest.issued - SKEW:
        raise ProofInvalidError("the window begins before the manifest was signed")
    if not manifest.begins < manifest.ends <= manifest.begins + LONGEST:
        raise ProofInvalidError("the window must end after it begins, within 31 days")
    if not 1 <= manifest.uses <= MOST:
        raise ProofInvalidError(f"an intent has 1 to {MOST} uses")
    if manifest.when:
        condition(manifest.when)


@lru_cache(maxsize=256)
def condition(when: str) -> Condition:
    """The compiled condition of a manifest.

    Raises:
        ProofInvalidError: it does not compile, or names what a manifest cannot know.
    """
    try:
        compiled = compile_condition(when)
    except SyntaxMistake as error:
        raise ProofInvalidError(f"in the condition, at character {error.at + 1}: {error}") from error
    if not compiled.names.variables <= _VARIABLES:
        raise ProofInvalidError("the condition of an intent may name args and now only")
    return compiled


# ------------------------------------------------------------------ does it want this call


def require_covers(manifest: Manifest, challenge: Challenge, now: float) -> None:
    """Return if this call, at `now` (Unix seconds), is one the manifest wants.

    Raises:
        ProofWrongCallError: another agent, server, tool, definition or arguments.
        ProofExpiredError: before or after the window.
    """
    pairs = {
        "agent": (manifest.agent, challenge.principal.subject),
        "server": (manifest.server, challenge.server),
        "tool": (manifest.tool, challenge.name if challenge.kind == "tool" else ""),
    }
    wrong = [name for name, (wanted, asked) in pairs.items() if wanted != asked]
    if wrong:
        raise ProofWrongCallError(f"the intent is for another {' and '.join(wrong)}")
    require_time(manifest, now)
    _require_definition(manifest, challenge)
    _require_arguments(manifest, challenge, now)


def require_time(manifest: Manifest, now: float) -> None:
    """Return if `now` is within the window.

    Raises:
        ProofExpiredError: it is not.
    """
    if not manifest.begins <= now < manifest.ends:
        early = now < manifest.begins
        raise ProofExpiredError(
            "the window of the intent has not begun" if early else "the window of the intent is over"
        )


def _require_definition(manifest: Manifest, challenge: Challenge) -> None:
    if manifest.definition:
        if manifest.definition != challenge.definition:
            raise ProofWrongCallError("the intent is for another definition of the tool")
    elif any(reason.code is Code.DEFINITION_CHANGED for reason in challenge.reasons):
        raise ProofWrongCallError(
            "the tool changed since it was pinned, and the intent does not name its new definition"
        )


def _require_arguments(manifest: Manifest, challenge: Challenge, now: float) -> None:
    arguments = read(challenge.arguments.encode(), exact_integers=True)
    if not isinstance(arguments, dict):
        raise ProofWrongCallError("the arguments are no object")
    if manifest.exact:
        if manifest.exact != digest(challenge.arguments):
            raise ProofWrongCallError("the arguments are not exactly those the intent names")
        if manifest.equals is None and not manifest.when:
            return
    names: set[tuple[str, ...]] = set()
    for name, wanted in (manifest.equals or {}).items():
        if name not in arguments or canonical(arguments[name]) != canonical(wanted):
            raise ProofWrongCallError(f"the argument {name} is not what the intent says")
        names.add((name,))
    if manifest.when:
        compiled = condition(manifest.when)
        names.update(compiled.names.paths)
        verdict = evaluate(compiled, Asked(call=_call(challenge, arguments), now=now), Declared())
        if verdict is not True:
            why = f": {verdict.why}" if isinstance(verdict, Failure) else ""
            raise ProofWrongCallError(f"the condition of the intent does not hold{why}")
    if not manifest.exact and not _named(arguments, (), names):
        raise ProofWrongCallError("the call has an argument that the intent does not name")


def _named(value: Json, path: tuple[str, ...], names: set[tuple[str, ...]]) -> bool:
    """Whether everything in a value lies at or below a path that some constraint names."""
    if path in names:
        return True
    if not isinstance(value, Mapping) or not (value or not path):
        return False
    return all(_named(member, (*path, name), names) for name, member in value.items())


def _call(challenge: Challenge, arguments: Mapping[str, Json]) -> Call:
    """As much of the call as a condition may ask about."""
    return Call(
        id="",
        principal=challenge.principal,
        source=Source(transport=""),
        server=challenge.server,
        method=challenge.method,
        kind=challenge.kind,
        name=challenge.name,
        arguments=arguments,
        canonical=challenge.arguments,
        definition=challenge.definition,
        digest=challenge.digest,
        received=challenge.opened,
    )


def require_issued(manifest: Manifest, *, enrolled: float, now: float, within: float) -> None:
    """Return if the manifest was signed lately, and by a key that was enrolled by then.

    Raises:
        ProofExpiredError: it was signed long ago, before the key was enrolled, or in the future.
    """
    if manifest.issued < enrolled - SKEW:
        raise ProofExpiredError("the manifest was signed before its key was enrolled")
    if not now - within <= manifest.issued <= now + SKEW:
        raise ProofExpiredError(f"a manifest is published within {within / 60:.0f} minutes of its signing")
    if manifest.ends <= now:
        raise ProofExpiredError("the window of the intent is over")
