"""The two long-lived processes: what starts, in which order, and how it stops within two seconds.

`serve` and `run` put an `Engine` (the pipeline and its background tasks), the local socket for signers
and one of the two fronts around a `guard.app.Desk`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress

import anyio
import structlog
from starlette.applications import Starlette

from guard import __version__, oplog
from guard.app import Desk
from guard.audit.recovery import recover
from guard.config import Config
from guard.drift.age import AgeSignal
from guard.drift.assess import Assessor
from guard.drift.behaviour import Behaviour
from guard.drift.client import ClientSignal
from guard.drift.escalation import EscalationSignal
from guard.drift.hopping import HoppingSignal
from guard.drift.hours import HourSignal
from guard.drift.job import Job, JobSignal
from guard.drift.network import NetworkSignal
from guard.drift.places import PlaceSignal
from guard.drift.profiles import Profiles
from guard.drift.rate import RateSignal
from guard.drift.volume import VolumeSignal
from guard.errors import ConfigError, IdentityError, LedgerUnavailableError, StoreUnavailableError
from guard.geo import locator
from guard.identity.keys import KeyIdentifier
from guard.model import Json
from guard.policy.directory import PolicyDirectory, Refresh
from guard.proxy.catalogue import Catalogue
from guard.proxy.children import Children
from guard.proxy.habits import Habits
from guard.proxy.hosted import Hosted
from guard.proxy.http import McpFront
from guard.proxy.journal import Journal
from guard.proxy.listener import Listening, bind, server
from guard.proxy.local import bind_local, local_server
from guard.proxy.memory import Memory
from guard.proxy.param_headers import ParamHeaders
from guard.proxy.pausing import Pausing
from guard.proxy.pipeline import Pipeline
from guard.proxy.pipes import standard_streams
from guard.proxy.shown import shown
from guard.proxy.stdio import StdioFront
from guard.proxy.upstream import Upstreams
from guard.proxy.volumes import Volumes
from guard.proxy.withholding import Withholding
from guard.web.application import api
from guard.web.services import Services

log = structlog.get_logger()

_LOOK = 0.1
"""Seconds between two looks at what other processes changed."""
_EXPIRY = 1.0
"""Seconds between two looks at whether a key that something was opened with still holds."""
_REREAD = 1.0
"""Seconds between two looks at the policy files."""
_SWEEP = 60.0
"""Seconds between two sweeps of what people's logins and links leave behind."""
_INTENTS_KEPT = 31 * 86400.0
"""Seconds for which an intent that is over can still be listed; the ledger knows it for ever."""


class Changes:
    """Counts changes any process made to the state, and lets tasks wait for the next one without missing any."""

    def __init__(self) -> None:
        self._count, self._event = 0, anyio.Event()

    def note(self) -> None:
        """Count one, and wake everybody who waits."""
        self._count += 1
        self._event.set()
        self._event = anyio.Event()

    async def wait(self, seen: int) -> int:
        """The count, once it is another than the one `seen` before."""
        while self._count == seen:
            await self._event.wait()
        return self._count


def _directory(config: Config) -> PolicyDirectory:
    """The policies of a process that serves."""
    return PolicyDirectory(
        config.policies,
        config.servers.keys(),
        environments=config.environments,
        locate=locator(config),
        lasting=True,
    )


