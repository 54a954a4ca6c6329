"""From the settings of channels to the channels. Only what is configured is imported: each kind brings a client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from guard.channels import Apprise, Channel, Desktop, Smtp, Webhook
from guard.notify.dispatch import Route
from guard.ports import Clock, Notifier


def routes(channels: Mapping[str, Channel], clock: Clock) -> dict[str, Route]:
    """Every channel, ready to deliver.

    Raises:
        ConfigError: a secret is not where it should be, or a library is missing.
    """
    return {name: Route(notifier(one, clock), frozenset(one.groups), one.timeout) for name, one in channels.items()}


def notifier(channel: Channel, clock: Clock) -> Notifier:
    """What delivers to one channel.

    Raises:
        ConfigError: as `routes`.
    """
    match channel:
        case Webhook():
            from guard.notify.webhook import WebhookChannel  # noqa: PLC0415 - see above

            return WebhookChannel(channel, clock)
        case Smtp():
            from guard.notify.smtp import SmtpChannel  # noqa: PLC0415 - see above

            return SmtpChannel(channel, clock)
        case Desktop():
            from guard.notify.desktop import DesktopChannel  # noqa: PLC0415 - see above

            return DesktopChannel()
        case Apprise():
            from guard.notify.apprise import AppriseChannel  # noqa: PLC0415 - see above

            return AppriseChannel(channel)
        case _:
            assert_never(channel)
