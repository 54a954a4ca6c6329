"""Begins a lost legacy session again at the tool server, so that the agent does not notice.

A tool server that was restarted answers 404 to a session it no longer knows. Most clients cannot begin anew:
they fail for ever, or silently show no tools. So the guard repeats what set the session up (`initialize`,
`notifications/initialized`, the log level, the subscriptions, one at a time, byte for byte) and sends the
refused message once more; 404 says that nothing was executed. The agent keeps its session id, and the guard
knows which one stands for it upstream. No call, prompt or resource is ever repeated.

What was said is kept in memory, a bounded share for each principal. A session the guard has no memory of is
answered as the tool server answers it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from typing import Final, TypeAlias

import anyio
import structlog

from guard.errors import UpstreamError
from guard.model import Json
from guard.proxy.documents import Listing
from guard.proxy.headers import Headers, first, outgoing
from guard.proxy.sessions import SessionOwners
from guard.proxy.setups import GONE, SESSION, SUCCESS, NoStreamError, Said, Session, SessionLostError, Share, said
from guard.proxy.upstream import Answer, Upstreams
from guard.wire.message import Message, Notification, Response

log = structlog.get_logger()

HEALING_SECONDS: Final = 20.0
"""How long beginning a session again may take as a whole."""
SUBSCRIPTION_LIMIT: Final = 256
"""Subscriptions of one session that are kept."""
ANSWER_LIMIT: Final = 256 * 1024
"""Bytes of an answer to a repeated message that are read."""

_VERSION: Final = b"mcp-protocol-version"
_PING: Final = b'{"jsonrpc":"2.0","id":"guard","method":"ping"}'
_SET_UP: Final = frozenset(
    {"notifications/initialized", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"}
)
_BOUND_TO_SESSION: Final = frozenset(
    {"notifications/cancelled", "notifications/progress", "notifications/tasks/status"}
)

Accept: TypeAlias = Callable[[Answer], Awaitable[None]]
"""Sees the head of an answer before the caller does."""
Attempt: TypeAlias = Callable[[Headers, Accept | None], Awaitable[bool]]
"""Sends one request with these headers and relays its answer."""
Record: TypeAlias = Callable[[str, Mapping[str, Json]], object]
"""Appends to the ledger."""


class How(Enum):
    """What a request within a session is, which says what follows when the session is lost."""

    AGAIN = "again"
    """It is sent again in the session begun anew."""
    ONCE = "once"
    """It belongs to the lost session and is not sent again."""
    STREAM = "stream"
    """It opens the session's event stream."""


