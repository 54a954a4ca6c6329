"""What a tool's definition suggests about it: effects and a sensitivity, each with its evidence. Pure.

Measured on the flags that vendors write themselves (docs/explanation/tag-packs.md), names tell reading from
changing well, and secret reads, privilege grants and destruction badly. So nothing here ever suggests less
than `sensitive`, a server's word counts only upwards, and whatever rests on one kind of evidence alone wants a person.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from guard.lab.definitions import Definition
from guard.model import Sensitivity


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_VERBS: Final[Mapping[str, frozenset[str]]] = {
    effect: _words(text)
    for effect, text in {
        "read": (
            "get list read search find show describe fetch query lookup count status stat view browse check inspect "
            "tree diff log head tail peek scan explain summarize compare validate resolve info ls convert snapshot"
        ),
        "create": "create add new insert open register init clone fork copy import upload generate provision",
        "update": "update edit modify rename move patch change replace mark label assign enable resize restore start",
        "write": "write save put set upsert sync store append apply",
        "notify": "send notify mail email publish post reply comment message broadcast invite announce",
        "egress": "navigate navigates goto upload webhook push export forward share request",
        "destroy": (
            "delete remove drop destroy purge reset wipe erase truncate terminate kill clear uninstall unset discard "
            "overwrite stop cancel abort prune revert flush trash"
        ),
        "execute": "run exec execute eval evaluate invoke shell command script sql trigger dispatch deploy code",
        "move_money": "pay payment refund transfer charge purchase order buy invoice payout withdraw",
        "grant_privilege": "grant permission permissions role roles attach collaborator member impersonate sudo admin",
        "change_policy": "policy policies firewall retention audit logging guardrail protection disable",
    }.items()
}
_SECRETS: Final = _words(
    "secret secrets credential credentials password passwords token tokens apikey keypair kubeconfig otp env dotenv"
)
_KEYED: Final = frozenset({"key", "keys"})
_DESTINATIONS: Final = _words(
    "url uri endpoint webhook host hostname recipient recipients to email address destination domain callback"
)
_PROGRAMS: Final = _words("command cmd code script sql query expression javascript python shell function program")
_SPLIT: Final = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_SENTENCE: Final = re.compile(r"[^.\n]{1,200}")
GRAVE: Final = ("destroy", "execute", "move_money", "export_secret", "grant_privilege", "change_policy")
"""Effects with which a tool is suggested as critical."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One observation: where it stands (`name`, `description`, `schema`, `annotation`), what it hints at, in words."""

    kind: str
    effect: str
    words: str


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What to write for a tool, and whether a person must look first (`review`)."""

    sensitivity: Sensitivity
    effects: tuple[str, ...]
    review: bool
    evidence: tuple[Evidence, ...]


def words(name: str) -> tuple[str, ...]:
    """The words of a name: `getSecretValue`, `get-secret_value` and `get.secretValue` have the same."""
    return tuple(part.casefold() for part in _SPLIT.findall(name))


def suggest(tool: Definition) -> Suggestion:
    """What the definition of one tool suggests. Never below `sensitive`."""
    evidence = tuple(dict.fromkeys((*_annotations(tool), *_name(tool.name), *_schema(tool), *_description(tool))))
    stated = [one for one in evidence if one.kind in {"annotation", "name"}]
    hinted = {one.effect for one in evidence if one.kind in {"schema", "description"}}
    effects = {one.effect for one in stated if one.effect} | (hinted & {"egress", "execute", "export_secret"})
    if effects - {"read"} and "read" in effects and not _reads(tool):
        effects.discard("read")
    if tool.hint("readOnlyHint") is False and not effects - {"read"}:
        effects = {*(effects - {"read"}), "write"}
    grave = sorted(effects & set(GRAVE))
    sure = any(len({one.kind for one in evidence if one.effect == effect}) > 1 for effect in grave)
    return Suggestion(
        sensitivity=Sensitivity.CRITICAL if grave else Sensitivity.SENSITIVE,
        effects=tuple(sorted(effects)) or ("write",),
        review=not sure,
        evidence=evidence,
    )


def _reads(tool: Definition) -> bool:
    """Whether reading is in the name: a tool may read and reveal at once."""
    return bool(set(words(tool.name)[:1]) & _VERBS["read"])


def _annotations(tool: Definition) -> Iterator[Evidence]:
    if (read_only := tool.hint("readOnlyHint")) is not None:
        yield Evidence(
            "annotation", "read" if read_only else "", f"the server says readOnlyHint: {str(read_only).lower()}"
        )
    if (destructive := tool.hint("destructiveHint")) is not None and not read_only:
        yield Evidence(
            "annotation",
            "destroy" if destructive else "",
            f"the server says destructiveHint: {str(destructive).lower()}",
        )
    if tool.hint("openWorldHint"):
        yield Evidence("annotation", "egress" if read_only is not True else "", "the server says openWorldHint: true")


def _name(name: str) -> Iterator[Evidence]:
    parts = words(name)
    found = False
    for effect, verbs in _VERBS.items():
        hits = [part for part in parts if part in verbs]
        if hits and (effect != "read" or not found or parts[0] in verbs):
            found = True
            yield Evidence("name", effect, f'the name says "{hits[0]}"')
    secret = [part for part in parts if part in _SECRETS] or [part for part in parts[1:] if part in _KEYED]
    if secret and not set(parts) & (_VERBS["create"] | _VERBS["destroy"]):
        yield Evidence("name", "export_secret", f'the name says "{secret[0]}"')


def _schema(tool: Definition) -> Iterator[Evidence]:
    for name in tool.arguments:
        parts = set(words(name))
        if parts & _PROGRAMS:
            yield Evidence("schema", "execute", f'an argument is called "{name}"')
        elif parts & _DESTINATIONS:
            yield Evidence("schema", "egress", f'an argument is called "{name}"')


def _description(tool: Definition) -> Iterator[Evidence]:
    """Verbs and secrets in the first sentences; a description is prose, so it is a hint and no more."""
    parts = re.findall(r"[A-Za-z]+", " ".join(_SENTENCE.findall(tool.description)[:3]).casefold())
    for effect in ("destroy", "execute", "move_money", "grant_privilege", "change_policy"):
        if hit := _first(
            parts, _VERBS[effect] - {"code", "order", "stop", "cancel", "audit", "role", "member", "admin"}
        ):
            yield Evidence("description", effect, f'the description says "{hit}"')
    if hit := _first(parts, _SECRETS - {"token", "tokens", "env"}):
        yield Evidence("description", "export_secret", f'the description says "{hit}"')


def _first(parts: Iterable[str], wanted: frozenset[str]) -> str:
    """The first part that is one of the wanted words, in the plural or third person as well; "" when none is."""
    for part in parts:
        if part in wanted or part.removesuffix("s") in wanted or part.removesuffix("es") in wanted:
            return part
    return ""
