"""What the agents do all the time: one function a story, each of which knows how it must end.

Every call carries a `tag` of its own, by which the journal of the tool server tells what ran how often.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from speech import LEGACY, Heard, Manner, Message, Pipe, Speaker, UnansweredError, text_of
from stage import Stage

MEGABYTE: Final = 1 << 20
HTTP_OK: Final = 200
KEPT: Final = 50
HELLO: Final = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "soak", "version": "1"}}


@dataclass
class Book:
    """What happened: outcomes by story, and for each tag who called what and how often it may have run."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    calls: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Tag to agent and server."""
    ran: set[str] = field(default_factory=set)
    """Tags answered with a result: they ran once."""
    never: set[str] = field(default_factory=set)
    """Tags that must not have run."""
    replaced: list[str] = field(default_factory=list)
    """Challenges in whose place the same call got another one before its client saw them end."""
    unanswered: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    requests: int = 0

    def fault(self, story: str, what: str) -> None:
        """Something that must not happen."""
        self.outcomes[story, "WRONG"] += 1
        if len(self.wrong) < KEPT:
            self.wrong.append(f"{story}: {what}")


@dataclass
class Actor:
    """One worker: an agent with a connection, at the tool servers behind one guard."""

    name: str
    stage: Stage
    book: Book
    speaker: Speaker
    random: random.Random
    story: str = ""
    kept: str = ""
    """A session at the tool server over HTTP that lasts as long as the worker."""

    def note(self, outcome: str) -> None:
        """Count how the story went."""
        self.book.outcomes[self.story, outcome] += 1

    def chance(self, share: float) -> bool:
        """True in this share of the cases."""
        return self.random.random() < share

    def tagged(self, server: str, **more: object) -> dict[str, Any]:
        """Arguments of a call that has not been made before."""
        tag = f"t{len(self.book.calls)}"
        self.book.calls[tag] = self.name, server
        return {"tag": tag, **more}

    async def call(
        self, server: str, tool: str, arguments: dict[str, Any], *, session: str = "", **more: object
    ) -> Heard:
        """Call a tool; `modern` and `how` are those of the speaker."""
        modern, how = bool(more.get("modern")), more.get("how", Manner())
        message = self.speaker.request("tools/call", {"name": tool, "arguments": arguments}, modern=modern)
        if not modern and tool == "narrate":
            message["params"]["_meta"] = {"progressToken": arguments["tag"]}
        self.book.requests += 1
        return await self.speaker.post(server, message, session, how)  # type: ignore[arg-type]  # the only ones

    def judge(self, heard: Heard, arguments: dict[str, Any], *, may_break: bool = False) -> str:
        """How a call ended; a faulty ending is on the book."""
        if heard.left:
            return "left"
        if not heard.whole:
            if not may_break:
                self.book.fault(self.story, f"cut off: {heard.status} {heard.size} B {text_of(heard.messages)}")
            return "cut off"
        verdict = verdict_on(heard.answer) if heard.status == HTTP_OK else f"status {heard.status}"
        if verdict == "no answer":
            self.book.fault(self.story, f"ended without an answer: {heard.status} {text_of(heard.messages)}")
        if verdict == "ran":
            self.book.ran.add(arguments["tag"])
        return verdict

    async def session(self, server: str) -> str:
        """Begin a legacy session; empty when the tool server is away."""
        heard = await self.speaker.post(server, self.speaker.request("initialize", HELLO))
        self.book.requests += 1
        session = heard.headers.get("mcp-session-id", "")
        if session:
            await self.speaker.post(server, {"jsonrpc": "2.0", "method": "notifications/initialized"}, session)
        return session


def verdict_on(answer: Message) -> str:
    """ran, paused, failed (the tool or the guard says why not), error, or no answer at all."""
    result = answer.get("result")
    if isinstance(result, dict):
        if result.get("_meta", {}).get("guard/challenge"):
            return "paused"
        return "failed" if result.get("isError") else "ran"
    return "error" if "error" in answer else "no answer"


def challenge_of(answer: Message) -> str:
    """The id of the challenge of a paused call."""
    return str(answer["result"]["_meta"]["guard/challenge"]["id"])


Story = Callable[[Actor], Awaitable[None]]

# ------------------------------------------------------------------ over HTTP


