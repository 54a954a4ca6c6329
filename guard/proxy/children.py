"""Every child process of `guard serve`: started when a conversation needs one, and never left behind.

Limits hold per principal and in all. Only idle children of the same principal make room; nobody can have
another's stopped. A child that ends by itself is on record, and is started again with the next call, at
once the first time and after a growing pause when it keeps ending.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio
import structlog
from anyio.abc import TaskGroup, TaskStatus

from guard.config import Config
from guard.errors import ConfigError, UpstreamError
from guard.model import Json
from guard.proxy.child import Child
from guard.proxy.conversation import Conversation, Key, Kind
from guard.proxy.link import Link
from guard.reasons import Code

REMEMBERED: Final = 1_000
"""Conversations of one principal that are kept although they have no child; the oldest of its own goes first."""
STEADY: Final = 30.0
"""Seconds a child must have lived for its end not to count with the one before."""
PAUSE: Final = (0.0, 1.0, 2.0, 5.0, 15.0, 60.0)
"""Seconds until a child is started again after so many ends in a row."""

_LACKING: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
"""What this process or the system is short of for a while, which is no fault of the tool server's."""
_CHECK: Final = 1.0
_GRACE_PLACE: Final = 0.5
"""Seconds a new child waits for a place: who just read an answer may be ahead of the guard noting its end."""
_GRACE_LAST_LINES: Final = 0.5
_GRACE_ANSWERS: Final = 0.6
_GRACE_HANDLERS: Final = 0.1

log = structlog.get_logger()

Report = Callable[[str, Mapping[str, Json]], None]
"""Writes a record: the event and its fields. Never raises."""


@dataclass(slots=True)
class _Ends:
    """How often in a row children of one kind ended by themselves, and until when none is started."""

    count: int = 0
    until: float = 0.0


@dataclass(slots=True, eq=False)
class _Life:
    """One child from the decision to start it; `leaving` ones are being ended and no longer count."""

    conversation: Conversation
    link: Link | None = None
    leaving: bool = False

    @property
    def idle(self) -> bool:
        """Whether it may be ended without anybody noticing."""
        return self.link is not None and not self.leaving and not self.conversation.busy


