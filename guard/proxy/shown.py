"""The text that an answer of a tool server showed the agent, for the signals that look where values come from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import orjson

from guard.model import Json
from guard.proxy.documents import documents

LIMIT: Final = 256 * 1024
"""Bytes of an answer that are looked at."""


def shown(body: bytes) -> str:
    """Every string of the results in an answer, one a line, keys of objects before their values.

    What is no JSON is shown as it is: it may still have reached the agent.
    """
    lines: list[str] = []
    for document in documents(body[:LIMIT]):
        try:
            message = orjson.loads(document)
        except orjson.JSONDecodeError:
            lines.append(document.decode("utf-8", "replace"))
            continue
        lines += _strings(message.get("result") if isinstance(message, dict) else message)
    return "\n".join(lines)


def _strings(value: Json) -> Iterator[str]:
    """Strings in order, without recursion; a number or string below a key is shown beside it."""
    todo: list[tuple[str, Json]] = [("", value)]
    while todo:
        key, one = todo.pop()
        if isinstance(one, dict):
            todo += [(name, member) for name, member in reversed(one.items())]
        elif isinstance(one, list):
            todo += [(key, member) for member in reversed(one)]
        elif isinstance(one, str):
            yield one if key in {"", "text"} else f"{key}: {one}"
        elif one is not None:
            yield f"{key}: {one}"
