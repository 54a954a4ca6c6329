"""The HTTP front: one guarded ingress, `/mcp/<server>`, as a bare ASGI application.

The order is fixed: Host and Origin, the endpoint, the credential, the framing of the body, the body, its
headers, its session; then the pipeline decides. Nothing is read from a body before its sender is known.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Final

from guard.config import Config
from guard.errors import GuardError, IdentityError, NotFoundError, UnavailableError, UpstreamError, WireError
from guard.model import Principal, Source
from guard.ports import Clock, Identifier, Sessions
from guard.proxy.asking import Questions
from guard.proxy.conversation import Key, Kind
from guard.proxy.exchange import Arrival, Handler
from guard.proxy.headers import Headers
from guard.proxy.healing import Accept, Healer, How, Record
from guard.proxy.hosted import Hosted
from guard.proxy.hosts import HostNames
from guard.proxy.http_answer import accepted
from guard.proxy.metadata import Metadata
from guard.proxy.relay import HttpExchange, Relay, write
from guard.proxy.sessions import SessionOwners
from guard.proxy.setups import NoStreamError, SessionLostError
from guard.proxy.turn import Caller
from guard.proxy.upstream import Answer, Upstreams
from guard.proxy.visit import LeftError, Receive, RefusedError, Scope, Send, Stated, Visit, refuse, stated
from guard.reasons import Code
from guard.wire import era, reply
from guard.wire.decode import MODERN_VERSIONS, decode
from guard.wire.message import Message, Request, Response
from guard.wire.methods import INVALID_PARAMS

BODY_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of one message."""
IN_FLIGHT_BYTES: Final = 8 * BODY_LIMIT
"""Bytes of the messages one principal may have in flight; reading them takes memory and time that belong to all."""
_HOSTED_STATUS: Final = {Code.MEDIA_TYPE: 406, Code.UNKNOWN_METHOD: 404}
_SUCCESS: Final = range(200, 300)
_NOT_FOUND: Final = 404