class Children:
    """Starts, watches and ends child processes; everything lives inside `run`."""

    def __init__(
        self,
        config: Config,
        *,
        observe: Callable[[str, bytes], None] | None,
        report: Report,
        clean: Callable[[str], str],
    ) -> None:
        """Serve the servers with a `command`; `report` writes records, `clean` masks what a child says on stderr."""
        self._servers = {name: one for name, one in config.servers.items() if one.command}
        self._base = config.file.absolute().parent
        self._most, self._most_each = config.proxy.max_children, config.proxy.max_children_per_principal
        self._observe, self._report, self._clean = observe, report, clean
        self._conversations: dict[Key, Conversation] = {}
        self._lives: set[_Life] = set()
        self._ends: dict[tuple[str, str, Kind], _Ends] = {}
        self._stopping, self._freed = anyio.Event(), anyio.Event()
        self._group: TaskGroup | None = None

    def __contains__(self, server: str) -> bool:
        """Whether a server of this name is a command."""
        return server in self._servers

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep children until `stop`, then end all of them within two seconds."""
        async with anyio.create_task_group() as group:
            self._group = group
            group.start_soon(self._watch_idle)
            task_status.started()
            await self._stopping.wait()
            await self._settle(_GRACE_ANSWERS)
            for life in tuple(self._lives):
                if life.link is not None:
                    life.link.close()
            await self._settle(_GRACE_HANDLERS)
            group.cancel_scope.cancel()

    def stop(self) -> None:
        """Start nothing any more, give what is sent a moment, and let `run` return."""
        self._stopping.set()

    # ------------------------------------------------------------------ conversations

    def conversation(self, key: Key) -> Conversation:
        """The conversation of this key, begun when there is none."""
        found = self._conversations.get(key)
        if found is None:
            found = self._conversations[key] = Conversation(key, self._observe)
            self._forget_oldest(key.subject)
        return found

    def known(self, key: Key) -> Conversation | None:
        """The conversation of this key, if it has begun in this process."""
        return self._conversations.get(key)

    def end(self, key: Key) -> None:
        """End a conversation and its child; whoever waits for an answer gets none."""
        conversation = self._conversations.pop(key, None)
        if conversation is not None:
            conversation.over = True
            if conversation.link is not None:
                conversation.link.dismiss()

    def _forget_oldest(self, subject: str) -> None:
        """Keep the number of a principal's conversations bounded; one with a child is never forgotten."""
        own = [key for key in self._conversations if key.subject == subject]
        if len(own) > REMEMBERED:
            for key in own:
                old = self._conversations[key]
                if old.link is None and not old.busy:
                    del self._conversations[key]
                    return

    # ------------------------------------------------------------------ children

    @asynccontextmanager
    async def using(self, conversation: Conversation) -> AsyncIterator[Link]:
        """A child of this conversation that runs, is greeted, and is not stopped for being idle meanwhile.

        Raises:
            UpstreamError: `sent=False`: there is none and none can be started now.
        """
        conversation.uses += 1
        try:
            async with conversation.lock:
                link = conversation.link
                if link is None or not link.usable:
                    link = await self._start(conversation)
            yield link
        finally:
            conversation.uses -= 1
            conversation.used = anyio.current_time()
            self._freed.set()
            self._freed = anyio.Event()

    async def _start(self, conversation: Conversation) -> Link:
        server, subject, kind, _ = conversation.key
        with anyio.move_on_after(_GRACE_PLACE):
            while self._lacking(subject)[0] > 0:
                await self._freed.wait()
        ends = self._ends.get((server, subject, kind))
        if self._stopping.is_set() or self._group is None:
            raise UpstreamError(sent=False, reason=Code.STOPPING)
        if conversation.over:
            raise UpstreamError(sent=False, reason=Code.FOREIGN_SESSION)
        if ends is not None and anyio.current_time() < ends.until:
            raise UpstreamError(sent=False, reason=Code.UPSTREAM_RESTING)
        self._make_room(subject)
        life = _Life(conversation)
        self._lives.add(life)
        try:
            link: Link = await self._group.start(self._live, life)
        except ConfigError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _LACKING:
                raise UpstreamError(sent=False, reason=Code.OVERLOADED) from error
            self._ended_by_itself(conversation, 0.0, None)
            raise UpstreamError(sent=False, detail=error.public) from error
        finally:
            if life.link is None:
                self._lives.discard(life)
        greeted = False
        try:
            await conversation.greet(link, self._servers[server].connect_timeout)
            greeted = True
        finally:
            if not greeted:
                if link.usable and not self._stopping.is_set():  # else its end is on record, or wanted
                    self._ended_by_itself(conversation, 0.0, link)
                link.dismiss()
        return link

    def _lacking(self, subject: str) -> tuple[int, list[_Life]]:
        """How many places one more child of this principal lacks, and whom it may take the others from.

        Those are idle ones of its own only, the longest idle first.
        """
        staying = [life for life in self._lives if not life.leaving]
        own = [life for life in staying if life.conversation.key.subject == subject]
        needed = max(0, len(own) + 1 - self._most_each, len(staying) + 1 - self._most)
        idle = sorted((life for life in own if life.idle), key=lambda life: life.conversation.used)
        return needed - len(idle), idle[:needed]

    def _make_room(self, subject: str) -> None:
        """See that one more child of this principal is within the limits."""
        lacking, given_up = self._lacking(subject)
        if lacking > 0:
            raise UpstreamError(sent=False, reason=Code.TOO_MANY_CHILDREN)
        for life in given_up:
            self._retire(life, "another one needs its place")

    @staticmethod
    def _retire(life: _Life, why: str) -> None:
        """Stop an idle child; its conversation gets another when it goes on."""
        server, subject, _, _ = life.conversation.key
        log.info("child.stopped", server=server, principal=subject, why=why)
        life.leaving = True
        if life.link is not None:
            life.link.dismiss()

    async def _live(self, life: _Life, *, task_status: TaskStatus[Link]) -> None:
        """One child from its start to its end."""
        conversation = life.conversation
        server, subject, _, _ = conversation.key
        async with Child.start(server, self._servers[server], base=self._base) as child:
            link = life.link = conversation.link = Link(child)
            log.info("child.started", server=server, principal=subject, pid=child.pid)
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(child.relay_errors, self._clean)
                    group.start_soon(link.write)
                    group.start_soon(_cancel_when, link.dismissed, group.cancel_scope)
                    group.start_soon(_limit_last_lines, child, group.cancel_scope)
                    task_status.started(link)
                    while (line := await child.lines.next()) is not None:
                        conversation.take(link, line)
                    group.cancel_scope.cancel()
            finally:
                life.leaving = True
                link.seal()
                await child.end()
                self._part(conversation, link)
                self._lives.discard(life)

    def _part(self, conversation: Conversation, link: Link) -> None:
        """Tell everybody who waits that this child has ended, and put it on record when nobody wanted that."""
        wanted = link.dismissed.is_set() or self._stopping.is_set()
        if not wanted:
            self._ended_by_itself(conversation, anyio.current_time() - link.began, link)
        if conversation.link is link:
            conversation.link = None
            conversation.asked.clear()
        link.close()

    def _ended_by_itself(self, conversation: Conversation, lived: float, link: Link | None) -> None:
        """Record it, and let time pass before the next start when it happens again and again."""
        server, subject, kind, _ = conversation.key
        ends = self._ends.setdefault((server, subject, kind), _Ends())
        ends.count = 1 if lived >= STEADY else ends.count + 1
        pause = PAUSE[min(ends.count, len(PAUSE)) - 1]
        ends.until = anyio.current_time() + pause
        code = link.child.code if link else None
        cut_off = len(link.waiting) if link else 0
        said: dict[str, Json] = {"server": server, "principal": subject, "exit_code": code, "unanswered": cut_off}
        log.error("child.ended", **said, lived=round(lived, 1), pause=pause)
        self._report("child.ended", said)

    # ------------------------------------------------------------------ idleness and the end

    async def _watch_idle(self) -> None:
        """Stop children nobody used for as long as their server's setting says."""
        while True:
            shortest = min((one.idle_timeout for one in self._servers.values()), default=_CHECK)
            await anyio.sleep(min(_CHECK, shortest))
            now = anyio.current_time()
            for life in tuple(self._lives):
                idle = self._servers[life.conversation.key.server].idle_timeout
                if life.idle and now - life.conversation.used >= idle:
                    self._retire(life, "idle")

    async def _settle(self, seconds: float) -> None:
        """Wait until nobody waits for a child."""
        with anyio.move_on_after(seconds):
            while any(life.conversation.uses for life in self._lives):
                await self._freed.wait()


async def _cancel_when(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _limit_last_lines(child: Child, scope: anyio.CancelScope) -> None:
    """Once the child exited, give what it wrote last a moment to be read."""
    await child.wait()
    await anyio.sleep(_GRACE_LAST_LINES)
    scope.cancel()
