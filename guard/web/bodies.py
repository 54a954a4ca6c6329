"""Reading what a request brings: small, typed, and each name once."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import aclosing
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

from guard.errors import NotFoundError, WireError
from guard.model import Json
from guard.reasons import Code

BODY_BYTES: Final = 64 * 1024
_FIELDS: Final = 32
_ID: Final = re.compile(r"c_[0-9A-Za-z]{16,64}", re.ASCII)


def challenge_id(request: Request) -> str:
    """The challenge a path names.

    Raises:
        NotFoundError: it has not the form of an id.
    """
    identifier: str = request.path_params["id"]
    if not _ID.fullmatch(identifier):
        raise NotFoundError("there is no such challenge")
    return identifier


def word(value: Json) -> str:
    """A member that must be text.

    Raises:
        WireError: it is something else.
    """
    if not isinstance(value, str):
        raise WireError("kind and because are texts")
    return value


async def json_body(request: Request, *known: str) -> dict[str, Json]:
    """The JSON object of a request: small, typed, and every member a text; of these names, if any are given.

    Raises:
        WireError: it is none.
    """
    if _media(request) != "application/json":
        raise WireError("the body must be application/json", reason=Code.MEDIA_TYPE)
    try:
        body: object = json.loads(await raw_body(request), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise WireError("the body is not one JSON object", detail=str(error)) from error
    if not isinstance(body, dict) or not all(_storable(value) for value in body.values()):
        raise WireError("the body is not a JSON object of texts")
    if known and not body.keys() <= set(known):
        raise WireError(f"the body holds {', '.join(known)} and nothing else")
    return body


async def form_body(request: Request) -> dict[str, str]:
    """The fields of an HTML form, each once.

    Raises:
        WireError: it is no such form.
    """
    if _media(request) != "application/x-www-form-urlencoded":
        raise WireError("the body must be application/x-www-form-urlencoded", reason=Code.MEDIA_TYPE)
    raw = await raw_body(request)
    try:
        pairs = parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(raw),
            max_num_fields=_FIELDS,
            errors="strict",
        )
        return dict(_once(pairs))
    except ValueError as error:
        raise WireError("the body is not a form", detail=str(error)) from error


def _media(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def raw_body(request: Request) -> bytes:
    """The body, unless it says or turns out to be too large.

    Raises:
        WireError: it is, or it ended early.
    """
    announced, raw = request.headers.get("content-length", "0"), bytearray()
    if announced.isascii() and announced.isdigit() and int(announced) > BODY_BYTES:
        raise WireError("the body is too large", reason=Code.TOO_LARGE)
    try:
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                raw += chunk
                if len(raw) > BODY_BYTES:
                    raise WireError("the body is too large", reason=Code.TOO_LARGE)
    except ClientDisconnect as error:
        raise WireError("the body ended early") from error
    return bytes(raw)


def _storable(value: object) -> bool:
    """Whether a value is a text that every reader takes: no half of a surrogate pair, which JSON can spell."""
    return isinstance(value, str) and value == value.encode("utf-8", "replace").decode()


def _once(pairs: list[tuple[str, str]]) -> Mapping[str, str]:
    """An object whose names are all different."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name occurs twice")
    return made
