"""What the console and the API work with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guard.config import Config
from guard.factors.passkeys import Passkeys
from guard.factors.totp import TotpFactor
from guard.intents import Publisher
from guard.notify.denial import Denials
from guard.ports import Clock, Identifier, Ledger, Store
from guard.stepup.ceremony import Ceremony

if TYPE_CHECKING:
    from guard.openid.flow import Flow


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything an application of this package needs.

    `ready` says whether calls are taken; `changed` returns the number of changes any process made to the state, once
    it is another than the one given. `openid` is there where `[console.oidc]` is set.
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
    openid: Flow | None = None