class McpFront:
    """ASGI application of the MCP endpoint; serve it by `guard.proxy.listener.server` only.

    Args:
        config: which servers there are and how the listener may be addressed.
        identifier: turns the bearer credential into a principal.
        handler: carries out every decoded message (the pipeline).
        upstreams: the servers that are reached over HTTP; those neither here nor in `hosted` are answered 404.
        sessions: whom a legacy session belongs to.
        clock: time of new sessions.
        hosted: the servers that are child processes of the guard.
        record: appends to the ledger what the front does on its own (healing a lost session).
    """

    def __init__(
        self,
        config: Config,
        *,
        identifier: Identifier,
        handler: Handler,
        upstreams: Upstreams,
        sessions: Sessions,
        clock: Clock,
        record: Record,
        hosted: Hosted | None = None,
    ) -> None:
        self._hosted = hosted
        self._identifier = identifier
        self._handler = handler
        self._upstreams = upstreams
        self._sessions = SessionOwners(sessions, clock)
        self._healer = Healer(upstreams, self._sessions, record)
        self._questions = Questions()
        self._routes = {
            f"/mcp/{name}".encode(): name for name in config.servers if name in upstreams or self._hosts(name)
        }
        self._exact_integers = {name: server.big_integers == "exact" for name, server in config.servers.items()}
        self._names = HostNames(config.proxy)
        self._metadata = Metadata(config.proxy, self._routes.values())
        self._streams: Counter[tuple[str, str]] = Counter()
        self._bytes: dict[str, int] = {}
        self._reading: Counter[str] = Counter()
        self._streams_limit = config.proxy.max_in_flight
        self._streaming: dict[Caller, str] = {}  # event streams without end, and the credential of each
        self._stopping = False

    def stop(self) -> None:
        """Refuse what comes and end open event streams; the server then has only calls to wait for."""
        self._stopping = True
        for caller in tuple(self._streaming):
            caller.hang_up()

    async def recheck(self) -> None:
        """End every event stream whose caller would not get it any more, with a key that was revoked or has expired."""
        for credential in set(self._streaming.values()):
            try:
                await self._identifier.identify(credential)
            except IdentityError:
                for caller in [one for one, shown in self._streaming.items() if shown == credential]:
                    caller.hang_up()
            except UnavailableError:  # nobody can tell; calls are refused meanwhile
                continue

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        visit = Visit(scope, receive, send, self._routes.get(scope["raw_path"], ""))
        try:
            visit.stated = stated(scope, partial(self._check_names, scope))
            await self._serve(visit, scope["method"], scope["raw_path"])
        except RefusedError as refusal:
            if visit.server:
                self._record(visit, refusal.error)
            error = refusal.error
            body = (
                reply.malformed(error)
                if isinstance(error, WireError)
                else reply.error(None, reply.REFUSED, error.public)
            )
            await write(send, refusal.status, refusal.headers, body)
        except LeftError:
            return

    # ------------------------------------------------------------------ before the body

    def _check_names(self, scope: Scope, stated: Stated) -> None:
        """Refuse a name that is not this listener's: a web page may have pointed its own name here."""
        local = scope.get("server")
        address = local[0] if local else ""
        if not self._names.cover(stated.host, address):
            refuse(421, Code.HOST, "this endpoint is not called so; allowed_hosts adds names")
        origin = stated.fields.get(b"origin")
        if origin is not None and not self._names.cover_origin(origin.decode("latin-1"), address):
            refuse(403, Code.HOST, "pages of this origin may not use the endpoint")

    async def _describe(self, visit: Visit, method: str, server: str) -> None:
        """Answer a client that has no credential yet and asks what protects a server."""
        if method != "GET":
            error = WireError("this is a document", rpc_code=reply.REFUSED)
            raise RefusedError(405, error, headers=((b"allow", b"GET"),))
        await write(visit.send, 200, (), self._metadata.document(server, visit.stated.host))

    async def _serve(self, visit: Visit, method: str, target: bytes) -> None:
        if not visit.server:
            if described := self._metadata.server(target):
                await self._describe(visit, method, described)
                return
            raise RefusedError(404, NotFoundError(reason=Code.UNKNOWN_SERVER))
        if method not in {"POST", "GET", "DELETE"}:
            error = WireError(f"{method} is not a method of this endpoint", rpc_code=reply.REFUSED)
            raise RefusedError(405, error, headers=((b"allow", b"GET, POST, DELETE"),))
        if self._stopping:
            raise RefusedError(503, UnavailableError(reason=Code.STOPPING))
        principal = visit.principal = await self._identify(visit)
        if method == "POST":
            try:
                await self._post(visit, principal)
            finally:
                self._streaming.pop(visit.caller, None)
                self._give_back(visit, principal)
        elif method == "GET":
            await self._stream(visit, principal)
        else:
            await self._end_session(visit, principal)

    async def _identify(self, visit: Visit) -> Principal:
        """Whose credential this is; every other outcome is a refusal, never a default."""
        credential = visit.stated.credential
        if not credential:
            raise self._unauthenticated(visit, IdentityError(reason=Code.NO_CREDENTIAL))
        try:
            return await self._identifier.identify(credential)
        except IdentityError as error:
            raise self._unauthenticated(visit, error) from error
        except UnavailableError as error:
            raise RefusedError(503, error) from error

    def _unauthenticated(self, visit: Visit, error: IdentityError) -> RefusedError:
        """401, with the way to the metadata on first contact."""
        said = "" if error.reason is Code.NO_CREDENTIAL else "invalid_token"
        begins = b"mcp-session-id" not in visit.stated.fields
        header = self._metadata.challenge(visit.server, visit.stated.host, error=said, first=begins)
        return RefusedError(401, error, headers=((b"www-authenticate", header),))

    async def _session(self, visit: Visit, principal: Principal) -> str:
        """The legacy session of the request, if it has one; a foreign one looks as if it did not exist."""
        session = visit.stated.session
        if session is None:
            return ""
        try:
            owned = await self._sessions.owned(visit.server, session, principal.subject)
        except UnavailableError as error:
            raise RefusedError(503, error) from error
        if not owned:
            raise RefusedError(404, IdentityError("there is no such session", reason=Code.FOREIGN_SESSION))
        return session

    # ------------------------------------------------------------------ POST

    async def _post(self, visit: Visit, principal: Principal) -> None:
        raw = await self._body(visit, principal)
        try:
            message = decode(raw, exact_integers=self._exact_integers[visit.server])
        except WireError as error:
            apart = era.versions_apart(visit.stated.headers, error)
            raise RefusedError(_undecoded_status(visit, error), apart or error) from error
        try:
            spoken = era.check_headers(visit.stated.routing, message)
        except WireError as error:
            error.request_id = message.id if isinstance(message, Request) else None
            raise RefusedError(400, error) from error
        session = await self._session(visit, principal)
        if not session and not self._hosts(visit.server):  # a hosted one serves nobody else's tasks
            _refuse_foreign_task(message)
        if isinstance(message, Request) and message.method == "subscriptions/listen":
            self._streaming[visit.caller] = visit.stated.credential
        where = (visit.server, session, principal.subject)
        if isinstance(message, Response) and (answers := self._questions.take(where, message)) is not None:
            if not answers:
                refuse(400, Code.UNSOLICITED, Code.UNSOLICITED.meaning)
            await write(visit.send, 202, (), b"")
            return
        arrival = Arrival(
            message=message,
            era=spoken,
            principal=principal,
            source=Source(transport="http", address=visit.address, client=era.client_name(message)),
            server=visit.server,
            capabilities=self._questions.declared(where) if visit.stated.reads_events else {},
            proof=visit.stated.proof,
        )
        if self._hosted is not None and visit.server in self._hosted:
            await self._host(self._hosted, visit, arrival, session)
            return
        exchange = HttpExchange(
            arrival,
            visit.stated,
            visit.caller,
            visit.send,
            upstreams=self._upstreams,
            sessions=self._sessions,
            questions=self._questions,
            session=session,
            healer=self._healer,
        )
        await self._handler.handle(arrival, exchange)
        if not exchange.answered and not visit.caller.gone:
            raise RefusedError(500, GuardError())

    async def _host(self, hosted: Hosted, visit: Visit, arrival: Arrival, session: str) -> None:
        """Carry a message to a child process of the guard."""
        try:
            exchange = hosted.exchange(
                arrival,
                session,
                visit.stated.headers,
                visit.caller,
                visit.send,
                owners=self._sessions,
                questions=self._questions,
            )
        except WireError as error:
            error.request_id = arrival.message.id if isinstance(arrival.message, Request) else None
            raise RefusedError(_HOSTED_STATUS.get(error.reason, 400), error) from error
        try:
            await self._handler.handle(arrival, exchange)
        finally:
            await exchange.close()
        if not exchange.answered and not visit.caller.gone:
            raise RefusedError(500, GuardError())

    def _hosts(self, server: str) -> bool:
        return self._hosted is not None and server in self._hosted

    def _take(self, visit: Visit, principal: Principal, size: int) -> None:
        """Count bytes of a message against its principal's share."""
        held = self._bytes.get(principal.subject, 0) + size
        if held > IN_FLIGHT_BYTES:
            raise RefusedError(429, UnavailableError(reason=Code.OVERLOADED))
        visit.size += size
        self._bytes[principal.subject] = held

    def _give_back(self, visit: Visit, principal: Principal) -> None:
        if visit.size:
            held = self._bytes.pop(principal.subject) - visit.size
            if held:
                self._bytes[principal.subject] = held

    async def _body(self, visit: Visit, principal: Principal) -> bytes:
        """The whole body, at most `BODY_LIMIT` bytes; the listener limits how long it may take."""
        if unreadable := visit.stated.unreadable:
            refuse(415, Code.MEDIA_TYPE, unreadable)
        if int(visit.stated.fields.get(b"content-length", b"0")) > BODY_LIMIT:
            refuse(413, Code.TOO_LARGE, f"a message has at most {BODY_LIMIT} bytes")
        self._reading[principal.subject] += 1
        try:
            if self._reading[principal.subject] > self._streams_limit:
                raise RefusedError(429, UnavailableError(reason=Code.OVERLOADED))
            return await self._whole(visit, principal)
        finally:
            self._reading[principal.subject] -= 1
            if not self._reading[principal.subject]:
                del self._reading[principal.subject]

    async def _whole(self, visit: Visit, principal: Principal) -> bytes:
        pieces: list[bytes] = []
        size, more = 0, True
        while more:
            event = await visit.receive()
            if event["type"] != "http.request":
                raise LeftError
            pieces.append(event["body"])
            size += len(event["body"])
            self._take(visit, principal, len(event["body"]))
            more = event["more_body"]
            if size > BODY_LIMIT:
                refuse(413, Code.TOO_LARGE, f"a message has at most {BODY_LIMIT} bytes")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # ------------------------------------------------------------------ legacy: event stream, end of session

    async def _stream(self, visit: Visit, principal: Principal) -> None:
        session = await self._session(visit, principal)
        if self._hosts(visit.server) and not (session and accepted(visit.stated.headers)[1]):
            error = WireError("an event stream belongs to a session and is accepted as such", rpc_code=reply.REFUSED)
            raise RefusedError(406 if session else 405, error, headers=() if session else ((b"allow", b"POST"),))
        place = principal.subject, visit.server
        if self._streams[place] >= self._streams_limit:
            raise RefusedError(429, UnavailableError(reason=Code.OVERLOADED))
        self._streams[place] += 1
        self._streaming[visit.caller] = visit.stated.credential
        try:
            if self._hosted is not None and visit.server in self._hosted:
                key = Key(visit.server, principal.subject, Kind.SESSION, session)
                await self._hosted.stream(key, visit.stated.headers, visit.caller, visit.send)
            else:
                await self._pass(visit, principal, "GET", How.STREAM)
        finally:
            self._streaming.pop(visit.caller, None)
            self._streams[place] -= 1
            if not self._streams[place]:
                del self._streams[place]

    async def _end_session(self, visit: Visit, principal: Principal) -> None:
        session = await self._session(visit, principal)
        if not session:
            refuse(400, Code.MALFORMED, "name the session to end in Mcp-Session-Id")
        if self._hosted is not None and visit.server in self._hosted:
            try:
                await self._sessions.drop(visit.server, session)
            except UnavailableError as error:
                raise RefusedError(503, error) from error
            self._hosted.end(Key(visit.server, principal.subject, Kind.SESSION, session))
            await write(visit.send, 200, (), b"")
            return

        async def drop(answer: Answer) -> None:
            if answer.status in _SUCCESS or answer.status == _NOT_FOUND:
                await self._forget(visit.server, session, principal.subject)

        try:
            await self._pass(visit, principal, "DELETE", How.ONCE, drop)
        except SessionLostError:  # it has ended already
            await self._forget(visit.server, session, principal.subject)
            await write(visit.send, 200, (), b"")

    async def _forget(self, server: str, session: str, subject: str) -> None:
        """Forget a session that has ended."""
        try:
            self._questions.forget((server, session, subject))
            await self._healer.end(server, session.encode("latin-1"), subject)
            await self._sessions.drop(server, session)
        except UnavailableError as error:
            raise RefusedError(503, error) from error

    async def _pass(
        self, visit: Visit, principal: Principal, method: str, belongs: How, also: Accept | None = None
    ) -> None:
        """Pass a request that carries no message; `also` sees the head of its answer."""

        async def attempt(headers: Headers, accept: Accept | None) -> bool:
            async def accepted(answer: Answer) -> None:
                for one in (accept, also):
                    if one is not None:
                        await one(answer)

            lines = visit.stated.lines(self._upstreams.replaced(visit.server), headers)
            observe = self._upstreams.observer(visit.server)
            return await Relay(self._upstreams, visit.caller, visit.send, observe=observe).run(
                server=visit.server, subject=principal.subject, method=method, lines=lines, accept=accepted
            )

        session = visit.stated.fields.get(b"mcp-session-id", b"")
        try:
            await self._healer.carry(
                visit.server, session, principal.subject, visit.stated.headers, attempt, how=belongs
            )
        except UpstreamError as error:
            if visit.caller.gone:
                raise LeftError from error
            if isinstance(error, SessionLostError) and belongs is How.ONCE:
                raise
            status = 405 if isinstance(error, NoStreamError) else 502
            raise RefusedError(status, error) from error
        except UnavailableError as error:
            raise RefusedError(503, error) from error

    def _record(self, visit: Visit, error: GuardError) -> None:
        source = Source(transport="http", address=visit.address)
        self._handler.refused(server=visit.server, source=source, principal=visit.principal, error=error)


def _undecoded_status(visit: Visit, error: WireError) -> int:
    """The status under which a body is refused; a method that is not known is no malformed request."""
    if error.reason is not Code.UNKNOWN_METHOD:
        return 400
    if b"mcp-session-id" in visit.stated.fields:
        return 200  # a client of the legacy era takes any other status for the end of its session
    return _NOT_FOUND if visit.stated.version in MODERN_VERSIONS else 400


def _refuse_foreign_task(message: Message) -> None:
    """Outside a session nothing says whose a task is: to the tool server, all agents are the one guard."""
    if isinstance(message, Request) and message.method.startswith("tasks/"):
        text = "there is no such task in a session of yours; call the tool without a task"
        error = WireError(text, reason=Code.FOREIGN_SESSION, rpc_code=INVALID_PARAMS)
        error.request_id = message.id
        raise RefusedError(200, error)
