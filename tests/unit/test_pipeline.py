"""The story of one message, with everything real but the tool server and its caller: what is said when things fail."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import pytest

from guard.audit.redact import Redactor
from guard.clock import SystemClock
from guard.config import Config
from guard.drift.assess import Assessor
from guard.drift.behaviour import Behaviour
from guard.drift.network import NetworkSignal
from guard.drift.places import PlaceSignal
from guard.drift.profiles import Profiles
from guard.drift.volume import VolumeSignal
from guard.errors import LedgerUnavailableError, StoreUnavailableError, UpstreamError, WireError
from guard.identity.keys import KeyIdentifier
from guard.identity.lifecycle import Lifecycle
from guard.model import Challenge, Json, Proof, ProofClass, Source, State
from guard.policy.directory import PolicyDirectory
from guard.proxy.catalogue import Catalogue
from guard.proxy.exchange import Arrival, Ending, Gauge, Outcome
from guard.proxy.habits import Habits
from guard.proxy.journal import Journal
from guard.proxy.memory import Memory
from guard.proxy.pausing import READABLE, Pausing
from guard.proxy.pipeline import Pipeline
from guard.proxy.volumes import Volumes
from guard.proxy.withholding import EACH, Withholding
from guard.reasons import Code
from guard.stepup.ceremony import Ceremony
from guard.store.seal import Keyring
from guard.store.sql import SqlStore
from guard.wire.decode import decode
from guard.wire.era import Era
from tests import nouns
from tests.world_store import WorldLedger

pytestmark = pytest.mark.anyio

POLICY = """\
server: desk
owner: desk-team
tools:
  note: {sensitivity: internal}
  wipe: {sensitivity: sensitive, require: consent}
  few: {sensitivity: public, limits: {calls: 2, per: 1d, reason: more than two is odd}}
  ruled: {sensitivity: public, rules: [{when: args.n > 1, require: consent, reason: more than one is for people}]}
  seldom: {sensitivity: public, limits: {calls: 2, per: 1m, reason: seldom}}
  export: {sensitivity: internal, limits: {bytes: 400, per: 1h, reason: exports are for people}}
  read: {sensitivity: sensitive}
  table: {sensitivity: internal, limits: {rows: 2, per: 1h}}
  closed: {sensitivity: public, callers: {agents: somebody-else, reason: not for robots}}
"""


class Word:
    """A factor that believes everybody."""

    def verify(self, challenge: Challenge, evidence: dict[str, Json], now: float) -> Proof:
        del evidence
        return Proof(proof_class=ProofClass.CONSENT, kind="word", factor=challenge.nonce, subject="ann", at=now)

    def stands(self, challenge: Challenge, proof: Proof) -> bool:
        return bool(challenge and proof)


@dataclass
class Caller:
    """The caller's end and the tool server's: `ran` is called in the tool server's place."""

    ran: Callable[[], Outcome] = lambda: Outcome(ending=Ending.OK)
    forwards: int = 0
    answers: list[bytes] = field(default_factory=list)
    gone: bool = False

    async def wait_gone(self) -> None:
        await anyio.sleep_forever()

    async def forward(self, gauge: Gauge | None = None) -> Outcome:
        self.forwards += 1
        outcome = self.ran()
        if gauge is None or gauge.passes(outcome.body, len(outcome.body)):
            return outcome
        return replace(outcome, result_bytes=len(outcome.body), withheld=True)

    async def answer(self, body: bytes, *, status: int = 200) -> None:
        del status
        self.answers.append(body)

    @property
    def text(self) -> str:
        return str(json.loads(self.answers[-1])["result"]["content"][0]["text"])


