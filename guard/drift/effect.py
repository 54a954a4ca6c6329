"""How much a tool can do, from its name alone: for tools no owner has tagged.

Names tell reads from changes well (recall .98), and say little about what hurts; so a name only ever weighs
signals, and never lowers what a policy asks for.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

READS: Final = 0
CHANGES: Final = 1
HURTS: Final = 2
DESTROYS: Final = 3
"""Levels of what a call can do; how much each weighs is fitted and stands in `weights.json`."""

_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_READ: Final = frozenset(
    [
        "get",
        "list",
        "read",
        "search",
        "view",
        "fetch",
        "describe",
        "find",
        "show",
        "query",
        "count",
        "check",
        "calculate",
        "compute",
        "lookup",
        "look",
        "retrieve",
        "inspect",
        "summarize",
        "summarise",
        "status",
        "total",
        "verify",
        "validate",
    ]
)
_DESTROY: Final = frozenset(["delete", "drop", "destroy", "purge", "erase", "wipe"])
_HURT: Final = frozenset(
    [
        *_DESTROY,
        "remove",
        "transfer",
        "send",
        "pay",
        "payment",
        "purchase",
        "buy",
        "order",
        "checkout",
        "refund",
        "money",
        "password",
        "credential",
        "secret",
        "key",
        "token",
        "ssh",
        "login",
        "grant",
        "revoke",
        "rotate",
        "invite",
        "share",
        "permission",
        "permissions",
        "role",
        "collaborator",
        "collaborators",
        "participants",
        "member",
        "members",
        "user",
        "owner",
        "ownership",
        "push",
        "post",
        "publish",
        "issue",
        "comment",
        "submit",
        "execute",
        "run",
        "exec",
        "shell",
        "command",
        "deploy",
        "merge",
        "star",
        "upload",
        "download",
        "input",
        "click",
        "browse",
        "open",
        "visit",
        "reserve",
        "book",
        "schedule",
        "reply",
        "forward",
        "email",
        "message",
    ]
)
_MOVES: Final = frozenset(["browse", "open", "visit", "click", "download", "webpage", "web", "url", "link"])


@lru_cache(maxsize=4096)
def effect(tool: str) -> int:
    """READS, CHANGES, HURTS or DESTROYS."""
    words = [word.lower() for word in _WORD.findall(tool)]
    if not words:
        return HURTS
    reading = words[0] in _READ or (len(words) > 1 and words[1] in _READ and words[0] not in _HURT)
    if reading:
        return CHANGES if _MOVES.intersection(words) else READS
    if words[0] in _READ or words[-1] in _READ:
        return READS
    if _DESTROY.intersection(words):
        return DESTROYS
    return HURTS if _HURT.intersection(words) else CHANGES


_DESTINATION: Final = re.compile(
    r"recipient|(^|[._])(to|cc|bcc|url|uri|link|host|domain|address|iban|account|email|e_?mail|participants?|owner|"
    r"collaborators?|attendees?|channel|webhook|endpoint|destination|dest|target|remote|receiver|payee|beneficiary|"
    r"user|username|member|invitee|phone|chat|callback)(s)?([._#]|$)|_(email|url|account|username|channel|address)s?$"
)
_WORDS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|-")


@lru_cache(maxsize=4096)
def destination(path: str) -> bool:
    """Whether an argument of this path says where something goes."""
    return bool(_DESTINATION.search(_WORDS.sub("_", path).lower()))
