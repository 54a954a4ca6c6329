"""Agent keys: how they are made, recognised, and turned into a principal.

A key is `grd_`, 32 random base62 characters (190 bits) and a 6-character checksum: the CRC-32 of the
random part in base62. The prefix and checksum let secret scanners find leaked keys without asking
anybody, and let the guard refuse mistyped ones without a look-up. Only SHA-256 of a key is ever stored.
"""

from __future__ import annotations

import hmac
import secrets
import string
import zlib
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import anyio
import anyio.to_thread

from guard.errors import IdentityError
from guard.model import Principal
from guard.ports import Clock, Store
from guard.reasons import Code

PREFIX: Final = "grd_"
_ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM: Final = 32
_CHECK: Final = 6
_CACHED_SECONDS: Final = 30.0
_CACHED_KEYS: Final = 4096


def _checksum(body: str) -> str:
    """CRC-32 of ASCII text as 6 base62 digits, most significant first."""
    rest, digits = zlib.crc32(body.encode("ascii")), ""
    for _ in range(_CHECK):
        rest, digit = divmod(rest, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits


def new_key() -> str:
    """A fresh key of 42 ASCII characters."""
    body = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM))
    return PREFIX + body + _checksum(body)


def well_formed(key: str) -> bool:
    """Whether the text has the shape and checksum of a key; says nothing about who holds it."""
    body, check = key[len(PREFIX) : -_CHECK], key[-_CHECK:]
    return (
        len(key) == len(PREFIX) + _RANDOM + _CHECK
        and key.startswith(PREFIX)
        and all(character in _ALPHABET for character in key[len(PREFIX) :])
        and hmac.compare_digest(_checksum(body), check)
    )


def key_digest(key: str) -> str:
    """SHA-256 of the key, 64 lower-case hex digits: the only form in which a key is kept."""
    return sha256(key.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Known:
    """A verified key: whom it proves, and until when that may be believed without asking the store."""

    principal: Principal
    fresh_until: float
    expires: float


class KeyIdentifier:
    """Turns an agent's key into its principal (implements `guard.ports.Identifier`).

    Verified keys are remembered for 30 s, by digest. The owner of this object calls `invalidate` whenever
    `Store.changed` moved, so that a revocation made by any process counts at once. Refusals are never
    remembered: a key enrolled a moment ago works.
    """

    __slots__ = ("_clock", "_generation", "_known", "_store", "_under_way")

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._generation = 0
        self._under_way: dict[str, anyio.Event] = {}

    def invalidate(self) -> None:
        """Forget every verified key; look-ups under way are not remembered either."""
        self._generation += 1
        self._known.clear()

    async def identify(self, credential: str) -> Principal:
        """The principal this key proves.

        Raises:
            IdentityError: no key, or one that is malformed, unknown, expired or revoked.
            StoreUnavailableError: the key cannot be looked up.
        """
        if not credential:
            raise IdentityError(reason=Code.NO_CREDENTIAL)
        digest = key_digest(credential)
        known = self._known.get(digest)
        if known is None or self._clock.mono() >= known.fresh_until:
            if not well_formed(credential):
                raise IdentityError(detail="not the shape of an agent key")
            known = await self._look_up(digest)
        if known.expires and known.expires <= self._clock.now():
            self._known.pop(digest, None)
            raise IdentityError(detail="the key has expired")
        return known.principal

    def recheck(self, principal: Principal) -> None:
        """Look again, past the cache, whether the key behind this principal still holds; blocks.

        Raises:
            IdentityError: it was revoked or expired meanwhile, or says something else about the agent now.
            StoreUnavailableError: the key cannot be looked up.
        """
        agent = self._store.agents.get(principal.subject)
        if agent is None or agent.revoked:
            raise IdentityError(detail=f"agent {principal.subject} is revoked")
        if agent.groups != principal.groups or agent.claims != principal.claims:
            said = "groups or claims of this agent changed since the call was judged; call again"
            raise IdentityError(said, reason=Code.STALE)
        now = self._clock.now()
        for credential in self._store.agents.credentials(principal.subject):
            ended = credential.revoked or (credential.expires and credential.expires <= now)
            if credential.thumbprint == principal.credential and not ended:
                return
        raise IdentityError(detail=f"the key {principal.credential} of {principal.subject} has ended")

    async def _look_up(self, digest: str) -> _Known:
        """Ask the store, once for all calls that need the same key at the same time."""
        self._known.pop(digest, None)
        while (other := self._under_way.get(digest)) is not None:
            await other.wait()
            if (known := self._known.get(digest)) is not None:  # else it failed, or was invalidated meanwhile
                return known
        generation, done = self._generation, anyio.Event()
        self._under_way[digest] = done
        try:
            known = await anyio.to_thread.run_sync(self._read, digest)
            if generation == self._generation:
                if len(self._known) >= _CACHED_KEYS:
                    self._known.pop(next(iter(self._known)))
                self._known[digest] = known
        finally:
            del self._under_way[digest]
            done.set()
        return known

    def _read(self, digest: str) -> _Known:
        """Ask the store, in a worker thread."""
        credential = self._store.agents.credential(digest)
        if credential is None or not hmac.compare_digest(credential.digest, digest):
            raise IdentityError(detail="no such key")
        agent = self._store.agents.get(credential.agent)
        if credential.revoked or agent is None or agent.revoked:
            raise IdentityError(detail=f"a revoked key of {credential.agent}")
        return _Known(
            Principal(
                subject=agent.name,
                credential=credential.thumbprint,
                owner=agent.owner,
                groups=agent.groups,
                claims=agent.claims,
                since=credential.created,
            ),
            fresh_until=self._clock.mono() + _CACHED_SECONDS,
            expires=credential.expires,
        )
