"""The body of a request: JSON by its type, and small."""

from __future__ import annotations

from contextlib import aclosing
from typing import Final

from starlette.requests import ClientDisconnect, Request

from guard.errors import WireError
from guard.reasons import Code

BODY_BYTES: Final = 64 * 1024


async def read_body(request: Request) -> bytes:
    """The bytes of a JSON body, unless it says or turns out to be too large.

    Raises:
        WireError: another media type (MEDIA_TYPE), too large (TOO_LARGE), or it ended early.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise WireError("the body must be application/json", reason=Code.MEDIA_TYPE)
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
