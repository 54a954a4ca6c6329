"""Notices through apprise, for every service that has no channel of its own here. The extra `notify` brings it."""

from __future__ import annotations

import importlib.util
from typing import Final

import anyio

from guard.channels import Apprise
from guard.errors import ChannelError, ConfigError
from guard.notices import Notice
from guard.notify.words import text, title

_THREADS: Final = 2


class AppriseChannel:
    """Hands each notice to one apprise URL (a `guard.ports.Notifier`)."""

    def __init__(self, settings: Apprise) -> None:
        """Read the URL.

        Raises:
            ConfigError: apprise is not installed, or does not understand the URL.
        """
        if importlib.util.find_spec("apprise") is None:
            raise ConfigError("a channel of kind apprise needs the extra: pip install 'mcp-step-up-guard[notify]'")
        import apprise  # noqa: PLC0415 - an extra, and slow to import

        asset = apprise.AppriseAsset(app_id="guard", app_desc="guard", async_mode=False)
        self._service = apprise.Apprise(asset=asset)
        self._format = apprise.NotifyFormat.TEXT
        if not self._service.add(settings.url.read()):
            raise ConfigError("apprise does not understand the URL of this channel; see its page of URLs")
        self._limiter: anyio.CapacityLimiter | None = None

    async def notify(self, notice: Notice) -> None:
        """Hand over one notice; apprise says no more than whether it was delivered."""
        self._limiter = self._limiter or anyio.CapacityLimiter(_THREADS)
        try:
            sent = await anyio.to_thread.run_sync(self._send, notice, abandon_on_cancel=True, limiter=self._limiter)
        except (OSError, RuntimeError, TypeError, ValueError) as error:  # from one of a hundred plug-ins
            raise ChannelError("the service's plug-in failed", detail=type(error).__name__) from error
        if not sent:
            raise ChannelError("the service did not take the notice")

    def _send(self, notice: Notice) -> bool:
        return bool(self._service.notify(body=text(notice), title=title(notice), body_format=self._format))
