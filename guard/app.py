"""Composition root: which object meets which. No logic of its own.

A `Desk` is what every process of a deployment needs, the short-lived verbs of the CLI included;
`guard.runtime` puts the pipeline and a front around one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from guard.audit.ledger import FileLedger
from guard.audit.redact import Redactor
from guard.clock import SystemClock
from guard.config import ChangeSystem, Config, load
from guard.errors import ConfigError
from guard.factors import break_glass, totp, webauthn
from guard.factors.approval import ApprovalFactor, Authenticator
from guard.factors.break_glass import BreakGlassFactor
from guard.factors.given import GivenFactor
from guard.factors.intent import IntentFactor
from guard.factors.passkeys import Passkeys
from guard.factors.signature import CallSignatureFactor, SignatureFactor
from guard.factors.totp import TotpFactor
from guard.notify.build import routes
from guard.notify.denial import Denials
from guard.notify.dispatch import Dispatcher
from guard.quorum import GIVEN, INTENT
from guard.stepup.ceremony import Ceremony
from guard.stepup.limits import Bounds
from guard.store.seal import Keyring
from guard.store.sql import SqlStore

if TYPE_CHECKING:
    from guard.tickets.changes import Changes

if TYPE_CHECKING:
    from guard.openid.flow import Flow


class Desk:
    """Configuration, state and ledger of one process; everything is opened when it is first needed."""

    def __init__(self, config: Config) -> None:
        """Take a checked configuration."""
        self.config, self.clock = config, SystemClock()
        self._open = ExitStack()

    @cached_property
    def keyring(self) -> Keyring:
        """Keys for sealing and for keyed digests."""
        return Keyring.open(self.config.state)

    @cached_property
    def store(self) -> SqlStore:
        """The state every process shares."""
        store = SqlStore.open(self.config.state, self.keyring)
        self._open.callback(store.close)
        return store

    @cached_property
    def ledger(self) -> FileLedger:
        """A ledger lane of this process's own."""
        ledger = FileLedger.open(self.config.state, self.store.lanes, self.clock, solo=self.config.approval.solo)
        self._open.callback(ledger.close)
        return ledger

    @cached_property
    def redactor(self) -> Redactor:
        """What keeps secrets out of records."""
        return Redactor(self.keyring.digest_key)

    @cached_property
    def intents(self) -> IntentFactor:
        """What publishes signed intents and lets them consent."""
        store, tickets = self.store, self.config.tickets
        return IntentFactor(
            store.intents,
            store.factors,
            store.agents,
            self.ledger,
            self.clock,
            audience=self.config.deployment,
            tickets=change_system(tickets) if tickets else None,
            ticketed=tickets is not None and tickets.required,
        )

    @cached_property
    def given(self) -> GivenFactor:
        """What keeps what people allow beyond the call they approve."""
        store = self.store
        return GivenFactor(
            store.intents, store.challenges, store.factors, self.ledger, self.clock, audience=self.config.deployment
        )

    @cached_property
    def codes(self) -> TotpFactor:
        """The one-time codes of people."""
        return TotpFactor(self.store.factors, self.keyring, self.ledger, self.clock)

    @cached_property
    def openid(self) -> Flow | None:
        """Logins with an OpenID provider, where one is set.

        Raises:
            ConfigError: the extra `oidc` is not installed, or the secret or the certificates cannot be read.
        """
        console = self.config.console
        if (issuer := console.oidc) is None:
            return None
        try:
            from guard.openid.flow import Flow  # noqa: PLC0415 - an extra
            from guard.openid.provider import Provider  # noqa: PLC0415
        except ImportError as error:
            raise ConfigError("[console.oidc] needs the extra: pip install 'mcp-step-up-guard[oidc]'") from error
        try:
            provider = Provider(issuer, issuer.client_secret.read(), self.clock)
        except OSError as error:
            raise ConfigError(f"the certificates of [console.oidc] cannot be read: {error}") from error
        return Flow(
            provider,
            seal=self.keyring,
            tickets=self.store.people.tickets,
            clock=self.clock,
            public_url=console.public_url,
        )

    @cached_property
    def passkeys(self) -> Passkeys:
        """The passkeys of people."""
        store, config = self.store, self.config
        return Passkeys(
            factors=store.factors,
            approvers=store.approvers,
            people=store.people,
            seal=self.keyring,
            ledger=self.ledger,
            clock=self.clock,
            site=webauthn.Site.of(config.console.public_url),
            audience=config.deployment,
        )

    @cached_property
    def emergency_codes(self) -> TotpFactor:
        """The code generators that break glass."""
        return TotpFactor(self.store.factors, self.keyring, self.ledger, self.clock, kind=break_glass.KIND)

    def dispatcher(self) -> Dispatcher:
        """What tells people, through every channel.

        Raises:
            ConfigError: a channel cannot be used.
        """
        config, approval = self.config, self.config.approval
        return Dispatcher(
            routes(config.notify, self.clock),
            self.store,
            self.ledger,
            self.clock,
            public_url=config.console.public_url,
            escalate=approval.escalate,
            after=approval.notify_after,
            per_minute=approval.notices_per_minute,
        )

    def denials(self, ceremony: Ceremony) -> Denials:
        """What takes orders to deny from channels.

        Raises:
            ConfigError: a channel cannot be used.
        """
        escalate = self.config.approval.escalate
        return Denials(self.config.notify, self.store, ceremony, self.clock, escalate=escalate)

    def ceremony(self) -> Ceremony:
        """The interactive side of step-ups, with every factor that is built in."""
        store, config = self.store, self.config
        approval, emergency = config.approval, config.break_glass
        methods: dict[str, Authenticator] = {totp.KIND: self.codes, webauthn.KIND: self.passkeys}
        return Ceremony(
            store,
            self.ledger,
            self.clock,
            verifiers={
                "signature": SignatureFactor(store.factors, audience=config.deployment),
                "call_signature": CallSignatureFactor(store.factors, audience=config.deployment),
                INTENT: self.intents,
                GIVEN: self.given,
                "approval": ApprovalFactor(
                    store.approvers,
                    store.agents,
                    methods,
                    solo=approval.solo,
                    escalate=approval.escalate,
                ),
                break_glass.KIND: BreakGlassFactor(
                    store.approvers,
                    store.agents,
                    store.emergencies,
                    self.emergency_codes,
                    quota=emergency.quota,
                    window=emergency.window,
                ),
            },
            cool_down=approval.cool_down,
            bounds=Bounds(
                pending=approval.pending,
                per_approver=approval.pending_per_approver,
                back_off_after=approval.back_off_after,
                back_off=approval.back_off,
            ),
            remember=approval.remember,
            beforehand={INTENT: self.intents, GIVEN: self.given},
            giver=self.given,
            redact=self.redactor.text,
        )

    def close(self) -> None:
        """Seal the ledger lane and release the store."""
        self._open.close()


@contextmanager
def desk(file: Path) -> Iterator[Desk]:
    """The desk of the configuration in `file`, closed at the end.

    Raises:
        ConfigError: the configuration has a mistake.
    """
    services = Desk(load(file))
    try:
        yield services
    finally:
        services.close()


def change_system(settings: ChangeSystem) -> Changes:
    """The change system that tickets are in; nothing is asked yet."""
    from guard.tickets.changes import Changes  # noqa: PLC0415 - an HTTP client, for deployments with tickets
    from guard.tickets.jira import Jira  # noqa: PLC0415 - as above
    from guard.tickets.servicenow import ServiceNow  # noqa: PLC0415 - as above

    jira = settings.system == "jira"
    usual = ("Awaiting implementation", "Implementing") if jira else ("-2", "-1")
    return Changes(
        Jira(start_field=settings.start_field, end_field=settings.end_field) if jira else ServiceNow(),
        url=settings.url,
        user=settings.user,
        secret_file=settings.secret_file,
        states=settings.states or frozenset(usual),
        approvals=frozenset() if jira else settings.approvals,
        timeout=settings.timeout,
    )
