"""The JSON Schema of a policy file (draft 2020-12), generated from the vocabulary the reader uses.

Editors complete and explain with it. It is written to `tool-policy.schema.json` beside this module by
`guard policy schema`; a test holds the file to this code. What a schema cannot say (names that clash,
conditions) is for `guard policy check`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from guard.model import Json, Measure, ProofClass
from guard.policy.document import KINDS
from guard.policy.keys import (
    CALLERS_KEYS,
    CONSENT_KEYS,
    DEFAULT_KEYS,
    ENTRY_KEYS,
    ENVIRONMENT_KEYS,
    FILE_KEYS,
    GRANTS_KEYS,
    LIMIT_KEYS,
    POSSESSION_KEYS,
    REQUIRE_KEYS,
    RULE_KEYS,
    RUNS_KEYS,
    WINDOW_KEYS,
)
from guard.policy.networks import MAX_RANGES
from guard.policy.patterns import MAX_PATTERN
from guard.policy.reading import MAX_WORDS
from guard.policy.requires import MAX_ATTESTATION, MAX_MINUTES, MAX_PEOPLE, MAX_USES
from guard.policy.sections import MAX_CALLS, MAX_RESULTS
from guard.policy.vocabulary import EFFECTS, REQUIREMENT_MEANING, SENSITIVITY_MEANING
from guard.quorum import KINDS as PROOFS

_NAME: Final = "^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}$"
_GROUP: Final = "^[A-Za-z0-9_-][A-Za-z0-9_.@-]{0,63}$"


def _choice(words: Mapping[str, str]) -> dict[str, Json]:
    """One word of a closed vocabulary, each with its meaning."""
    return {"oneOf": [{"const": word, "description": meaning} for word, meaning in words.items()]}


def _one_or_many(word: dict[str, Json], *, most: int = 0) -> dict[str, Json]:
    several: dict[str, Json] = {"type": "array", "items": word, "uniqueItems": True}
    return {"anyOf": [word, several | ({"minItems": 1, "maxItems": most} if most else {})]}


def _text(**more: Json) -> dict[str, Json]:
    return {"type": "string", "maxLength": MAX_WORDS, **more}


def _ref(name: str) -> dict[str, Json]:
    return {"$ref": f"#/$defs/{name}"}


def _object(keys: Mapping[str, str], forms: Mapping[str, dict[str, Json]], *required: str) -> dict[str, Json]:
    """A closed mapping: `keys` with their descriptions, each in its form."""
    properties: dict[str, Json] = {key: {**forms[key], "description": said} for key, said in keys.items()}
    closed: dict[str, Json] = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**closed, "required": list(required)} if required else closed


def schema() -> dict[str, Json]:
    """The schema as one JSON object."""
    tags: dict[str, dict[str, Json]] = {
        "sensitivity": _ref("sensitivity"),
        "effects": _one_or_many(_ref("effect")),
        "require": {"anyOf": [*_words("requirement"), _ref("long_form")]},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "guard tool policy",
        "description": "What the owner of one MCP tool server says about its tools, resources and prompts.",
        **_object(FILE_KEYS, _file(), "server"),
        "$defs": {
            "sensitivity": _choice(SENSITIVITY_MEANING),
            "effect": _choice(EFFECTS),
            "requirement": _choice(REQUIREMENT_MEANING),
            "consent": _object(CONSENT_KEYS, _consent()),
            "long_form": {
                **_object(REQUIRE_KEYS, {"consent": _many("consent"), "possession": _ref("possession")}),
                "minProperties": 1,
            },
            "possession": _object(POSSESSION_KEYS, _proofs(*PROOFS[ProofClass.POSSESSION])),
            "default": _object(DEFAULT_KEYS, tags),
            "entry": _object(ENTRY_KEYS, tags | _entry()),
            "rule": {
                **_object(RULE_KEYS, tags | _rule()),
                "anyOf": [{"required": [key]} for key in ("sensitivity", "require", "effects")],
            },
            "window": _object(WINDOW_KEYS, _window(), "zone"),
            "network": _one_or_many(_text(examples=["10.0.0.0/8", "2001:db8::/32"]), most=MAX_RANGES),
            "environment": _object(ENVIRONMENT_KEYS, _environment(), "from", "names"),
            "callers": {
                **_object(CALLERS_KEYS, _callers()),
                "anyOf": [{"required": ["agents"]}, {"required": ["groups"]}],
            },
            "limit": {
                **_object(LIMIT_KEYS, tags | _limit(), "per"),
                "oneOf": [{"required": [measure.value]} for measure in Measure],
            },
            "runs": _object(RUNS_KEYS, dict.fromkeys(RUNS_KEYS, _path()), "tool"),
        },
    }


def _file() -> dict[str, dict[str, Json]]:
    entries: dict[str, Json] = {
        "type": "object",
        "propertyNames": {"minLength": 1, "maxLength": MAX_PATTERN},
        "additionalProperties": _ref("entry"),
    }
    return {
        "server": {"type": "string", "pattern": _NAME},
        "authors": {"anyOf": [_text(), {"type": "array", "items": _text()}]},
        "owner": _text(),
        "approvers": {"type": "string", "pattern": _GROUP},
        "match": {"enum": ["first", "strictest"]},
        "default": _ref("default"),
        "windows": {
            "type": "object",
            "propertyNames": {"pattern": "^[a-z_][a-z0-9_]{0,31}$"},
            "additionalProperties": _ref("window"),
        },
        "networks": {
            "type": "object",
            "propertyNames": {"pattern": "^[a-z_][a-z0-9_]{0,31}$"},
            "additionalProperties": _ref("network"),
        },
        "environment": _ref("environment"),
        "callers": _ref("callers"),
        "limits": _many("limit"),
        **dict.fromkeys(KINDS, entries),
    }


def _words(name: str) -> list[Json]:
    return [_ref(name), {"type": "array", "items": _ref(name), "uniqueItems": True}]


def _many(name: str) -> dict[str, Json]:
    return {"anyOf": [_ref(name), {"type": "array", "items": _ref(name), "minItems": 1}]}


def _proofs(*kinds: str) -> dict[str, dict[str, Json]]:
    """What the long form may say about the proofs of either class."""
    return {
        "kinds": _one_or_many({"enum": list(kinds)}),
        "attestation": {"type": "integer", "minimum": 0, "maximum": MAX_ATTESTATION},
        "max_age": {"type": "string", "pattern": "^[1-9][0-9]{0,5}[smhd]$", "examples": ["10m"]},
    }


def _whole(most: int) -> dict[str, Json]:
    return {"type": "integer", "minimum": 1, "maximum": most}


def _consent() -> dict[str, dict[str, Json]]:
    return {
        **_proofs(*PROOFS[ProofClass.CONSENT]),
        "people": {"type": "integer", "minimum": 1, "maximum": MAX_PEOPLE},
        "group": {"type": "string", "pattern": _GROUP},
    }


def _entry() -> dict[str, dict[str, Json]]:
    """What an entry may say beside its tags."""
    return {
        "approvers": {"type": "string", "pattern": _GROUP},
        "grants": _object(GRANTS_KEYS, {"uses": _whole(MAX_USES), "minutes": _whole(MAX_MINUTES)}, *GRANTS_KEYS),
        "log": {"anyOf": [_text(), {"type": "array", "items": _text()}]},
        "reason": _text(),
        "review": {"type": "boolean"},
        "definition": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "rules": {"type": "array", "items": _ref("rule")},
        "callers": _ref("callers"),
        "environment": _path("server", "deployment"),
        "runs": _ref("runs"),
        "limits": _many("limit"),
    }


def _rule() -> dict[str, dict[str, Json]]:
    """What a rule may say beside its tags."""
    return {
        "when": {"type": "string", "minLength": 1, "maxLength": 1000, "examples": ['args.environment == "staging"']},
        "environments": _one_or_many(_text()),
        "reason": _text(),
    }


def _window() -> dict[str, dict[str, Json]]:
    return {
        "zone": _text(),
        "days": _text(examples=["mon-fri"]),
        "hours": _text(pattern="^[0-2][0-9]:[0-5][0-9]-[0-2][0-9]:[0-5][0-9]$", examples=["08:00-18:00"]),
        "dates": _one_or_many(_text(examples=["2026-12-20..2027-01-06"])),
        "recurs": _text(pattern="^FREQ=", examples=["FREQ=MONTHLY;BYDAY=2TU"]),
    }


def _environment() -> dict[str, dict[str, Json]]:
    names: dict[str, Json] = {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": _NAME},
        "additionalProperties": _one_or_many(_text(examples=["prod-*"])),
    }
    return {"from": _path("server", "deployment"), "names": names}


def _callers() -> dict[str, dict[str, Json]]:
    group: dict[str, Json] = {"type": "string", "pattern": _GROUP}
    return {"agents": _one_or_many(_text(examples=["ci-*"])), "groups": _one_or_many(group), "reason": _text()}


def _limit() -> dict[str, dict[str, Json]]:
    return {
        "calls": {"type": "integer", "minimum": 0, "maximum": MAX_CALLS},
        "bytes": {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": MAX_RESULTS},
                {"type": "string", "pattern": "^(0|[1-9][0-9]{0,5})[KMG]B$", "examples": ["10MB"]},
            ]
        },
        "rows": {"type": "integer", "minimum": 0, "maximum": MAX_RESULTS},
        "per": {"type": "string", "pattern": "^[1-9][0-9]{0,5}[smhd]$", "examples": ["1h"]},
        "reason": _text(),
    }


def _path(*words: str) -> dict[str, Json]:
    """A path into the arguments, or one of some words."""
    return _text(examples=["args.cluster", *words])
