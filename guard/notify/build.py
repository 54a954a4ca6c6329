"""From the settings of channels to the channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from guard.channels import Apprise, Channel, Desktop, Smtp, Webhook
from guard.notify.apprise import AppriseChannel
from guard.notify.desktop import DesktopChannel
from guard.notify.dispatch import Route
from guard.notify.smtp import SmtpChannel
from guard.notify.webhook import WebhookChannel
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
            return WebhookChannel(channel, clock)
        case Smtp():
            return SmtpChannel(channel, clock)
        case Desktop():
            return DesktopChannel()
        case Apprise():
            return AppriseChannel(channel)
        case _:
            assert_never(channel)
