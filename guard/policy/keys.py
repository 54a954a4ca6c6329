"""The keys of a policy file, each with the sentence that editors show; reader and JSON Schema share them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

FILE_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "server": "name of the tool server in guard.toml; the file is called NAME.yaml",
        "authors": "people who changed this file last; they may not consent to calls under it",
        "owner": "who answers for these tags; named in reasons and records",
        "approvers": "group of people who may consent; without it, the group `approvers`",
        "match": "which of several matching rules says the sensitivity: the first (default) or the strictest",
        "default": "what holds for names that no entry matches; they always need a step-up as well",
        "windows": "named spans of local time; conditions ask windows.NAME",
        "networks": 'named address ranges, one or a list, such as "10.0.0.0/8"; conditions ask networks.NAME',
        "environment": "how to tell which environment a call is about; rules and conditions ask for it by name",
        "callers": "agents that may call this server at all; all others are refused, whatever they prove",
        "limits": "how much one agent may have of this server in some time (calls, results) without a further proof",
        "tools": 'tags by tool name; a key may be a glob such as "get_*"',
        "resources": 'tags by resource URI; * stays within a segment, ** does not: "file:///srv/**"',
        "prompts": "tags by prompt name; a key may be a glob",
    }
)
"""Top-level keys."""

DEFAULT_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "sensitivity": "how bad it is when this goes wrong; without it, sensitive",
        "effects": "what an unnamed tool is assumed to do",
        "require": "proofs that are always needed, besides a step-up; a word, words, or the long form",
    }
)
"""Keys of `default`."""

ENTRY_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "sensitivity": "how bad it is when this goes wrong; without it, the default's",
        "effects": "what it can do to the world",
        "require": "proofs that are always needed, unusual or not; a word, words, or the long form",
        "approvers": "group of people who may consent to this, instead of the file's",
        "grants": "further calls a person may allow while approving one; never where it is critical or irreversible",
        "log": "arguments that the ledger may hold in clear; all others are kept as keyed digests",
        "reason": "why it is tagged so, in the owner's words; shown to whoever is asked for a proof",
        "review": "true marks a tag that its owner has not looked at yet; `guard policy check` warns",
        "definition": "digest of what the server says about this tool, as `guard policy scaffold` and `pin` print it; "
        "any other definition counts one sensitivity higher and needs consent",
        "rules": "conditions under which something else holds",
        "callers": "agents that may call this at all, out of those the file lets call; all others are refused",
        "environment": "where its environment is read from, instead of as the file says: args.NAME, server, deployment",
        "runs": "for a tool that runs other tools: the arguments that say which; their tags join this one's",
        "limits": "how much one agent may have of this in some time (calls, results) without a further proof",
    }
)
"""Keys of an entry under `tools`, `resources` or `prompts`."""

RULE_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "when": "condition in CEL about the call, its caller and the moment; without it, always",
        "environments": "environments in which the rule applies; with `when` as well, both must hold",
        "sensitivity": "the sensitivity when the condition holds; it may be lower",
        "require": "proofs that are needed in addition when the condition holds; a word, words, or the long form",
        "effects": "effects in addition when the condition holds",
        "reason": "why, in the owner's words",
    }
)
"""Keys of a rule."""

REQUIRE_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "consent": "consent as described; a list asks for several groups, and nobody stands for two of them",
        "possession": "possession as described",
    }
)
"""Keys of the long form of `require`."""

CONSENT_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "people": "how many different people, 1 to 9; without it, 1",
        "group": "group whose members they are; without it, whoever may approve, or a signed intent as one of them",
        "kinds": "kinds of proof that count: totp, webauthn, intent; without it, any",
        "attestation": "least attestation of the factor, 0 to 2; without it, any",
        "max_age": "how old the consent may be when the call goes on, such as 10m; without it, as old as its challenge",
    }
)
"""Keys of `consent` in the long form."""

POSSESSION_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "kinds": "kinds of proof that count: signature",
        "attestation": "least attestation of the key, 0 to 2; never below 1",
        "max_age": "how old the proof may be when the call goes on, such as 5m",
    }
)
"""Keys of `possession` in the long form."""

GRANTS_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "uses": "how many further calls at most, 1 to 100",
        "minutes": "for how many minutes at most, 1 to 1440",
    }
)
"""Keys of `grants`."""

WINDOW_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "zone": 'IANA time zone whose wall clock counts, for example "Europe/Berlin"',
        "days": 'days of the week, for example "mon-fri" or "sat,sun"; without it, every day',
        "hours": 'from and until, for example "08:00-18:00"; "22:00-06:00" passes midnight; without it, all day',
        "dates": 'first and last day, for example "2026-12-20..2027-01-06", or a list; without it, always',
        "recurs": 'days that come again, as calendars write it (RFC 5545): "FREQ=MONTHLY;BYDAY=2TU"; without it, all',
    }
)
"""Keys of a window."""

ENVIRONMENT_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "from": "the argument that tells it, such as args.cluster; or server, deployment: `environment` in guard.toml",
        "names": "each environment with the value or values that mean it; values may be globs",
    }
)
"""Keys of `environment`; both are needed."""

CALLERS_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "agents": 'names of agents, or globs such as "ci-*"',
        "groups": "groups of agents (`guard agent add --group`)",
        "reason": "why, in the owner's words; told to whoever is refused",
    }
)
"""Keys of `callers`."""

LIMIT_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "calls": "how many calls; the next one needs the proof",
        "bytes": "how many bytes of results, such as 500KB, 10MB or 1GB; a result that goes beyond is withheld",
        "rows": "how many rows of results; a result that goes beyond is withheld",
        "per": "in which time, such as 10m, 1h or 1d",
        "require": (
            "the proof that is needed beyond; a word, words, or the long form; without it, step_up for calls and "
            "consent for results"
        ),
        "reason": "why, in the owner's words",
    }
)
"""Keys of a limit; `per` and one of `calls`, `bytes` and `rows` are needed."""

RUNS_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "tool": "the argument that names the inner tool, such as args.name",
        "arguments": "the argument that holds the inner tool's arguments: an object, or its JSON text",
        "server": "the argument that names the inner tool's server; without it, this server",
        "each": "the argument that holds a list of inner calls; the other paths then lead from each of its members",
    }
)
"""Keys of `runs`; `tool` is needed."""