class Guard:
    """The pipeline on a store of its own."""

    def __init__(self, folder: Path, *, hold: float = 0, **server: Json) -> None:
        (folder / "tool_policies").mkdir()
        (folder / "tool_policies" / "desk.yaml").write_text(POLICY)
        config = Config.model_validate(
            {"servers": {"desk": {"url": "http://localhost/mcp"} | server}, "proxy": {"hold": hold}}
        )
        self.store, self.clock = SqlStore.open(folder, Keyring.open(folder)), SystemClock()
        self.ledger, self.profiles = WorldLedger(), Profiles()
        self.memory = Memory(self.profiles, self.store.baselines)
        self.volumes = Volumes(self.store.baselines, SystemClock())
        self.key = Lifecycle(self.store, self.ledger, self.clock).add_agent("robot", owner="oli")
        self.identifier = KeyIdentifier(self.store, self.clock)
        self.ceremony = Ceremony(self.store, self.ledger, self.clock, verifiers={"word": Word()}, cool_down=60)
        policies = PolicyDirectory(folder / "tool_policies").load()
        catalogue = Catalogue(self.store.pins, self.ledger)
        pausing = Pausing(
            config=config,
            ceremony=self.ceremony,
            challenges=self.store.challenges,
            catalogue=catalogue,
            habits=Habits(self.store.baselines, self.clock),
            seal=Keyring.open(folder),
            clock=self.clock,
        )
        assessor = Assessor(
            [NetworkSignal(self.profiles)],
            Behaviour(self.profiles, b"k" * 32),
            VolumeSignal(self.profiles),
            places=PlaceSignal(self.profiles),
        )
        journal = Journal(self.ledger, Redactor(b"k" * 32), watched=config.watched)
        self.withholding = Withholding(
            config=config,
            results=self.store.results,
            challenges=self.store.challenges,
            recheck=self.identifier.recheck,
            volumes=self.volumes,
            assessor=assessor,
            ceremony=self.ceremony,
            pausing=pausing,
            journal=journal,
            clock=self.clock,
        )
        self.pipeline = Pipeline(
            config=config,
            policies=lambda: policies,
            identifier=self.identifier,
            catalogue=catalogue,
            pausing=pausing,
            withholding=self.withholding,
            memory=self.memory,
            volumes=self.volumes,
            assessor=assessor,
            ceremony=self.ceremony,
            journal=journal,
            clock=self.clock,
        )

    async def call(
        self,
        tool: str,
        caller: Caller | None = None,
        *,
        state: str = "",
        address: str = "192.0.2.7",
        **arguments: Json,
    ) -> Caller:
        caller = caller or Caller()
        params = {"name": tool, "arguments": arguments} | ({"requestState": state} if state else {})
        raw = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
        arrival = Arrival(
            message=decode(raw),
            era=Era.LEGACY,
            principal=await self.identifier.identify(self.key),
            source=Source(transport="http", address=address),
            server="desk",
        )
        await self.pipeline.handle(arrival, caller)
        return caller

    async def approved(self) -> Challenge:
        await self.call("wipe")
        (pending,) = self.store.challenges.find(states=frozenset({State.PENDING}))
        return await self.ceremony.prove(pending.id, "word", {})

    @property
    def outcomes(self) -> list[Json]:
        return [fields["outcome"] for event, fields in self.ledger.records if event == "call.concluded"]

    @property
    def doubts(self) -> str:
        """The findings about the call that was judged last."""
        return [str(fields.get("findings", "")) for event, fields in self.ledger.records if event == "decision.made"][
            -1
        ]


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    made = Guard(tmp_path)
    yield made
    made.store.close()


def broken() -> Outcome:
    raise UpstreamError(sent=True)


def defect() -> Outcome:
    raise RuntimeError("a defect in a front")


async def test_a_call_whose_outcome_nobody_knows_is_not_said_to_be_not_executed(guard: Guard) -> None:
    caller = await guard.call("note", Caller(broken))
    assert "not executed" not in caller.text
    assert "perhaps executed" in caller.text
    assert "Do not repeat this call" in caller.text


async def test_a_defect_after_the_call_was_sent_is_not_said_to_be_harmless(guard: Guard) -> None:
    assert "perhaps executed" in (await guard.call("note", Caller(defect))).text


