"""The tools a server lists, asked for outside any agent's call: what owners look at before they tag.

The SDK's client speaks the protocol here; the entries are handed on as they came, for their digest is over
every member, known or not.
"""

from __future__ import annotations

import io
import os
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

import anyio
import httpx2
from pydantic import BaseModel, Field, JsonValue, ValidationError

from guard.config import Server
from guard.errors import UpstreamError
from guard.oplog import printable
from guard.proxy.child import environment, launched

if TYPE_CHECKING:
    from mcp import Client
    from mcp.client._transport import Transport

PAGES: Final = 1000
"""Pages of one list that are asked for."""
TOOLS: Final = 4096
"""Tools of one server that are taken; `guard.proxy.catalogue` remembers no more either."""

_SAID: Final = 400


class _Page(BaseModel):
    """One answer to `tools/list`; the entries stay as they are."""

    tools: list[dict[str, JsonValue]]
    next_cursor: str | None = Field(None, alias="nextCursor")


async def listed(name: str, settings: Server, *, base: Path, seconds: float = 60.0) -> list[dict[str, JsonValue]]:
    """Every entry of the server's `tools/list`, all pages, within so many seconds.

    `base` is the folder from which the server's relative working directory is meant.

    Raises:
        UpstreamError: it cannot be started or reached, does not answer in time, or lists without an end.
        ConfigError: its certificates cannot be read.
    """
    from mcp.shared.exceptions import MCPError  # noqa: PLC0415 - half a second that few verbs need

    with io.TextIOWrapper(tempfile.TemporaryFile(), encoding="utf-8", errors="replace") as noise:
        try:
            with anyio.fail_after(seconds):
                async with _client(name, settings, base, noise) as client:
                    return await _pages(client)
        except TimeoutError:
            raise _failed(name, f"no whole list within {seconds:g} s", noise) from None
        except (OSError, MCPError, ValidationError, ValueError, httpx2.HTTPError) as error:
            raise _failed(name, f"{type(error).__name__}: {error}", noise) from error
        except BaseExceptionGroup as group:
            ours, others = group.split(
                (OSError, MCPError, ValidationError, ValueError, httpx2.HTTPError, UpstreamError)
            )
            if ours is None or others is not None:
                raise
            raise _failed(name, _first(ours), noise) from group


async def _pages(client: Client) -> list[dict[str, JsonValue]]:
    """Ask page by page."""
    from mcp.types import ListToolsRequest, PaginatedRequestParams  # noqa: PLC0415 - as above

    found: list[dict[str, JsonValue]] = []
    cursor: str | None = None
    asked: set[str] = set()
    for _ in range(PAGES):
        request = ListToolsRequest(params=PaginatedRequestParams(cursor=cursor))
        page = await client.session.send_request(request, _Page)
        found += page.tools
        cursor = page.next_cursor
        if cursor is None:
            return found
        if cursor in asked or len(found) > TOOLS:
            break
        asked.add(cursor)
    message = f"the list of tools has no end: {len(found)} tools and more to come"
    raise UpstreamError(message, sent=True)


@asynccontextmanager
async def _client(name: str, settings: Server, base: Path, noise: TextIO) -> AsyncIterator[Client]:
    """An SDK client that is connected as the guard would be: same program, variables, headers and certificates."""
    from mcp import Client  # noqa: PLC0415 - as above

    async with AsyncExitStack() as stack:
        transport = await _transport(name, settings, base, noise, stack)
        yield await stack.enter_async_context(Client(transport))


async def _transport(name: str, settings: Server, base: Path, noise: TextIO, stack: AsyncExitStack) -> Transport:
    """The configured way to the server."""
    from mcp.client.stdio import StdioServerParameters, stdio_client  # noqa: PLC0415 - as above
    from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415 - as above

    if settings.url is None:
        cwd = base / settings.cwd if settings.cwd else None
        env = environment(settings, os.environ)
        program, *arguments = launched(name, settings, cwd, env)
        return stdio_client(StdioServerParameters(command=program, args=arguments, env=env, cwd=cwd), errlog=noise)
    trusted: ssl.SSLContext | bool = True
    if settings.ca_file is not None:
        trusted = ssl.create_default_context(cafile=settings.ca_file)
    http = httpx2.AsyncClient(headers=dict(settings.headers), verify=trusted, timeout=settings.answer_timeout)
    return streamable_http_client(settings.url, http_client=await stack.enter_async_context(http))


def _first(group: BaseExceptionGroup[BaseException]) -> str:
    """What the first error in a group of tasks says."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error.public if isinstance(error, UpstreamError) else f"{type(error).__name__}: {error}"


def _failed(name: str, why: str, noise: TextIO) -> UpstreamError:
    """What went wrong, with the last words of the server's own log."""
    noise.seek(0)
    lines = [line.strip() for line in noise.read()[-4096:].splitlines() if line.strip()]
    last = f"; its log ends: {printable(lines[-1])[:_SAID]}" if lines else ""
    return UpstreamError(f"server {name} cannot list its tools: {printable(why)[:_SAID]}{last}", sent=False)
