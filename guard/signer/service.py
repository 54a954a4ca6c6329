"""The signer's life: find guards, take their challenges, check, sign, post; until told to stop.

It holds the only session to the token and its own allow-list, and reads nothing of the guard but the API
on the sockets in `state/run/`. What is signed is rebuilt from the document after it was checked: bytes
handed over by somebody else are never signed.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import httpx2
import structlog
from anyio.abc import TaskGroup

from guard.errors import ConfigError, FactorUnavailableError, GuardError, ProofError
from guard.factors import ecdsa, signature
from guard.model import Json
from guard.ports import Clock
from guard.signer.settings import SignerSettings
from guard.signer.token import TokenKey
from guard.stepup.binding import document_bytes, parse_document

SIGN_SECONDS: Final = 1.0
OPEN_SECONDS: Final = 10.0
DISCOVER_SECONDS: Final = 0.2
FAREWELL_SECONDS: Final = 1.0
WAIT_SECONDS: Final = 20
_MINUTE: Final = 60.0
_RETRY_SECONDS: Final = 0.25

log = structlog.get_logger(__name__)


class Signer:
    """Answers the pending challenges of one agent with signatures of one key."""

    def __init__(self, settings: SignerSettings, key: TokenKey, clock: Clock) -> None:
        self._settings, self._key, self._clock = settings, key, clock
        self._public = ecdsa.public_key(base64.b64decode(settings.public_key))
        self._answered: dict[str, float] = {}
        self._recent: deque[float] = deque()
        self._worker = anyio.Lock()
        self._said_away = False
        self._fatal: ConfigError | None = None

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            ConfigError: the settings turned out to be wrong (PIN, key, module).
        """
        try:
            await self._open()
        except FactorUnavailableError as error:
            self._say_away(error)
        async with anyio.create_task_group() as tasks:
            await self._discover(tasks)
        if self._fatal is not None:
            raise self._fatal

    # ------------------------------------------------------------------ guards that come and go

    async def _discover(self, tasks: TaskGroup) -> None:
        attended: dict[Path, anyio.CancelScope] = {}
        while self._fatal is None:
            present = set(self._settings.run.glob("*.sock"))
            for path in present - attended.keys():
                attended[path] = anyio.CancelScope()
                tasks.start_soon(self._attend, path, attended[path])
            for path in attended.keys() - present:
                attended.pop(path).deadline = anyio.current_time() + FAREWELL_SECONDS  # its connection ends before
                log.info("guard left", socket=path.name)
            await anyio.sleep(DISCOVER_SECONDS)
        tasks.cancel_scope.cancel()

    async def _attend(self, path: Path, scope: anyio.CancelScope) -> None:
        """Answer one guard's challenges for as long as its socket exists."""
        transport = httpx2.AsyncHTTPTransport(uds=str(path))
        with scope:
            async with httpx2.AsyncClient(
                transport=transport, base_url="http://localhost", timeout=httpx2.Timeout(5.0, read=WAIT_SECONDS + 5.0)
            ) as client:
                cursor, known = "", False
                while True:
                    try:
                        cursor = await self._round(client, cursor)
                        if not known:
                            log.info("guard found", socket=path.name)
                        known = True
                    except (httpx2.HTTPError, ValueError) as error:
                        if known:
                            log.warning("guard does not answer", socket=path.name, error=type(error).__name__)
                        cursor, known = "", False
                        await anyio.sleep(_RETRY_SECONDS)
                    except ConfigError as error:
                        self._fatal = error
                        return

    async def _round(self, client: httpx2.AsyncClient, cursor: str) -> str:
        """Fetch, waiting for news after `cursor`, and answer; return the cursor to go on from."""
        query = {"state": "pending", "principal": self._settings.agent, "document": "1"}
        if cursor:
            query |= {"after": cursor, "wait": str(WAIT_SECONDS)}
        answer = await client.get("/v1/challenges", params=query)
        answer.raise_for_status()
        listing = answer.json()
        if not isinstance(listing, dict) or not isinstance(listing.get("challenges"), list):
            raise ValueError("not a list of challenges")  # noqa: TRY004 - what the guard sent, not a type of ours
        complete = True
        for one in listing["challenges"]:
            complete &= await self._answer(client, one)
        if not complete:
            await anyio.sleep(_RETRY_SECONDS)
            return ""
        return str(listing.get("cursor", ""))

    # ------------------------------------------------------------------ one challenge

    async def _answer(self, client: httpx2.AsyncClient, listed: object) -> bool:
        """Sign one listed challenge; False when that should be tried again soon."""
        document = listed.get("document") if isinstance(listed, dict) else None
        now = self._clock.now()
        self._answered = {known: until for known, until in self._answered.items() if until > now}
        identifier = document.get("challenge_id") if isinstance(document, dict) else None
        if not isinstance(identifier, str) or identifier in self._answered:
            return True
        try:
            checked = parse_document(
                document, audience=self._settings.audience, principal=self._settings.agent, now=now
            )
        except ProofError as error:
            self._answered[identifier] = now + _MINUTE
            log.warning("not signed", challenge=identifier, because=error.public)
            return True
        expires = checked["exp"]
        assert isinstance(expires, int)
        if not self._allowed(checked):
            self._answered[identifier] = expires
            log.warning("not signed", challenge=identifier, because="the signer's allow-list does not cover it")
            return True
        return await self._sign_and_post(client, identifier, checked, float(expires))

    async def _sign_and_post(
        self, client: httpx2.AsyncClient, identifier: str, checked: Mapping[str, Json], expires: float
    ) -> bool:
        async with self._worker:
            if identifier in self._answered:  # another guard of the same store showed it, too
                return True
            if not self._within_rate():
                return False
            try:
                signed = await self._sign(document_bytes(checked))
            except FactorUnavailableError as error:
                self._say_away(error)
                return False
            self._said_away = False
            self._recent.append(self._clock.mono())
            log.info(
                "signed",
                challenge=identifier,
                server=checked["upstream"],
                tool=checked["tool"],
                digest=checked["call_digest"],
            )
            proof = {
                "kind": signature.KIND,
                "factor": self._settings.factor,
                "signature": base64.b64encode(signed).decode("ascii"),
            }
            answer = await client.post(f"/v1/challenges/{identifier}/proofs", json=proof)
            if answer.is_server_error:
                log.warning("the guard could not take the proof", challenge=identifier, status=answer.status_code)
                return False
            self._answered[identifier] = expires
            if not answer.is_success:
                log.warning("proof refused", challenge=identifier, status=answer.status_code, answer=answer.text[:200])
            return True

    def _allowed(self, checked: Mapping[str, Json]) -> bool:
        allow = self._settings.allow
        server, tool = str(checked["upstream"]), str(checked["tool"])
        return any(fnmatchcase(server, glob) for glob in allow.servers) and any(
            fnmatchcase(tool, glob) for glob in allow.tools
        )

    def _within_rate(self) -> bool:
        while self._recent and self._recent[0] <= self._clock.mono() - _MINUTE:
            self._recent.popleft()
        return len(self._recent) < self._settings.allow.per_minute

    # ------------------------------------------------------------------ the token

    async def _open(self) -> None:
        """Open the session if there is none; the module may take its time, but not forever."""
        if not self._key.ready:
            try:
                with anyio.fail_after(OPEN_SECONDS):
                    await anyio.to_thread.run_sync(self._key.open, abandon_on_cancel=True)
            except TimeoutError as error:
                raise FactorUnavailableError(f"the token did not open within {OPEN_SECONDS:.0f} s") from error
            log.info("token open", token=self._settings.token, key=self._settings.key)

    async def _sign(self, message: bytes) -> bytes:
        """Sign within a second, and believe the token only after verifying what it gave."""
        await self._open()
        try:
            with anyio.fail_after(SIGN_SECONDS):
                signed = await anyio.to_thread.run_sync(self._key.sign, message, abandon_on_cancel=True)
        except TimeoutError as error:
            raise FactorUnavailableError(f"the token did not sign within {SIGN_SECONDS:.0f} s") from error
        try:
            ecdsa.check(self._public, signed, message)
        except ProofError as error:
            raise FactorUnavailableError("the token's signature is not by the enrolled key") from error
        return signed

    def _say_away(self, error: GuardError) -> None:
        """Say once per outage that the token is away."""
        if not self._said_away:
            log.warning("token away; challenges stay pending", because=error.public, detail=error.detail)
        self._said_away = True