async def test_an_agent_with_every_place_taken_can_still_cancel_but_not_call(guard: Guard) -> None:
    guard.pipeline._places = 1
    cancelled = Caller()

    async def cancel() -> None:
        message = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
        arrival = Arrival(
            message=decode(json.dumps(message).encode()),
            era=Era.LEGACY,
            principal=await guard.identifier.identify(guard.key),
            source=Source(transport="http", address="192.0.2.7"),
            server="desk",
        )
        await guard.pipeline.handle(arrival, cancelled)

    class Slow(Caller):
        async def forward(self, gauge: Gauge | None = None) -> Outcome:
            await cancel()
            self.other = await guard.call("note")
            return await super().forward(gauge)

    slow = Slow()
    await guard.call("note", slow)
    assert (slow.forwards, cancelled.forwards) == (1, 1)
    assert Code.OVERLOADED.meaning in slow.other.text


async def test_calls_held_together_over_a_limit_are_within_it_when_its_window_has_passed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = Guard(tmp_path, hold=30)
    for number in range(2):
        await guard.call("seldom", n=number)
    callers = [Caller() for _ in range(4)]
    async with anyio.create_task_group() as group:
        for caller in callers:
            group.start_soon(lambda caller=caller: guard.call("seldom", caller, n=9))
        while guard.ledger.events.count("challenge.opened") + guard.ledger.events.count("challenge.joined") < 4:
            await anyio.lowlevel.checkpoint()
        while not (found := guard.store.challenges.find(states=frozenset({State.PENDING}))):  # its record comes first
            await anyio.lowlevel.checkpoint()
        now = SystemClock.now
        monkeypatch.setattr(SystemClock, "now", staticmethod(lambda: now() + 70))
        await guard.ceremony.prove(found[0].id, "word", {})
    assert sum(caller.forwards for caller in callers) == 2, "the approval ended with the first that did not need it"
    guard.store.close()


@pytest.mark.parametrize("ran", [broken, defect])
async def test_a_forward_that_fails_has_one_outcome_on_record_and_it_is_unknown(
    guard: Guard, ran: Callable[[], Outcome]
) -> None:
    await guard.call("note", Caller(ran))
    assert guard.outcomes == ["unknown"]