async def permitted(actor: Actor) -> None:
    """A harmless call of either era runs once."""
    server = actor.random.choice(("web", "desk"))
    arguments = actor.tagged(server)
    heard = await actor.call(server, "note", arguments, modern=actor.chance(0.5))
    actor.note(actor.judge(heard, arguments))


async def paused(actor: Actor) -> None:
    """A privileged call is paused, twice under one challenge unless more is required meanwhile, and does not run."""
    server = actor.random.choice(("web", "desk"))
    arguments = actor.tagged(server)
    actor.book.never.add(arguments["tag"])
    found = list[str]()
    for modern in (False, True):
        heard = await actor.call(server, "wipe", arguments, modern=modern)
        if (verdict := actor.judge(heard, arguments)) == "paused":
            found.append(challenge_of(heard.answer))
        actor.note(verdict)
    if len(set(found)) > 1:
        actor.book.replaced.append(found[0])


async def voted(actor: Actor) -> None:
    """An approved call runs once and is paused anew when it comes a third time; a denied one does not run."""
    server, approve = actor.random.choice(("web", "desk")), actor.chance(0.7)
    arguments = actor.tagged(server)
    heard = await actor.call(server, "wipe", arguments)
    if (verdict := actor.judge(heard, arguments)) != "paused":
        actor.note(verdict)
        return
    counted = await actor.stage.vote(challenge_of(heard.answer), approve=approve)
    if counted is None:
        actor.book.never.add(arguments["tag"])
        actor.note("nobody to vote")
        return
    if not counted:
        actor.book.fault(actor.story, "a right vote was refused")
    if not approve:
        actor.book.never.add(arguments["tag"])
    again = actor.judge(await actor.call(server, "wipe", arguments), arguments)
    actor.note(f"{'approved' if approve else 'denied'}: {again}")
    if again in {"paused", "ran" if not approve else "paused"}:
        actor.book.fault(actor.story, f"after the vote: {again}")
    if again == "ran":
        third = actor.judge(await actor.call(server, "wipe", arguments), arguments)
        actor.note(f"once more after it ran: {third}")  # refused, when too many wait for the people already
        if third == "ran":
            actor.book.fault(actor.story, "a spent grant let a call through")


async def left(actor: Actor) -> None:
    """A caller leaves while its call is held, is under way, or streams its answer."""
    server, how = actor.random.choice(("web", "desk")), Manner(leave_after=actor.random.uniform(0.005, 0.3))
    tool, more = actor.random.choice((("wipe", {}), ("slow", {"seconds": 0.5}), ("big", {"bytes": 4 * MEGABYTE})))
    arguments = actor.tagged(server, **more)
    if tool == "wipe":
        actor.book.never.add(arguments["tag"])
    heard = await actor.call(server, tool, arguments, modern=actor.chance(0.5), how=how)
    actor.note(actor.judge(heard, arguments, may_break=server == "web"))


async def cancelled(actor: Actor) -> None:
    """A call of a session is cancelled by a message, held or under way; it has an answer all the same."""
    session = await actor.session("desk")
    other = actor.stage.speaker(actor.name)
    try:
        tool, more = actor.random.choice((("wipe", {}), ("slow", {"seconds": 1.0})))
        arguments = actor.tagged("desk", **more)
        if tool == "wipe":
            actor.book.never.add(arguments["tag"])
        call = asyncio.create_task(actor.call("desk", tool, arguments, session=session))
        await asyncio.sleep(actor.random.uniform(0.0, 0.3))
        number = actor.speaker.request("ping", {})["id"] - 1  # ids count up, and this worker made only the call
        note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}}
        await other.post("desk", note, session)
        actor.note(actor.judge(await call, arguments))
    finally:
        other.close()
        await _ended(actor, session)


async def crashed(actor: Actor) -> None:
    """The child process dies in a call: that is answered, and the next call too."""
    arguments = actor.tagged("frail")
    modern = actor.chance(0.5)
    verdict = actor.judge(await actor.call("frail", "exit", arguments, modern=modern), arguments)
    if verdict == "ran":
        actor.book.fault(actor.story, "a call that killed its server was answered as if it had run")
    actor.note(verdict)
    following = actor.tagged("frail")
    actor.note(f"then {actor.judge(await actor.call('frail', 'note', following, modern=modern), following)}")


