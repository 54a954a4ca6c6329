"""The three kinds of JSON-RPC 2.0 message, as values.

`raw` holds the very bytes that were decoded: they are what is forwarded, so that what was decided is
what is executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from guard.model import Json


@dataclass(frozen=True, slots=True)
class Request:
    """A request: it has an id and wants an answer. `1` and `"1"` are different ids."""

    id: str | int
    method: str
    params: Mapping[str, Json]
    raw: bytes


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification: no id, no answer."""

    method: str
    params: Mapping[str, Json]
    raw: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """An answer to a request of the other side: a `result`, or an `error` when that is not None."""

    id: str | int
    result: Json
    error: Mapping[str, Json] | None
    raw: bytes


Message: TypeAlias = Request | Notification | Response
"""The closed sum of what one strict JSON text may be."""