class Engine:
    """The pipeline with everything that lives as long as it does."""

    def __init__(self, desk: Desk, servers: Collection[str]) -> None:
        """Build it for these servers, and load their policies and pins.

        Raises:
            PolicyError: a policy file has a mistake.
            ConfigError: a database of `[geo]` cannot be read.
            StoreUnavailableError, LedgerUnavailableError: the state cannot be used.
        """
        config, store, clock = desk.config, desk.store, desk.clock
        self._desk, self._servers = desk, servers
        self._directory = _directory(config)
        self._directory.load()
        profiles = Profiles()
        self._memory = Memory(profiles, store.baselines, budget=config.drift.budget, report=self.report)
        self._volumes = Volumes(store.baselines, clock)
        self.catalogue = Catalogue(store.pins, desk.ledger)
        for name in servers:
            self.catalogue.load(name)
        self.identifier = KeyIdentifier(store, clock)
        self.ceremony = desk.ceremony()
        self._dispatcher, self._denials = desk.dispatcher(), desk.denials(self.ceremony)
        pausing, journal, assessor = self._pausing(), self._journal(), self._assessor(profiles)
        self._withholding = Withholding(
            config=config,
            results=store.results,
            challenges=store.challenges,
            recheck=self.identifier.recheck,
            volumes=self._volumes,
            assessor=assessor,
            ceremony=self.ceremony,
            pausing=pausing,
            journal=journal,
            clock=clock,
        )
        self.pipeline = Pipeline(
            config=config,
            policies=lambda: self._directory.current,
            identifier=self.identifier,
            catalogue=self.catalogue,
            memory=self._memory,
            volumes=self._volumes,
            assessor=assessor,
            ceremony=self.ceremony,
            pausing=pausing,
            withholding=self._withholding,
            journal=journal,
            clock=clock,
        )
        self.ready, self.changes = False, Changes()
        self._local: Listening | None = None

    def _pausing(self) -> Pausing:
        """The pause ladder."""
        desk = self._desk
        return Pausing(
            config=desk.config,
            ceremony=self.ceremony,
            challenges=desk.store.challenges,
            catalogue=self.catalogue,
            habits=Habits(desk.store.baselines, desk.clock),
            seal=desk.keyring,
            clock=desk.clock,
        )

    def _journal(self) -> Journal:
        """What writes the records of calls."""
        config = self._desk.config
        return Journal(
            self._desk.ledger,
            self._desk.redactor,
            same_uid=[name for name, one in config.servers.items() if one.command],
            watched=config.watched,
        )

    def _assessor(self, profiles: Profiles) -> Assessor:
        """Every signal of drift."""
        drift = self._desk.config.drift
        jobs = {
            name: Job(one.tools, frozenset(place.lower() for place in one.destinations))
            for name, one in self._desk.config.agents.items()
            if one.tools or one.destinations
        }
        return Assessor(
            [NetworkSignal(profiles), HourSignal(profiles), ClientSignal(profiles), AgeSignal(drift.key_age)],
            Behaviour(profiles, self._desk.keyring.digest_key, budget=drift.budget, read=shown),
            VolumeSignal(profiles),
            places=PlaceSignal(profiles),
            hopping=HoppingSignal(profiles, drift.strangers),
            escalation=EscalationSignal(profiles, self._desk.config.irreversible),
            rate=RateSignal(profiles),
            job=JobSignal(jobs) if jobs else None,
        )

    def stop(self) -> None:
        """Take no more calls and no more proofs, and let go of what is held; the front around it ends next."""
        self.pipeline.stop()
        if self._local is not None:
            self._local.stop(force=True)

    @asynccontextmanager
    async def running(self, what: str) -> AsyncIterator[None]:
        """Run the background tasks around a front."""
        desk = self._desk
        recover(desk.config.state, desk.store.challenges, desk.ledger, own_lane=desk.ledger.lane)
        watched = sorted(desk.config.watched.intersection(self._servers))
        started: dict[str, Json] = {"front": what, "version": __version__, "pid": os.getpid()}
        desk.ledger.append("guard.started", started | ({"watched": [*watched]} if watched else {}))
        for name in watched:
            log.warning("server.watched", server=name, remedy="nothing is held or refused while enforce = false")
        self._tell_policy(Refresh(changed=True))
        self._withholding.refresh()
        async with anyio.create_task_group() as group:
            await group.start(desk.ledger.run)
            await group.start(self.ceremony.run)
            await group.start(self._dispatcher.run)
            group.start_soon(self.catalogue.run)
            group.start_soon(self._memory.run)
            group.start_soon(self._volumes.run)
            group.start_soon(self._withholding.run)
            group.start_soon(self._look_around)
            group.start_soon(self._forget)
            group.start_soon(self._reread)
            async with self._local_socket():
                self.ready = True
                try:
                    yield
                finally:
                    self.ready = False
            group.cancel_scope.cancel()
        with suppress(StoreUnavailableError):
            self._memory.save()
        with suppress(StoreUnavailableError):
            self._volumes.save()
        with suppress(LedgerUnavailableError):
            desk.ledger.append("guard.stopped", {"front": what, "pid": os.getpid()})

    def api(self, *, local: bool) -> Starlette:
        """The application of one listener."""
        desk = self._desk
        services = Services(
            config=desk.config,
            store=desk.store,
            ledger=desk.ledger,
            ceremony=self.ceremony,
            identifier=self.identifier,
            clock=desk.clock,
            codes=desk.codes,
            passkeys=desk.passkeys,
            ready=lambda: self.ready,
            changed=self.changes.wait,
            denials=self._denials,
            intents=desk.intents,
            openid=None if local else desk.openid,
        )
        return api(services, local=local)

    def report(self, event: str, fields: Mapping[str, Json]) -> None:
        """Write a record of something that has happened whether or not it can be written."""
        try:
            self._desk.ledger.append(event, fields)
        except LedgerUnavailableError as error:
            log.error("event.unrecorded", what=event, detail=error.detail)  # noqa: TRY400

    @asynccontextmanager
    async def _local_socket(self) -> AsyncIterator[None]:
        """Serve the API to signers on `state/run/<pid>.sock`."""
        sock, path = bind_local(self._desk.config.state)
        self._local = local_server(self.api(local=True))
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._local.serve, [sock])
                yield
                self._local.stop(force=True)
        finally:
            path.unlink(missing_ok=True)

    async def _look_around(self) -> None:
        """Forget what other processes may have changed: keys, pins, withheld results."""
        store, last = self._desk.store, -1
        while True:
            await anyio.sleep(_LOOK)
            try:
                now = await anyio.to_thread.run_sync(store.changed)
                if now != last:
                    self.identifier.invalidate()
                    await anyio.to_thread.run_sync(self._reload_pins)
                    await anyio.to_thread.run_sync(self._withholding.refresh)
                    self.changes.note()
                last = now
            except StoreUnavailableError as error:
                log.warning("store.unavailable", detail=error.detail)

    async def _forget(self) -> None:
        """Erase tickets, logins and precedents whose time is up, and intents that are long over."""
        store, clock = self._desk.store, self._desk.clock
        while True:
            try:
                await anyio.to_thread.run_sync(lambda: store.people.sweep(clock.now()))
                await anyio.to_thread.run_sync(lambda: store.intents.purge(clock.now() - _INTENTS_KEPT))
            except StoreUnavailableError as error:
                log.warning("store.unavailable", detail=error.detail)
            await anyio.sleep(_SWEEP)

    def _reload_pins(self) -> None:
        for name in self._servers:
            self.catalogue.load(name)

    async def _reread(self) -> None:
        """Take changed policy files when all are right, and say so."""
        while True:
            await anyio.sleep(_REREAD)
            refresh = await anyio.to_thread.run_sync(self._directory.refresh)
            try:
                self._tell_policy(refresh)
            except LedgerUnavailableError as error:  # the policies are in force; calls that need the ledger are refused
                log.error("policy.unrecorded", detail=error.detail)  # noqa: TRY400

    def _tell_policy(self, refresh: Refresh) -> None:
        revision, ledger = self._directory.current.revision, self._desk.ledger
        if refresh.changed:
            policies = self._directory.current.policies
            authors: dict[str, Json] = {name: sorted(one.authors) for name, one in policies.items() if one.authors}
            ledger.append("policy.loaded", {"policy_revision": revision} | ({"authors": authors} if authors else {}))
            log.info("policy.loaded", revision=revision)
            for name in self._directory.undescribed:
                log.warning(
                    "server.undescribed", server=name, remedy="all of it needs a step-up until a policy tags it"
                )
        if refresh.mistakes:
            said = [str(mistake) for mistake in refresh.mistakes]
            ledger.append("policy.rejected", {"policy_revision": revision, "mistakes": [*said[:8]]})
            log.error("policy.rejected", mistakes=said, kept=revision)