async def test_a_call_that_ran_is_not_recorded_as_refused_when_the_store_goes_away_behind_it(
    guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    approved = await guard.approved()

    def away(*_: object, **__: object) -> bool:
        raise StoreUnavailableError

    def ran() -> Outcome:
        monkeypatch.setattr(guard.store.challenges, "swap", away, raising=True)
        return Outcome(ending=Ending.OK)

    caller = await guard.call("wipe", Caller(ran))
    assert approved.state is State.SATISFIED
    assert (caller.forwards, caller.answers, guard.outcomes[-1:]) == (1, [], ["ok"])


async def test_what_a_call_taught_is_stored_while_the_guard_runs(guard: Guard) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(guard.memory.run)
        await guard.call("note")
        credential = (await guard.identifier.identify(guard.key)).credential
        with anyio.fail_after(15):
            while guard.store.baselines.get(credential) is None:
                await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    assert "192.0.2.0/24" in (guard.store.baselines.get(credential) or "")


async def test_a_profile_that_made_room_for_others_while_a_call_ran_costs_the_call_nothing(guard: Guard) -> None:
    principal = await guard.identifier.identify(guard.key)

    def ran() -> Outcome:
        del guard.profiles._profiles[principal.credential]
        return Outcome(ending=Ending.OK)

    caller = await guard.call("note", Caller(ran))
    assert (caller.answers, guard.outcomes) == ([], ["ok"])


async def test_arguments_nobody_can_read_are_not_put_before_a_person(guard: Guard) -> None:
    caller = await guard.call("wipe", text="x" * READABLE)
    assert "at most" in caller.text
    assert not guard.store.challenges.find()


async def test_a_call_that_needs_no_one_may_be_long(guard: Guard) -> None:
    assert (await guard.call("note", text="x" * READABLE)).forwards == 1


async def test_who_waits_while_the_store_goes_away_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard(tmp_path, hold=5)
    reading = guard.store.challenges.get

    def away(challenge_id: str) -> Challenge | None:
        raise StoreUnavailableError(detail=challenge_id)

    monkeypatch.setattr(guard.store.challenges, "get", away)
    caller = await guard.call("wipe")
    monkeypatch.setattr(guard.store.challenges, "get", reading)
    guard.store.close()
    assert "state database" in caller.text


async def test_the_grant_of_a_removed_approver_runs_nothing(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    await guard.approved()
    monkeypatch.setattr(Word, "stands", lambda *_: False)
    caller = await guard.call("wipe")
    assert caller.forwards == 0
    assert "PAUSED" in caller.text


async def test_who_may_not_call_is_refused_in_the_owners_words_and_nothing_waits(guard: Guard) -> None:
    caller = await guard.call("closed")
    assert caller.forwards == 0
    assert "not for robots" in caller.text
    assert not guard.store.challenges.find()
    (decided,) = [fields for event, fields in guard.ledger.records if event == "decision.made"]
    assert decided["decision"] == "deny"
    assert decided["reasons"][0] == {"code": "not_allowed", "by": "desk-team", "evidence": "not for robots"}  # type: ignore[index,call-overload]


async def test_the_owners_words_reach_the_agent_the_challenge_and_the_ledger(guard: Guard) -> None:
    words = "more than one is for people"
    assert (await guard.call("ruled", n=1)).forwards == 1
    caller = await guard.call("ruled", n=2)
    assert caller.forwards == 0
    assert words in json.dumps(json.loads(caller.answers[-1]))
    (pending,) = guard.store.challenges.find(states=frozenset({State.PENDING}))
    assert words in [reason.evidence for reason in pending.reasons]
    opened = [fields for event, fields in guard.ledger.records if event == "challenge.opened"]
    decided = [fields for event, fields in guard.ledger.records if event == "decision.made"]
    assert words in json.dumps(opened[-1], default=str)
    assert words in json.dumps(decided[-1], default=str)
    failed = await guard.call("ruled", n="two")
    assert failed.forwards == 0
    assert words in json.dumps(json.loads(failed.answers[-1]))


async def test_over_its_limit_an_agent_needs_a_proof_for_each_further_call(guard: Guard) -> None:
    assert [(await guard.call("few", n=n)).forwards for n in range(3)] == [1, 1, 0]
    (pending,) = guard.store.challenges.find(states=frozenset({State.PENDING}))
    assert "more than two is odd" in str(pending.reasons[-1])
    await guard.ceremony.prove(pending.id, "word", {})
    assert (await guard.call("few", n=2)).forwards == 1
    assert (await guard.call("few", n=3)).forwards == 0
    assert (await guard.call("note")).forwards == 1


async def test_an_approval_that_its_call_did_not_need_in_the_end_is_left_for_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard, caller, held = Guard(tmp_path, hold=40), Caller(), anyio.Event()
    for n in range(2):
        await guard.call("few", n=n)
    over = guard.volumes.judged

    async def wait_gone() -> None:
        held.set()
        await anyio.sleep_forever()

    monkeypatch.setattr(caller, "wait_gone", wait_gone)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: guard.call("few", caller, n=2))
        with anyio.fail_after(30):
            await held.wait()
        (waiting,) = guard.store.challenges.find(states=frozenset({State.PENDING}))
        monkeypatch.setattr(guard.volumes, "judged", lambda _, tags: tags)  # the window of the limit passes
        await guard.ceremony.prove(waiting.id, "word", {})
    assert caller.forwards == 1
    monkeypatch.setattr(guard.volumes, "judged", over)
    assert await guard.ceremony.grants(waiting.digest) == ()
    assert guard.ledger.last("challenge.staled")["because"] == "its call came to need nothing"
    guard.store.close()


async def test_a_call_whose_tool_server_asked_for_more_input_counts_once(guard: Guard) -> None:
    asks = Caller(ran=lambda: Outcome(ending=Ending.OK, state="more?"))
    assert (await guard.call("few", n=0)).forwards == 1
    assert (await guard.call("few", asks, n=1)).forwards == 1
    assert (await guard.call("few", state="less?", n=1)).forwards == 0
    assert (await guard.call("few", state="more?", n=2)).forwards == 0
    assert (await guard.call("few", state="more?", n=1)).forwards == 1
    assert (await guard.call("few", state="more?", n=1)).forwards == 0


async def test_calls_at_the_same_moment_do_not_pass_a_limit_together(guard: Guard) -> None:
    callers = [Caller() for _ in range(20)]
    async with anyio.create_task_group() as group:
        for number, caller in enumerate(callers):
            group.start_soon(lambda caller=caller, number=number: guard.call("few", caller, n=number))
    assert sum(caller.forwards for caller in callers) == 2


# ------------------------------------------------------------------ watching


@pytest.fixture
def watching(tmp_path: Path) -> Iterator[Guard]:
    made = Guard(tmp_path, enforce=False)
    yield made
    made.store.close()


async def test_a_watched_call_runs_once_and_is_recorded_as_it_would_have_been_decided(watching: Guard) -> None:
    caller = await watching.call("wipe")
    assert caller.forwards == 1
    assert not caller.answers
    assert not watching.store.challenges.find(states=frozenset(State))
    [(_, decided)] = [record for record in watching.ledger.records if record[0] == "decision.made"]
    assert (decided["decision"], decided["watched"], decided["requirement"]) == ("challenge", True, "consent")
    assert [reason["code"] for reason in decided["reasons"]] == ["tag_sensitive", "required"]  # type: ignore[index, union-attr]
    [(_, ended)] = [record for record in watching.ledger.records if record[0] == "call.concluded"]
    assert (ended["outcome"], ended["watched"]) == ("ok", True)


async def test_whom_the_owner_lets_call_nothing_is_let_through_and_recorded_where_calls_are_only_watched(
    watching: Guard,
) -> None:
    assert (await watching.call("closed")).forwards == 1
    [(_, decided)] = [record for record in watching.ledger.records if record[0] == "decision.made"]
    assert (decided["decision"], decided["watched"]) == ("deny", True)


async def test_a_call_that_is_permitted_anyway_says_that_it_was_watched(watching: Guard) -> None:
    assert (await watching.call("note")).forwards == 1
    assert all(fields["watched"] is True for event, fields in watching.ledger.records if event != "agent.added")


async def test_what_is_not_understood_is_refused_where_calls_are_only_watched(watching: Guard) -> None:
    caller = Caller()
    raw = b'{"jsonrpc": "2.0", "id": 1, "method": "tools/unheard_of", "params": {}}'
    with pytest.raises(WireError):
        decode(raw)
    watching.pipeline.stop()
    await watching.call("wipe", caller)
    assert caller.forwards == 0


async def test_a_ledger_that_cannot_be_written_stops_watched_calls_too(
    watching: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise LedgerUnavailableError

    monkeypatch.setattr(watching.ledger, "append", full)
    assert (await watching.call("wipe")).forwards == 0


async def test_nothing_says_watched_where_calls_are_held(guard: Guard) -> None:
    await guard.call("wipe")
    assert not any("watched" in fields for _, fields in guard.ledger.records)


@pytest.mark.parametrize(
    ("top", "server", "watched"),
    [(True, None, False), (False, None, True), (True, False, True), (False, True, False)],
)
def test_a_server_may_say_otherwise_than_the_top_level(top: bool, server: bool | None, watched: bool) -> None:
    table: dict[str, Json] = {"url": "http://localhost/mcp"} | ({} if server is None else {"enforce": server})
    config = Config.model_validate({"enforce": top, "servers": {"desk": table}})
    assert (config.watched == {"desk"}) is watched


# ------------------------------------------------------------------ results that are withheld


def brings(size: int) -> Callable[[], Outcome]:
    body = json.dumps({"jsonrpc": "2.0", "id": 99, "result": {"content": [{"type": "text", "text": "x" * size}]}})
    return lambda: Outcome(ending=Ending.OK, body=body.encode(), result_bytes=len(body))


def results(guard: Guard) -> list[str]:
    return [event for event in guard.ledger.events if event.startswith("result.")]


async def withheld(guard: Guard, size: int = 500) -> tuple[Caller, Challenge]:
    caller = await guard.call("export", Caller(brings(size)), of="all")
    (pending,) = guard.store.challenges.find(states=frozenset({State.PENDING}))
    return caller, pending


async def test_a_result_over_the_limit_is_withheld_and_after_consent_the_same_call_gets_it_without_running(
    guard: Guard,
) -> None:
    first, pending = await withheld(guard)
    assert first.text.startswith("WITHHELD: export on desk ran, once; what came back needs a person of group")
    assert "xxx" not in first.text
    assert (pending.kind, pending.requirement.label) == ("result", "consent")
    assert "400 bytes in 3600 s" in str(pending.reasons[0])
    assert (await guard.call("export", of="all")).forwards == 0, "joins"
    await guard.ceremony.prove(pending.id, "word", {})
    again = await guard.call("export", of="all")
    assert (again.forwards, again.text) == (0, "x" * 500)
    assert json.loads(again.answers[-1])["id"] == 1, "under the id of the request it answers"
    challenge = guard.store.challenges.get(pending.id)
    assert challenge is not None
    assert challenge.state is State.COMPLETED
    assert results(guard) == ["result.withheld", "result.released"]
    assert not guard.store.results.digests()


async def test_after_a_release_the_same_call_runs_anew_and_is_asked_for_anew(guard: Guard) -> None:
    _, pending = await withheld(guard)
    await guard.ceremony.prove(pending.id, "word", {})
    await guard.call("export", of="all")
    caller, another = await withheld(guard)
    assert (caller.forwards, another.id == pending.id, another.digest == pending.digest) == (1, False, False)


async def test_consent_to_a_result_runs_no_call_and_consent_to_a_call_releases_no_result(guard: Guard) -> None:
    call, first = await withheld(guard)
    await guard.ceremony.prove(first.id, "word", {})
    kept = guard.store.results.oldest(next(iter(guard.store.results.digests())))
    assert kept is not None
    assert (call.forwards, first.digest == kept.call_digest) == (1, False)
    assert not await guard.ceremony.grants(kept.call_digest)


async def test_a_result_that_is_refused_is_never_delivered_and_the_agent_is_told_that_the_call_ran(
    guard: Guard,
) -> None:
    _, pending = await withheld(guard)
    await guard.ceremony.decline(pending.id, by="ann", because="too much")
    told = await guard.call("export", of="all")
    assert told.forwards == 0
    assert told.text.startswith("WITHHELD, executed: the call ran, once; what came back was withheld")
    assert "too much" in told.text
    assert results(guard) == ["result.withheld", "result.dropped"]
    assert (await guard.call("export", of="all")).forwards == 0, "while the refusal is fresh, the call stays refused"
    kept = guard.store.results.oldest(next(iter(guard.store.results.digests())))
    assert kept is not None
    assert guard.store.results.answer(kept.digest) is None


async def test_what_nobody_asks_for_is_erased_when_its_time_is_up_or_it_was_refused(
    guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    await withheld(guard)
    await guard.withholding.sweep()
    assert not [event for event in results(guard) if event == "result.dropped"]
    later = guard.clock.now() + 1_000
    monkeypatch.setattr(guard.clock, "now", lambda: later)
    await guard.withholding.sweep()
    assert results(guard) == ["result.withheld", "result.dropped"]
    told = await guard.call("export", of="all")
    assert (told.forwards, "out of time" in told.text or "expired" in told.text) == (0, True), told.text
    assert not guard.store.results.digests(), "who was told may call anew"
    assert results(guard) == ["result.withheld", "result.dropped"]


async def test_a_restart_forgets_no_withheld_result(guard: Guard, tmp_path: Path) -> None:
    _, pending = await withheld(guard)
    await guard.ceremony.prove(pending.id, "word", {})
    guard.withholding._own.clear()
    guard.withholding.refresh()
    assert b"xxxx" not in (tmp_path / "guard.db").read_bytes() + (tmp_path / "guard.db-wal").read_bytes(), "sealed"
    assert (await guard.call("export", of="all")).text == "x" * 500


async def test_one_of_many_identical_calls_gets_a_released_result(guard: Guard) -> None:
    _, pending = await withheld(guard)
    await guard.ceremony.prove(pending.id, "word", {})
    callers = [Caller() for _ in range(5)]
    async with anyio.create_task_group() as group:
        for caller in callers:
            group.start_soon(lambda caller=caller: guard.call("export", caller, of="all"))
    assert sum(bool(caller.answers) and caller.text == "x" * 500 for caller in callers) == 1
    assert results(guard) == ["result.withheld", "result.released"]


async def test_a_release_that_a_crash_cut_off_is_told_and_not_made_again(guard: Guard) -> None:
    _, pending = await withheld(guard)
    await guard.ceremony.prove(pending.id, "word", {})
    (grant,) = await guard.ceremony.grants(pending.digest)
    assert await guard.ceremony.consume(grant)
    told = await guard.call("export", of="all")
    assert (told.forwards, told.text[:18], "already spent" in told.text) == (0, "WITHHELD, executed", True)


async def test_an_agent_that_left_while_its_call_ran_finds_the_result_withheld(guard: Guard) -> None:
    def left() -> Outcome:
        caller.gone = True
        return brings(500)()

    caller = Caller(left)
    await guard.call("export", caller, of="all")
    assert caller.answers == []
    assert (await guard.call("export", of="all")).text.startswith("WITHHELD: export on desk ran, once")


async def test_a_result_whose_agent_left_at_the_last_moment_is_lost_and_the_next_call_is_told_so(guard: Guard) -> None:
    class Leaving(Caller):
        @property
        def gone(self) -> bool:
            return "result.released" in guard.ledger.events

        @gone.setter
        def gone(self, _: bool) -> None:
            """It is not said beforehand."""

    _, pending = await withheld(guard)
    await guard.ceremony.prove(pending.id, "word", {})
    await guard.call("export", Leaving(), of="all")
    assert results(guard) == ["result.withheld", "result.released", "result.dropped"]
    told = await guard.call("export", Caller(brings(500)), of="all")
    assert (told.forwards, told.text[:18], "already spent" in told.text) == (0, "WITHHELD, executed", True)
    assert (await guard.call("export", Caller(brings(500)), of="all")).forwards == 1, "who was told may call anew"


async def test_a_ledger_that_is_full_lets_no_result_out(guard: Guard) -> None:
    _, pending = await withheld(guard)
    await guard.ceremony.prove(pending.id, "word", {})
    guard.ledger.away = True
    assert "xxx" not in (await guard.call("export", of="all")).text
    guard.ledger.away = False
    assert (await guard.call("export", of="all")).text == "x" * 500


async def test_only_so_much_is_kept_and_what_is_not_is_said_to_have_run(guard: Guard) -> None:
    for number in range(EACH):
        await guard.call("export", Caller(brings(500)), of=number)
    more = await guard.call("export", Caller(brings(500)), of="more")
    assert (more.forwards, more.text[:18]) == (1, "WITHHELD, executed")
    assert "no more results can be kept" in more.text
    assert results(guard)[-2:] == ["result.withheld", "result.dropped"]


async def test_a_result_that_cannot_be_asked_for_just_now_is_kept(
    guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> Challenge:
        raise StoreUnavailableError

    with monkeypatch.context() as patch:
        patch.setattr(guard.ceremony, "open", away)
        caller = await guard.call("export", Caller(brings(500)), of="all")
    assert caller.text.startswith("WITHHELD, executed: the call ran, once; what came back is withheld for now")
    assert "Repeat exactly this call later" in caller.text
    again = await guard.call("export", of="all")
    assert (again.forwards, again.text[:8]) == (0, "WITHHELD")


async def test_results_add_up_and_those_within_the_limit_pass(guard: Guard) -> None:
    assert not (await guard.call("export", Caller(brings(200)), of=1)).answers, "the front relayed it"
    assert (await guard.call("export", Caller(brings(200)), of=2)).text.startswith("WITHHELD")


async def test_rows_are_limited_as_well(guard: Guard) -> None:
    lines = json.dumps({"jsonrpc": "2.0", "id": 9, "result": {"content": [{"type": "text", "text": "1\n2\n3"}]}})
    caller = await guard.call("table", Caller(lambda: Outcome(ending=Ending.OK, body=lines.encode())))
    assert "3 rows, of 2 rows in 3600 s" in caller.text


async def a_month(guard: Guard) -> None:
    """Let the agent have 10 KB a day, until now."""
    principal, now = await guard.identifier.identify(guard.key), guard.clock.now()
    await guard.memory.recall(principal, "desk")
    signal = VolumeSignal(guard.profiles)
    for day in range(30, 0, -1):
        call = replace(nouns.call(principal=principal), received=now - day * 86_400)
        signal.learn(call, frozenset(), 10_000)


async def test_an_unusual_bulk_of_a_sensitive_tool_is_withheld_until_a_person_consents(guard: Guard) -> None:
    await a_month(guard)
    assert not (await guard.call("read", Caller(brings(5_000)), n=1)).answers
    caller = await guard.call("read", Caller(brings(900_000)), n=2)
    assert caller.text.startswith("WITHHELD: read on desk ran, once")
    (pending,) = guard.store.challenges.find(states=frozenset({State.PENDING}))
    assert (pending.requirement.label, pending.findings[0].reason.code) == ("consent", Code.MUCH_DATA)
    assert not (await guard.call("read", Caller(brings(5_000)), n=3)).answers, "what nobody got counts for nothing"
    await guard.ceremony.prove(pending.id, "word", {})
    assert len((await guard.call("read", n=2)).text) == 900_000
    assert not (await guard.call("read", Caller(brings(900_000)), n=4)).answers, "as much again today"


async def test_a_bulk_of_an_internal_tool_and_of_a_call_a_person_wanted_is_not_withheld(guard: Guard) -> None:
    await a_month(guard)
    await guard.approved()
    assert not (await guard.call("wipe", Caller(brings(900_000)))).answers
    assert not (await guard.call("note", Caller(brings(900_000)))).answers


async def test_a_call_whose_results_are_limited_cannot_be_a_task(guard: Guard) -> None:
    caller = Caller()
    params = {"name": "export", "arguments": {}, "task": {}}
    raw = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    arrival = Arrival(
        message=decode(raw),
        era=Era.LEGACY,
        principal=await guard.identifier.identify(guard.key),
        source=Source(transport="http"),
        server="desk",
    )
    await guard.pipeline.handle(arrival, caller)
    assert (caller.forwards, "cannot be a task" in caller.text) == (0, True)


async def test_where_calls_are_only_watched_nothing_is_withheld(tmp_path: Path) -> None:
    guard = Guard(tmp_path, enforce=False)
    caller = await guard.call("export", Caller(brings(500)), of="all")
    assert (caller.forwards, caller.answers, guard.store.results.digests()) == (1, [], frozenset())
    assert results(guard) == ["result.withheld"]
    assert guard.ledger.last("result.withheld")["watched"] is True
    lines = json.dumps({"jsonrpc": "2.0", "id": 9, "result": {"content": [{"type": "text", "text": "1\n2\n3"}]}})
    events = 'data: {"jsonrpc":"2.0","method":"notifications/progress","params":{}}\n\ndata: ' + lines + "\n\n"
    await guard.call("table", Caller(lambda: Outcome(ending=Ending.OK, body=events.encode(), result_bytes=99)))
    assert (guard.ledger.last("result.withheld")["tool"], guard.ledger.last("result.withheld")["rows"]) == ("table", 3)
    guard.store.close()


@pytest.mark.parametrize(
    ("tool", "ran"), [("note", Caller().ran), ("note", broken), ("note", defect), ("wipe", broken)]
)
async def test_a_call_is_in_flight_until_it_ended_however_it_ended(
    guard: Guard, tool: str, ran: Callable[[], Outcome]
) -> None:
    await guard.call("note")
    await guard.call(tool, Caller(ran))
    await guard.call("note", address="203.0.113.9")
    assert "new_network" in guard.doubts
    assert "two_places" not in guard.doubts


async def test_a_call_from_elsewhere_while_another_runs_is_in_two_places(guard: Guard) -> None:
    began, go_on = anyio.Event(), anyio.Event()

    class Slow(Caller):
        async def forward(self, gauge: Gauge | None = None) -> Outcome:
            del gauge
            began.set()
            await go_on.wait()
            return Outcome(ending=Ending.OK)

    await guard.call("note")
    async with anyio.create_task_group() as group:
        group.start_soon(guard.call, "note", Slow())
        with anyio.fail_after(30):
            await began.wait()
        await guard.call("note", address="203.0.113.9")
        go_on.set()
    assert "two_places" in guard.doubts
    assert "203.0.113.0/24 while one from 192.0.2.0/24 was running" in guard.doubts
