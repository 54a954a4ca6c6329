"""What each tool server says its tools are: definitions seen in passing, pinned by trust on first use.

Fronts hand every `tools/list` answer to `observe`. A tool whose definition once differed from its pin is
*changed* until an operator accepts it (`guard policy pin`), also when it changes back: a server that shows
one agent another tool than the next is caught by either. So is every tool of a server whose list could not be
read whole, for nobody knows what the agent was shown. Calls of changed tools need more
(`guard.policy.classify`). Names that no call can carry are no tools.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Final

import anyio
import structlog

from guard.errors import UnavailableError, WireError
from guard.model import Json
from guard.ports import Ledger, Pin, Pins
from guard.stepup.wording import wording
from guard.wire.canonical import definition_digest
from guard.wire.methods import TOOL_NAME

log = structlog.get_logger()

MAX_TOOLS: Final = 4096
"""Tools of one server that are remembered; of a server that lists more, every tool counts as changed."""

MAX_TEXT: Final = 16_384
"""Characters of a definition that are kept to show a change word by word; of a longer one only its digest is."""

_SAID: Final = 400


class Catalogue:
    """Definitions and destructive hints by (server, tool); memory first, the store behind it."""

    def __init__(self, pins: Pins, ledger: Ledger) -> None:
        """Start empty; `load` reads the pins of a server."""
        self._pins, self._ledger = pins, ledger
        self._pinned: dict[tuple[str, str], str] = {}
        self._seen: dict[tuple[str, str], str] = {}
        self._destructive: set[tuple[str, str]] = set()
        self._unstructured: set[tuple[str, str]] = set()
        self._differed: set[tuple[str, str]] = set()
        self._opaque: set[str] = set()
        self._known: Counter[str] = Counter()
        self._reported: dict[tuple[str, str], Pin] = {}
        self._news: dict[str, dict[str, str]] = {}
        self._texts: dict[str, dict[str, str]] = {}
        self._given: dict[tuple[str, str], str] = {}
        self._wording: dict[tuple[str, str], str] = {}
        self._heard = anyio.Event()

    def load(self, server: str) -> None:
        """Read the pins of a server from the store; what was pinned there meanwhile wins."""
        for pin in self._pins.all(server):
            key = (server, pin.tool)
            if self._pinned.get(key, pin.pinned) != pin.pinned:  # accepted by an operator
                self._differed.discard(key)
            self._note(key, pinned=pin.pinned, seen=self._seen.get(key, pin.seen))
            self._compare(pin)

    def definition(self, server: str, tool: str) -> str:
        """Digest of the definition listed last, or "" when the tool was never listed."""
        return self._seen.get((server, tool), "")

    def changed(self, server: str, tool: str) -> bool:
        """Whether a definition that differs from the pinned one was listed, or may have been."""
        return (server, tool) in self._differed or server in self._opaque

    def change(self, server: str, tool: str) -> str:
        """In which words the tool's definition differs from the pinned one, bounded; "" when it is not known."""
        return self._wording.get((server, tool), "")

    def destructive(self, server: str, tool: str) -> bool:
        """Whether the server itself calls the tool destructive."""
        return (server, tool) in self._destructive

    def unstructured(self, server: str, tool: str) -> bool:
        """Whether the tool was listed here without an outputSchema, so that any text is a valid result of it."""
        return (server, tool) in self._unstructured

    def observe(self, server: str, answer: bytes) -> None:
        """Take in one answer to `tools/list`; empty when it was too long to keep, which makes the server opaque."""
        try:
            tools = dict(_tools(answer))
            definitions = {name: definition_digest(tool) for name, tool in tools.items()}
        except (ValueError, RecursionError, WireError):
            self._doubt(server)
            return
        new = [name for name in definitions if (server, name) not in self._seen]
        for name in new[max(0, MAX_TOOLS - self._known[server]) :]:
            del definitions[name]
            self._doubt(server)
        for name, digest in definitions.items():
            key = (server, name)
            self._note(key, pinned=self._pinned.get(key, digest), seen=digest)
            if tools[name].get("outputSchema") is None:
                self._unstructured.add(key)
            else:
                self._unstructured.discard(key)
            annotations = tools[name].get("annotations")
            if isinstance(annotations, Mapping) and annotations.get("destructiveHint") is True:
                self._destructive.add(key)
            else:
                self._destructive.discard(key)
            if self._given.get(key) != digest:
                self._given[key] = digest
                self._texts.setdefault(server, {})[name] = _text(tools[name])
        if definitions:
            self._news.setdefault(server, {}).update(definitions)
            self._heard.set()

    def _note(self, key: tuple[str, str], *, pinned: str, seen: str) -> None:
        self._known[key[0]] += key not in self._seen
        self._pinned[key], self._seen[key] = pinned, seen
        if seen != pinned:
            self._differed.add(key)

    def _doubt(self, server: str) -> None:
        """Say once that this server's tools may be other ones than were pinned."""
        if server in self._opaque:
            return
        self._opaque.add(server)
        with suppress(UnavailableError):  # it counts all the same
            self._ledger.append("tool.changed", {"server": server, "tool": "*", "pinned": "", "seen": "unreadable"})
        remedy = "its list of tools cannot be read whole; all its calls need consent until it is mended, and a restart"
        log.error("tools.unreadable", server=server, remedy=remedy)

    async def run(self) -> None:
        """Persist what was observed; runs until cancelled."""
        while True:
            await self._heard.wait()
            self._heard = anyio.Event()
            news, self._news = self._news, {}
            texts, self._texts = self._texts, {}
            for server, definitions in news.items():
                try:
                    for pin in await anyio.to_thread.run_sync(
                        self._pins.see, server, definitions, texts.get(server, {})
                    ):
                        self._report(pin)
                except UnavailableError as error:  # seen again with the next list; in memory it counts already
                    for name in texts.get(server, {}):
                        self._given.pop((server, name), None)
                    log.warning("catalogue.unsaved", server=server, detail=error.detail)

    def _report(self, pin: Pin) -> None:
        """Record a changed definition once; the pin of another process may be older than ours."""
        key = (pin.server, pin.tool)
        self._note(key, pinned=pin.pinned, seen=self._seen.get(key, pin.seen))
        if self._reported.get(key) == pin:
            return
        self._compare(pin)
        fields: dict[str, Json] = {"server": pin.server, "tool": pin.tool, "pinned": pin.pinned, "seen": pin.seen}
        if wording := self._wording.get(key):
            fields["wording"] = wording
        self._ledger.append("tool.changed", fields)
        self._reported[key] = pin
        log.warning(
            "tool.changed",
            server=pin.server,
            tool=pin.tool,
            remedy=f"review it, then: guard policy pin {pin.server} {pin.tool}",
        )

    def _compare(self, pin: Pin) -> None:
        """Keep in which words a pin differs from what was seen."""
        if pin.pinned != pin.seen:
            said = "; ".join(wording(pin.pinned_text, pin.seen_text))
            self._wording[pin.server, pin.tool] = said if len(said) <= _SAID else said[: _SAID - 3] + "..."


def _text(tool: Mapping[str, Json]) -> str:
    """A definition as it is kept to be compared; "" when it is too long."""
    text = json.dumps(dict(tool), sort_keys=True, separators=(",", ":"))
    return text if len(text) <= MAX_TEXT else ""


def _tools(answer: bytes) -> Iterator[tuple[str, Mapping[str, Json]]]:
    """The tools of a `tools/list` answer by name; none for a message of another kind.

    Raises:
        ValueError: it is not JSON, so a more patient reader may find there what this one does not.
    """
    message = json.loads(answer)
    for one in message if isinstance(message, list) else [message]:  # clients of 2025-03-26 take batches
        result = one.get("result") if isinstance(one, dict) else None
        listed = result.get("tools") if isinstance(result, dict) else None
        for tool in listed if isinstance(listed, list) else []:
            name = tool.get("name") if isinstance(tool, dict) else None
            if isinstance(name, str) and TOOL_NAME.fullmatch(name):
                yield name, tool
