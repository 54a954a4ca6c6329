"""The console's and API's services over a store, without a running guard."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from guard.config import Config
from guard.factors.intent import IntentFactor
from guard.factors.passkeys import Passkeys
from guard.factors.totp import TotpFactor
from guard.factors.webauthn import Site
from guard.identity.keys import KeyIdentifier
from guard.notify.denial import Denials
from guard.openid.flow import Flow
from guard.ports import Clock, Ledger
from guard.stepup.ceremony import Ceremony
from guard.store.seal import Keyring
from guard.store.sql import SqlStore
from guard.web.services import Services


def services(
    *,
    store: SqlStore,
    ledger: Ledger,
    ceremony: Ceremony,
    clock: Clock,
    keyring: Keyring,
    ready: Callable[[], bool] = lambda: True,
    config: Config | None = None,
    openid: Flow | None = None,
) -> Services:
    """With the default configuration unless told, and no news of other processes."""
    config = config or Config()
    passkeys = Passkeys(
        factors=store.factors,
        approvers=store.approvers,
        people=store.people,
        seal=keyring,
        ledger=ledger,
        clock=clock,
        site=Site.of("http://localhost:7001"),
        audience="guard",
    )
    return Services(
        config=config,
        store=store,
        ledger=ledger,
        ceremony=ceremony,
        identifier=KeyIdentifier(store, clock),
        clock=clock,
        codes=TotpFactor(store.factors, keyring, ledger, clock),
        passkeys=passkeys,
        intents=IntentFactor(
            store.intents, store.factors, store.agents, ledger, clock, audience="guard", tickets=None, ticketed=False
        ),
        denials=Denials(config.notify, store, ceremony, clock, escalate={}),
        ready=ready,
        openid=openid,
        changed=lambda _: anyio.sleep_forever(),
    )