class Healer:
    """Remembers what set each legacy session up, and begins it again when the tool server lost it."""

    def __init__(self, upstreams: Upstreams, owners: SessionOwners, record: Record) -> None:
        self._upstreams, self._owners, self._record = upstreams, owners, record
        self._of: dict[str, Share] = {}

    # ------------------------------------------------------------------ memory

    def begin(self, server: str, session: bytes, subject: str, message: Message, headers: Headers) -> None:
        """Remember the `initialize` that opened a session."""
        heard, share = said(message, headers), self._of.setdefault(subject, Share())
        share.pop(server, session)
        if heard is not None:
            known = Session(server, session, heard)
            share.put(known, known.size)

    def note(self, server: str, session: bytes, subject: str, message: Message, headers: Headers) -> None:
        """Remember a message that set the session up further, after the tool server took it."""
        if isinstance(message, Response) or message.method not in _SET_UP:
            return
        known, heard = self._find(server, session, subject), said(message, headers)
        if known is None or heard is None:
            return
        uri, before = message.params.get("uri"), known.size
        match message.method:
            case "notifications/initialized":
                known.initialized = heard
            case "logging/setLevel":
                known.level = heard
            case "resources/subscribe" if uri in known.subscriptions or len(known.subscriptions) < SUBSCRIPTION_LIMIT:
                known.subscriptions[uri] = heard
            case _:
                known.subscriptions.pop(uri, None)
        self._of[subject].put(known, known.size - before)

    async def end(self, server: str, session: bytes, subject: str) -> None:
        """Forget a session that has ended, with the tool server's own id for it.

        Raises:
            StoreUnavailableError: the store cannot forget it.
        """
        share = self._of.get(subject)
        known = share.pop(server, session) if share is not None else None
        if known is not None and known.upstream not in {known.id, b""}:
            await self._owners.drop(server, known.upstream.decode("latin-1"))

    def _find(self, server: str, session: bytes, subject: str) -> Session | None:
        share = self._of.get(subject)
        if share is None or (known := share.sessions.get((server, session))) is None:
            return None
        share.sessions.move_to_end((server, session))
        return known

    # ------------------------------------------------------------------ carrying

    async def carry(
        self, server: str, session: bytes, subject: str, headers: Headers, attempt: Attempt, *, how: How
    ) -> bool:
        """Make an attempt within a session; if the tool server has lost it, begin it again and make one more.

        Args:
            server: the tool server.
            session: the agent's id of the session; b"" for none.
            subject: the principal.
            headers: of the agent's request.
            attempt: sends the request once; it is called a second time only after a 404.
            how: what the request is.

        Raises:
            SessionLostError: it was lost, and could not be begun again or was not to be.
            NoStreamError: the session lives, but the tool server has no event stream for it.
            UpstreamError: the attempt's own.
            LedgerUnavailableError, StoreUnavailableError: nothing was begun again without its record.
        """
        known = self._find(server, session, subject) if session else None
        if known is None:
            return await attempt(headers, None)
        used = known.upstream
        accept = known.accept_stream if how is How.STREAM else known.accept
        try:
            return await attempt(known.outgoing(headers), accept)
        except SessionLostError:
            if how is How.ONCE:
                raise
        if how is How.STREAM and known.upstream == used and await self._lives(known, subject):
            raise NoStreamError
        await self._heal(known, subject, used)
        return await attempt(known.outgoing(headers), accept)

    async def _lives(self, known: Session, subject: str) -> bool:
        """Whether the session itself is there: some tool servers answer 404 because they have no event streams."""
        try:
            with anyio.fail_after(HEALING_SECONDS):
                status, _, _ = await self._say(known, subject, Said(_PING, known.initialize.headers), known.upstream)
        except (UpstreamError, TimeoutError):
            return True
        return status != GONE

    async def _heal(self, known: Session, subject: str, lost: bytes) -> None:
        """Begin a session again once, whoever else waits for it."""
        if known.upstream == lost and known.healing is None:
            known.healing = anyio.Event()
            try:
                await self._begin_again(known, subject)
            finally:
                known.healing.set()
                known.healing = None
        elif known.healing is not None:
            await known.healing.wait()
        if known.upstream == lost:
            raise SessionLostError

    async def _begin_again(self, known: Session, subject: str) -> None:
        """Repeat the set-up, on record before and after."""
        name = hashlib.sha256(known.id).hexdigest()[:16]
        fields = {"server": known.server, "principal": subject, "session": name}
        self._record("session.lost", fields)
        before = known.upstream
        try:
            with anyio.fail_after(HEALING_SECONDS):
                upstream = await self._replay(known, subject)
        except (UpstreamError, TimeoutError) as error:
            detail = (error.detail or error.public) if isinstance(error, UpstreamError) else "it took too long"
            log.warning("session.not_healed", detail=detail, **fields)
            raise SessionLostError(detail) from error
        if before not in {known.id, upstream, b""}:
            await self._owners.drop(known.server, before.decode("latin-1"))
        self._record("session.healed", fields)
        known.upstream, known.stale = upstream, True
        log.info("session.healed", **fields)

    async def _replay(self, known: Session, subject: str) -> bytes:
        """Say again what set the session up; its new id upstream (b"" when the server keeps no sessions now)."""
        status, ids, result = await self._say(known, subject, known.initialize, b"")
        if status not in SUCCESS or len(ids) > 1 or not isinstance(result, Mapping):
            raise SessionLostError(f"initialize was answered {status}")
        spoken = first(known.initialized.headers, _VERSION).decode("latin-1") if known.initialized else ""
        if spoken and result.get("protocolVersion") != spoken:
            raise SessionLostError("the tool server now speaks another revision")
        upstream = ids[0] if ids else b""
        if ids and not await self._owners.bind(known.server, upstream.decode("latin-1"), subject):
            raise SessionLostError("the tool server handed out somebody else's session")
        if known.initialized is not None:
            status, _, _ = await self._say(known, subject, known.initialized, upstream)
            if status not in SUCCESS:
                raise SessionLostError(f"notifications/initialized was answered {status}")
        for one in (known.level, *tuple(known.subscriptions.values())):
            if one is None:
                continue
            status, _, result = await self._say(known, subject, one, upstream)
            if result is None:
                log.warning("session.less", server=known.server, principal=subject, status=status)
        return upstream

    async def _say(self, known: Session, subject: str, one: Said, session: bytes) -> tuple[int, list[bytes], Json]:
        """Send one set-up message and read its answer: status, session ids, result (None when there is none)."""
        headers = [*one.headers, (SESSION, session)] if session else one.headers
        lines = outgoing(headers, self._upstreams.replaced(known.server))
        async with await self._upstreams.send(
            server=known.server, subject=subject, method="POST", lines=lines, body=one.body
        ) as answer:
            ids = [value for name, value in answer.headers if name == SESSION]
            return answer.status, ids, await _result(answer)


def how(message: Message) -> How:
    """What becomes of a message when its session is lost: answers and cancellations mean nothing in another one."""
    if isinstance(message, Response) or (isinstance(message, Notification) and message.method in _BOUND_TO_SESSION):
        return How.ONCE
    return How.AGAIN


async def _result(answer: Answer) -> Json:
    """The result in an answer; None when there is none within bounds."""
    found: list[bytes] = []
    listing, size = Listing(found.append, streamed=answer.streams), 0
    while not answer.drained and size <= ANSWER_LIMIT:
        piece = await answer.chunk()
        size += len(piece)
        listing.take(piece, last=answer.drained)
        while found:
            try:
                message = json.loads(found.pop(0))
            except (ValueError, RecursionError):
                return None
            if isinstance(message, dict) and "result" in message:
                result: Json = message["result"]
                return result
    return None
