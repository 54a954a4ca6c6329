"""`Mcp-Param-*` headers before a tool server on stdio: nobody behind the guard could compare them with the body.

A tool's schema names the arguments that a client repeats in headers (2026-07-28, `x-mcp-header`). The schemas
are taken from answers to `tools/list` in passing, so a tool that was not listed since the start is not checked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Final

from starlette.datastructures import Headers as HeaderMap

from guard.errors import WireError
from guard.model import Json
from guard.proxy.headers import Headers
from guard.reasons import Code
from guard.wire.era import HEADER_MISMATCH
from guard.wire.message import Request

_MARK: Final = "x-mcp-header"
_MAX_TOOLS: Final = 4096
"""Tools whose schemas are kept, of all servers; the one listed longest ago goes first."""


class ParamHeaders:
    """The schemas that name headers, by server and tool."""

    def __init__(self, observe: Callable[[str, bytes], None]) -> None:
        """Begin with none; `observe` is handed every answer first."""
        self._observe = observe
        self._schemas: dict[tuple[str, str], Mapping[str, Json]] = {}

    def observe(self, server: str, answer: bytes) -> None:
        """Take in one answer to `tools/list`."""
        self._observe(server, answer)
        if not self._schemas and _MARK.encode() not in answer:
            return
        result = json.loads(answer).get("result")
        tools = result.get("tools") if isinstance(result, dict) else None
        for tool in tools[:_MAX_TOOLS] if isinstance(tools, list) else ():
            name, schema = (tool.get("name"), tool.get("inputSchema")) if isinstance(tool, dict) else (None, None)
            if isinstance(name, str) and isinstance(schema, dict):
                self._schemas.pop((server, name), None)
                if _MARK in json.dumps(schema):
                    self._schemas[server, name] = schema
        while len(self._schemas) > _MAX_TOOLS:
            del self._schemas[next(iter(self._schemas))]

    def check(self, server: str, message: Request, headers: Headers) -> None:
        """See that the headers of a modern call say what its arguments say.

        Raises:
            WireError: one does not (HEADER_MISMATCH, -32020).
        """
        schema = self._schemas.get((server, str(message.params.get("name", ""))))
        if schema is None or message.method != "tools/call":
            return
        from mcp.shared.inbound import validate_mcp_param_headers  # noqa: PLC0415  # half a second that few starts need

        arguments = message.params.get("arguments")
        wrong = validate_mcp_param_headers(
            schema, arguments if isinstance(arguments, Mapping) else {}, HeaderMap(raw=list(headers))
        )
        if wrong is not None:
            raise WireError(wrong.message, reason=Code.HEADER_MISMATCH, rpc_code=HEADER_MISMATCH)
