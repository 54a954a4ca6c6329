"""The guard's own guard.toml as `guard wrap` changes it: tables added at the end, and taken out as they were added."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Final

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_USUAL: Final = ("LOGNAME", "SHELL", "TERM", "USER")
"""Variables that clients of the official SDKs let every tool server have, besides those the guard always passes."""

TEMPLATE: Final = """\
# The guard's configuration. Every setting: docs/reference/settings.md. Paths are relative to this file.
state = "state"                       # directory: database, ledger, keys; created 0700
policies = "tool_policies"            # one YAML file per tool server

[proxy]
listen = "127.0.0.1:7000"             # agents connect to http://127.0.0.1:7000/mcp/<server>

[console]
listen = "127.0.0.1:7001"
public_url = "http://localhost:7001"  # challenges link here

# One table per tool server: a URL or a command (`guard run NAME` serves the latter on stdio too).
# [servers.payments]
# url = "https://payments.example/mcp"
#
# [servers.git]
# command = ["mcp-server-git", "--repository", "."]
"""
"""A first guard.toml."""


def quoted(text: str) -> str:
    """A TOML string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def listed(texts: Iterable[str]) -> str:
    """A TOML list of strings."""
    return f"[{', '.join(map(quoted, texts))}]"


def passed(environment: Sequence[str]) -> tuple[str, ...]:
    """The variables a wrapped server is let have: those its client sets for it, and the usual ones.

    Their values stay in the client's file. The guard's own variables are never passed on.
    """
    return tuple(sorted({name for name in environment if not name.startswith("GUARD_")} | set(_USUAL)))


def block(name: str, command: Sequence[str], environment: Sequence[str], *, origin: str, enforce: bool | None) -> str:
    """The table of a server, with the comment that says where it comes from; `enforce` only where it is to be said."""
    table = name if _BARE.fullmatch(name) else quoted(name)
    lines = [
        "",
        f"# Added by `guard wrap`; the server of {re.sub(r'[^ -~]', '?', origin)}",
        f"[servers.{table}]",
        f"command = {listed(command)}",
        f"pass_env = {listed(passed(environment))}",
    ]
    if enforce is not None:
        lines.append("enforce = true" if enforce else "enforce = false  # only watched: nothing is held or refused")
    return "\n".join([*lines, ""])


def changed(text: str, *, added: Iterable[str], removed: Iterable[str]) -> tuple[str, list[str]]:
    """The text with these tables, and without those; the ones that were edited since stay and are returned."""
    stayed: list[str] = []
    for one in removed:
        if text.count(one) == 1:
            text = text.replace(one, "")
        else:
            stayed.append(one)
    for one in added:
        text = text + ("" if not text or text.endswith("\n") else "\n") + one
    return text, stayed