async def big(actor: Actor) -> None:
    """A big answer comes whole, to a caller who reads slowly, too."""
    server, size = actor.random.choice(("web", "desk")), actor.random.randint(1, 4) * MEGABYTE
    arguments = actor.tagged(server, bytes=size)
    how = Manner(read_pause=0.01) if actor.chance(0.3) else Manner()
    heard = await actor.call(server, "big", arguments, how=how)
    verdict = actor.judge(heard, arguments, may_break=server == "web")
    if verdict == "ran" and len(heard.answer["result"]["content"][0]["text"]) != size:
        actor.book.fault(actor.story, "a big answer is not what the tool said")
    actor.note(verdict)


async def narrated(actor: Actor) -> None:
    """Progress comes as events ahead of the answer, all of it."""
    server, steps = actor.random.choice(("web", "desk")), actor.random.randint(1, 200)
    session = await actor.session(server)
    arguments = actor.tagged(server, steps=steps)
    heard = await actor.call(server, "narrate", arguments, session=session)
    verdict = actor.judge(heard, arguments, may_break=server == "web")
    if verdict == "ran" and len(heard.messages) != steps + 1:
        actor.book.fault(actor.story, f"{steps} steps of progress became {len(heard.messages) - 1}")
    actor.note(verdict)
    if server == "desk":
        await _ended(actor, session)


async def listened(actor: Actor) -> None:
    """A session keeps its event stream open beside its calls; some sessions are never ended."""
    session = await actor.session("desk")
    listener = actor.stage.speaker(actor.name)
    headers = {"Mcp-Session-Id": session, "MCP-Protocol-Version": LEGACY}
    how = Manner(leave_after=actor.random.uniform(0.1, 1.0))
    stream = asyncio.create_task(listener.send("desk", method="GET", headers=headers, how=how))
    for _ in range(actor.random.randint(1, 3)):
        arguments = actor.tagged("desk")
        actor.note(actor.judge(await actor.call("desk", "note", arguments, session=session), arguments))
    heard = await stream
    if not heard.left and not heard.whole:
        actor.book.fault(actor.story, f"the event stream broke off: {heard.status}")
    if actor.chance(0.7):
        await _ended(actor, session)


async def resumed(actor: Actor) -> None:
    """A connection breaks in a call of a session; its answer is fetched over another one."""
    session = await actor.session("desk")
    arguments = actor.tagged("desk", seconds=0.6)
    how = Manner(leave_after=actor.random.uniform(0.05, 0.5))
    heard = await actor.call("desk", "slow", arguments, session=session, how=how)
    if heard.left and heard.last_event:
        headers = {"Mcp-Session-Id": session, "MCP-Protocol-Version": LEGACY, "Last-Event-ID": heard.last_event}
        heard = await actor.speaker.send("desk", method="GET", headers=headers)
        if actor.judge(heard, arguments) != "ran":
            actor.book.fault(actor.story, f"the answer is not to be had: {heard.status} {text_of(heard.messages)}")
        actor.note("fetched")
    else:
        actor.note(actor.judge(heard, arguments))
    await _ended(actor, session)


async def kept(actor: Actor) -> None:
    """A session outlives the tool server behind it: the caller never hears that it is gone."""
    actor.kept = actor.kept or await actor.session("web")
    if not actor.kept:
        actor.note("no session yet")
        return
    arguments = actor.tagged("web")
    heard = await actor.call("web", "note", arguments, session=actor.kept)
    if heard.status != HTTP_OK:
        actor.book.fault(actor.story, f"a session that was begun is answered {heard.status}")
    actor.note(actor.judge(heard, arguments))


