"""What each tool server says its tools are: definitions seen in passing, pinned by trust on first use.

Fronts hand every `tools/list` answer to `observe`. A tool whose definition differs from its pin is
*changed* until an operator accepts it (`guard policy pin`); its calls need more (`guard.policy.classify`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial

import anyio
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from guard.errors import UnavailableError, WireError
from guard.model import Json
from guard.ports import Ledger, Pin, Pins, Redactor
from guard.wire.canonical import definition_digest

log = structlog.get_logger()

_MAX_TOOLS = 4096


class Catalogue:
    """Definitions and destructive hints by (server, tool); memory first, the store behind it."""

    def __init__(self, pins: Pins, ledger: Ledger, redactor: Redactor) -> None:
        """Start empty; `load` reads the pins of a server."""
        self._pins, self._ledger, self._redactor = pins, ledger, redactor
        self._pinned: dict[tuple[str, str], str] = {}
        self._seen: dict[tuple[str, str], str] = {}
        self._destructive: set[tuple[str, str]] = set()
        self._reported: set[Pin] = set()
        self._send: MemoryObjectSendStream[tuple[str, dict[str, str]]]
        self._receive: MemoryObjectReceiveStream[tuple[str, dict[str, str]]]
        self._send, self._receive = anyio.create_memory_object_stream[tuple[str, dict[str, str]]](64)

    def load(self, server: str) -> None:
        """Read the pins of a server from the store; what was pinned there meanwhile wins."""
        for pin in self._pins.all(server):
            key = (server, pin.tool)
            self._pinned[key] = pin.pinned
            self._seen.setdefault(key, pin.seen)

    def definition(self, server: str, tool: str) -> str:
        """Digest of the definition listed last, or "" when the tool was never listed."""
        return self._seen.get((server, tool), "")

    def changed(self, server: str, tool: str) -> bool:
        """Whether the definition listed last differs from the pinned one."""
        key = (server, tool)
        return self._seen.get(key, "") != self._pinned.get(key, self._seen.get(key, ""))

    def destructive(self, server: str, tool: str) -> bool:
        """Whether the server itself calls the tool destructive."""
        return (server, tool) in self._destructive

    def observe(self, server: str, answer: bytes) -> None:
        """Take in one answer to `tools/list`; anything that is not one is ignored."""
        tools = _tools(answer)
        try:
            definitions = {name: definition_digest(tool) for name, tool in tools.items()}
        except WireError as error:
            log.warning("catalogue.unreadable", server=server, detail=error.public)
            return
        for name, digest in definitions.items():
            key = (server, name)
            self._pinned.setdefault(key, digest)
            self._seen[key] = digest
            annotations = tools[name].get("annotations")
            if isinstance(annotations, Mapping) and annotations.get("destructiveHint") is True:
                self._destructive.add(key)
            else:
                self._destructive.discard(key)
        if definitions:
            try:
                self._send.send_nowait((server, definitions))
            except anyio.WouldBlock:
                log.warning("catalogue.behind", server=server)

    async def run(self) -> None:
        """Persist what was observed; runs until cancelled."""
        async for server, definitions in self._receive:
            see = partial(self._pins.see, server, definitions)
            try:
                for pin in await anyio.to_thread.run_sync(see):
                    self._report(pin)
            except UnavailableError as error:  # seen again with the next list; in memory it counts already
                log.warning("catalogue.unsaved", server=server, detail=error.detail)

    def _report(self, pin: Pin) -> None:
        """Record a changed definition once; the pin of another process may be older than ours."""
        self._pinned[pin.server, pin.tool] = pin.pinned
        if pin in self._reported:
            return
        tool = self._redactor.text(pin.tool)
        self._ledger.append(
            "tool.changed", {"server": pin.server, "tool": tool, "pinned": pin.pinned, "seen": pin.seen}
        )
        self._reported.add(pin)
        log.warning(
            "tool.changed",
            server=pin.server,
            tool=tool,
            remedy=f"review it, then: guard policy pin {pin.server} {tool}",
        )


def _tools(answer: bytes) -> dict[str, Mapping[str, Json]]:
    """The tools of a `tools/list` answer by name; {} for anything else."""
    try:
        message = json.loads(answer)
    except (ValueError, RecursionError):
        return {}
    result = message.get("result") if isinstance(message, dict) else None
    listed = result.get("tools") if isinstance(result, dict) else None
    if not isinstance(listed, list):
        return {}
    return {
        tool["name"]: tool
        for tool in listed[:_MAX_TOOLS]
        if isinstance(tool, dict) and isinstance(tool.get("name"), str)
    }