# ------------------------------------------------------------------ the HTTP front


def serve(config: Config) -> int:
    """Run the HTTP front, the console and the local socket until a signal; the exit code.

    Raises:
        ConfigError: no server is configured, or an address cannot be bound.
    """
    if not config.servers:
        message = "no server is configured; add [servers.NAME] with a url or a command"
        raise ConfigError(message, file=config.file)
    oplog.to_stderr(config.log_level)
    desk = Desk(config)
    try:
        return anyio.run(_serve, desk, backend_options={"use_uvloop": True})
    finally:
        desk.close()


async def _serve(desk: Desk) -> int:
    config, servers = desk.config, tuple(desk.config.servers)
    sockets = [bind(config.proxy), bind(config.console)]
    engine = Engine(desk, servers)
    upstreams = Upstreams(config.servers, observe=engine.catalogue.observe)
    params = ParamHeaders(engine.catalogue.observe)
    children = Children(config, observe=params.observe, report=engine.report, clean=desk.redactor.text)
    front = McpFront(
        config,
        identifier=engine.identifier,
        handler=engine.pipeline,
        upstreams=upstreams,
        sessions=desk.store.sessions,
        clock=desk.clock,
        hosted=Hosted(config, children, params, desk.clock),
        record=desk.ledger.append,
    )
    listeners = [server(config.proxy, front), server(config.console, engine.api(local=False))]

    async def until_signal() -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                break
        engine.stop()
        front.stop()
        children.stop()
        for listening in listeners:
            listening.stop()

    async with engine.running("http"), anyio.create_task_group() as group:
        group.start_soon(until_signal)
        group.start_soon(_watch_streams, front)
        _say_where(config, servers)
        async with anyio.create_task_group() as serving:
            await serving.start(children.run)
            for listening, sock in zip(listeners, sockets, strict=True):
                serving.start_soon(_listen, listening, sock)
        upstreams.close()
        group.cancel_scope.cancel()
    return 0