async def refused(actor: Actor) -> None:
    """What is no request of a client is refused with its status, and nobody else notices."""
    speaker = actor.stage.speaker(actor.name)
    body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
    cases: tuple[tuple[str, int, Callable[[], Awaitable[Heard]]], ...] = (
        ("oversized", 413, lambda: speaker.send("web", b" " * (5 * MEGABYTE))),
        ("headers", 431, lambda: speaker.send("web", body, headers={f"X-{n}": "1" for n in range(200)})),
        ("long header", 431, lambda: speaker.send("web", body, headers={"X-Long": "x" * 100_000})),
        ("garbage", 400, lambda: speaker.send("web", b'{"jsonrpc":"2.0","id":1,"id":2}')),
        ("credential", 401, lambda: speaker.send("web", body, headers={"Authorization": "Bearer grd_nobody"})),
        ("packed", 415, lambda: speaker.send("web", body, headers={"Content-Encoding": "gzip"})),
        ("nowhere", 404, lambda: speaker.send("nowhere", body)),
    )
    name, status, ask = actor.random.choice(cases)
    actor.book.requests += 1
    heard = await ask()
    speaker.close()
    if heard.status != status:
        actor.book.fault(actor.story, f"{name}: {heard.status} instead of {status}")
    actor.note(f"{name} {heard.status}")


async def dawdled(actor: Actor) -> None:
    """A body that does not arrive in time is ended by the guard, and so is a head."""
    speaker = actor.stage.speaker(actor.name)
    actor.book.requests += 1
    headers = {"Content-Length": "400"} if actor.chance(0.5) else {}
    heard = await speaker.send("web", b" " * 60, headers=headers, how=Manner(send_pause=0.5))
    speaker.close()
    actor.note(f"status {heard.status}")
    if heard.status not in {408, 0}:
        actor.book.fault(actor.story, f"a slow body was answered {heard.status}")


async def listed(actor: Actor, server: str = "") -> None:
    """The tools are listed."""
    server = server or actor.random.choice(("web", "desk"))
    actor.book.requests += 1
    heard = await actor.speaker.post(server, actor.speaker.request("tools/list", {}, modern=actor.chance(0.5)))
    actor.note("listed" if heard.answer.get("result") else "failed")
    if not heard.whole:
        actor.book.fault(actor.story, f"cut off: {heard.status}")


async def _ended(actor: Actor, session: str) -> None:
    """End a session by DELETE."""
    if session:
        await actor.speaker.send("desk", method="DELETE", headers={"Mcp-Session-Id": session})


STORIES: Final[tuple[tuple[Story, int], ...]] = (
    (permitted, 50), (paused, 8), (voted, 8), (left, 10), (cancelled, 5), (crashed, 4), (big, 4), (narrated, 6),
    (kept, 8), (resumed, 4), (listened, 5), (refused, 6), (dawdled, 1), (listed, 4),
)  # fmt: skip

# ------------------------------------------------------------------ over stdio


async def piped(actor: Actor, pipe: Pipe) -> None:
    """One call through `guard run`: permitted, paused, voted on, cancelled, or with progress."""
    kind = actor.random.choice(("note", "note", "note", "wipe", "vote", "cancel", "narrate", "big"))
    more = {"narrate": {"steps": 20}, "big": {"bytes": MEGABYTE}, "cancel": {"seconds": 0.5}}.get(kind, {})
    arguments = actor.tagged("pipe", **more)
    tool = {"vote": "wipe", "cancel": "slow"}.get(kind, kind)
    actor.book.requests += 1
    answer = await pipe.call(tool, arguments, 0.1 if kind == "cancel" else None)
    verdict = "left" if answer is None else verdict_on(answer)
    if verdict == "ran":
        actor.book.ran.add(arguments["tag"])
    if verdict == "paused" and answer is not None and kind == "vote":
        counted = await actor.stage.vote(challenge_of(answer), approve=True)
        answer = await pipe.call(tool, arguments)
        verdict = f"approved: {verdict_on(answer)}" if answer and counted else "nobody to vote"
        if verdict == "approved: ran":
            actor.book.ran.add(arguments["tag"])
        elif counted and answer is not None:
            actor.book.fault(actor.story, f"after the vote: {verdict}")
    if kind == "wipe":
        actor.book.never.add(arguments["tag"])
    actor.note(f"{kind} {verdict}")


async def act(actor: Actor, story: Story) -> None:
    """Tell one story; a request without an end is on the book."""
    actor.story = getattr(story, "__name__", "listed")
    try:
        await story(actor)
    except UnansweredError as error:
        actor.book.unanswered.append(f"{actor.story}: {error}")
        actor.note("UNANSWERED")
    except ConnectionError as error:
        actor.book.fault(actor.story, f"the guard takes no connection: {error}")
