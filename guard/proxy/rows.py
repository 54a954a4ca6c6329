"""How many rows a result has: what `limits: {rows: …}` counts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from guard.model import Json

DEPTH: Final = 32
"""Levels of a JSON value that are looked at; a deeper one has nobody knows how many rows."""


def rows(answer: bytes) -> int | None:
    """The rows of one JSON-RPC response; None when nobody can tell.

    They are the larger of two numbers: the length of the longest array in `structuredContent`, and the rows of all
    blocks of content together. A block of text that is a JSON object or array has as many as its longest array (1 if it
    has none), any other text as many as it has lines that are not blank, and every other block has 1. Contents of
    resources and messages of prompts are blocks, too. An error has none.
    """
    try:
        message: Json = json.loads(answer)
        result = message.get("result") if isinstance(message, Mapping) else None
        if not isinstance(result, Mapping):
            return 0 if isinstance(message, Mapping) and "error" in message else None
        listed = [result.get(name) for name in ("content", "contents", "messages")]
        blocks = [
            block for each in listed if isinstance(each, Sequence) and not isinstance(each, str) for block in each
        ]
        return max(_longest(result.get("structuredContent"), DEPTH), sum(map(_of_block, blocks)))
    except (ValueError, RecursionError):
        return None


def _of_block(block: Json) -> int:
    """The rows of one block of content."""
    if not isinstance(block, Mapping):
        return 1
    inner = block.get("content") if "content" in block else block.get("resource")
    if isinstance(inner, Mapping):
        return _of_block(inner)
    text = block.get("text")
    return _of_text(text) if isinstance(text, str) else 1


def _of_text(text: str) -> int:
    if text.lstrip()[:1] in {"{", "["}:
        try:
            return max(1, _longest(json.loads(text), DEPTH))
        except ValueError:
            pass  # lines of JSON, or a text that only begins like it
    return sum(1 for line in text.splitlines() if line.strip())


def _longest(value: Json, depth: int) -> int:
    """The length of the longest array.

    Raises:
        RecursionError: it lies too deep to be looked at.
    """
    if isinstance(value, Mapping):
        members: Sequence[Json] = [*value.values()]
        own = 0
    elif isinstance(value, Sequence) and not isinstance(value, str):
        members, own = value, len(value)
    else:
        return 0
    if not depth:
        raise RecursionError
    return max([own, *(_longest(member, depth - 1) for member in members if isinstance(member, Mapping | list))])