async def _watch_streams(front: McpFront) -> None:
    """End the event streams of agents whose key was revoked or has expired; every other request shows it anew."""
    while True:
        await anyio.sleep(_EXPIRY)
        await front.recheck()


async def _listen(listening: Listening, sock: object) -> None:
    await listening.serve([sock])  # type: ignore[list-item]  # a socket


def _say_where(config: Config, servers: Collection[str]) -> None:
    for name in servers:
        scheme = "https" if config.proxy.tls_cert else "http"
        log.info("serving", server=name, url=f"{scheme}://{config.proxy.listen}/mcp/{name}")
    log.info("console", url=config.console.public_url)


# ------------------------------------------------------------------ the stdio front


def run(config: Config, name: str, key: str) -> int:
    """Run the stdio front around one tool server until its input ends or a signal comes; the exit code.

    Raises:
        ConfigError: the server is unknown, or is not a command.
        IdentityError: the key is missing or not valid; nothing was started.
    """
    named = config.servers.get(name)
    if named is None:
        known = ", ".join(sorted(config.servers)) or "none"
        message = f"no server {name} is configured; there is: {known}"
        raise ConfigError(message, file=config.file)
    if named.url:
        message = f"server {name} has a url: serve it with `guard serve` and connect to /mcp/{name}"
        raise ConfigError(message, file=config.file)
    oplog.to_stderr(config.log_level)
    desk = Desk(config)
    try:
        return anyio.run(_run, desk, name, key, backend_options={"use_uvloop": True})
    finally:
        desk.close()


async def _run(desk: Desk, name: str, key: str) -> int:
    principal = await KeyIdentifier(desk.store, desk.clock).identify(key)
    engine = Engine(desk, [name])
    front = StdioFront(desk.config, name, principal, engine.pipeline, observe=engine.catalogue.observe)

    def stop() -> None:
        engine.stop()
        front.stop()

    async def until_signal() -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                stop()

    async with anyio.create_task_group() as group:
        async with engine.running("stdio"):
            group.start_soon(until_signal)
            group.start_soon(_watch_key, engine, key, front, stop)
            with standard_streams() as (stdin, stdout):
                code = await front.run(stdin, stdout)
                await stdin.aclose()
                await stdout.aclose()
        group.cancel_scope.cancel()
    return code


async def _watch_key(engine: Engine, key: str, front: StdioFront, stop: Callable[[], None]) -> None:
    """End the front when the key it was started with is revoked or expires; take what else changed about the agent."""
    seen = 0
    while True:
        with anyio.move_on_after(_EXPIRY):  # a key that ran out changes nothing in the store
            seen = await engine.changes.wait(seen)
        try:
            front.principal = await engine.identifier.identify(key)
        except IdentityError as error:
            log.error("key.ended", principal=front.principal.subject, detail=error.public)  # noqa: TRY400
            stop()
            return
        except StoreUnavailableError:
            continue
