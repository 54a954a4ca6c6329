"""What the console and the API work with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from guard.config import Config
from guard.factors.passkeys import Passkeys
from guard.factors.totp import TotpFactor
from guard.intents import Publisher
from guard.notify.denial import Denials
from guard.ports import Clock, Identifier, Ledger, Store
from guard.stepup.ceremony import Ceremony


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything an application of this package needs.

    `ready` says whether calls are taken; `changed` returns the number of changes any process made to the state, once
    it is another than the one given.
    """

    config: Config
    store: Store
    ledger: Ledger
    ceremony: Ceremony
    identifier: Identifier
    clock: Clock
    codes: TotpFactor
    passkeys: Passkeys
    denials: Denials
    intents: Publisher
    ready: Callable[[], bool]
    changed: Callable[[int], Awaitable[int]]
