"""Tag packs that come with the guard: found by which package a server is, copied, and then the owner's to change.

A pack names the packages it is for in its first comment, `(npm: NAME)`, `(PyPI: NAME)` or `(image: NAME)`. A name must
be equal: tags for one server must never be put on another that happens to have tools of the same names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePath, PureWindowsPath
from typing import Final

import guard

_NAMED: Final = re.compile(r"\((?:npm|PyPI|image): *([^\s),]+)")
_HEAD: Final = re.compile(r"(?:#[^\n]*\n|\s)*")
_SCHEMA: Final = re.compile(r"^# yaml-language-server:[^\n]*\n(?:#\n)?", re.MULTILINE)
_SERVER: Final = re.compile(r"^server:[^\n]*$", re.MULTILINE)
_VERSION: Final = re.compile(r"(?<=.)(?:@[^/]*|(?:[=<>~!]=|[<>]).*|\[.*)$")
_TAG: Final = re.compile(r"(?::[\w.-]+)?(?:@sha256:[0-9a-f]+)?$")

_PLAIN: Final = re.compile(r"(?!(?:y|n|yes|no|on|off|true|false|null)$)[a-z][a-z0-9_-]*", re.IGNORECASE)

_NODE: Final = frozenset({"npx", "bunx", "pnpx"})
_WORDS: Final = {
    ("npm", "exec"): 2,
    ("npm", "x"): 2,
    ("pnpm", "dlx"): 2,
    ("yarn", "dlx"): 2,
    ("bun", "x"): 2,
    ("pipx", "run"): 2,
    ("uv", "run"): 2,
    ("docker", "run"): 2,
    ("podman", "run"): 2,
}
_NAMING: Final = frozenset({"--from", "-p", "--package", "--spec", "-m", "--module"})
_VALUED: Final = frozenset(
    {
        *(
            "--directory",
            "--project",
            "--python",
            "--with",
            "--index",
            "--index-url",
            "--extra",
            "--registry",
            "--cache",
        ),
        *("--prefix", "-e", "--env", "-v", "--volume", "--mount", "--name", "--network", "--net", "--env-file", "-w"),
        *("--workdir", "-u", "--user", "--entrypoint", "--platform", "--pull", "-l", "--label", "-p", "--publish"),
        *("--add-host", "--memory", "-m", "--cpus", "--gpus", "--hostname"),
    }
)
"""Options of these programs that take a value."""

_STARTER: Final = """\
# What the tools of the server `{name}` can do, in the judgement of whoever answers for it.
# Nothing is tagged yet, and a tool that no entry names always needs a step-up.
# A commented list of the server's tools to begin with: guard policy scaffold {name}
server: {spelt}
owner: {owner}
default: {{sensitivity: sensitive}}
"""


def shipped() -> Path:
    """The folder of packs: inside the installed package, or beside it in a checkout."""
    inside = Path(guard.__file__).resolve().parent
    return inside / "tool_policies" if (inside / "tool_policies").is_dir() else inside.parent / "tool_policies"


def package(command: Sequence[str]) -> str:
    """The name of the package, module or image that a command runs, without its version; "" if it is none."""
    words = list(command)
    if _program(words[:1]) == "cmd" and len(words) > 1 and words[1].casefold() == "/c":
        words = words[2:]
    program = _program(words[:1])
    container = program in {"docker", "podman"}
    if words[1:2] == ["tool"] and words[2:3] == ["run"] and program == "uv":
        rest = words[3:]
    elif program in _NODE or program == "uvx" or re.fullmatch(r"python[0-9.]*|py", program):
        rest = words[1:]
    elif skip := _WORDS.get((program, "".join(words[1:2]))):
        rest = words[skip:]
    else:
        return _clean(program)
    at = 0
    while at < len(rest):
        word = rest[at]
        if word in _NAMING and not container:
            return _clean("".join(rest[at + 1 : at + 2]))
        if not word.startswith("-"):
            return _TAG.sub("", word, count=1) if container else _clean(word)
        at += 2 if word in _VALUED else 1
    return ""


def _program(words: Sequence[str]) -> str:
    path = "".join(words)
    name = (PureWindowsPath(path) if "\\" in path else PurePath(path)).name
    return re.sub(r"\.(?:exe|cmd|bat|ps1)$", "", name, flags=re.IGNORECASE)


def _clean(word: str) -> str:
    """A package without its version; a module as its package."""
    found = _VERSION.sub("", word)
    return found.replace("_", "-") if "/" not in found else found


def pack(command: Sequence[str]) -> Path | None:
    """The pack for the server that a command starts; None if there is none."""
    wanted = package(command)
    if not wanted:
        return None
    for file in sorted(shipped().glob("*.yaml")):
        head = _HEAD.match(file.read_text(encoding="utf-8"))
        named = set(_NAMED.findall(head[0])) if head else set()
        if wanted in named | {f"@modelcontextprotocol/server-{file.stem}", f"mcp/{file.stem}"}:
            return file
    return None


def policy(name: str, command: Sequence[str], *, owner: str) -> tuple[str, str]:
    """A first policy for a server, and the name of the pack it is ("" if nothing is tagged in it)."""
    found, spelt = pack(command), name if _PLAIN.fullmatch(name) else json.dumps(name)
    if found is None:
        return _STARTER.format(name=name, spelt=spelt, owner=json.dumps(owner or "nobody yet")), ""
    text = _SCHEMA.sub("", found.read_text(encoding="utf-8"), count=1)
    return _SERVER.sub(f"server: {spelt}", text, count=1), found.stem
