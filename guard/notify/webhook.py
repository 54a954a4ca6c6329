"""Notices as signed HTTP requests."""

from __future__ import annotations

import json
import ssl
from typing import Final

import httpx2

from guard.channels import Webhook
from guard.errors import ChannelError, ConfigError
from guard.notices import Notice
from guard.notify.signing import key_of, signed
from guard.notify.words import payload
from guard.ports import Clock

_AGAIN: Final = frozenset({408, 425, 429})
"""Answers of the client's kind after which another attempt may succeed."""


class WebhookChannel:
    """Posts each notice to one address (a `guard.ports.Notifier`). Redirects are not followed."""

    def __init__(self, settings: Webhook, clock: Clock) -> None:
        """Read the key and the certificates.

        Raises:
            ConfigError: one of them cannot be used.
        """
        self._timeout, self._clock = settings.timeout, clock
        try:
            self._url = httpx2.URL(settings.url)
        except httpx2.InvalidURL as error:
            raise ConfigError(f"{settings.url} is not a URL: {error}") from error
        self._key = key_of(settings.secret.read())
        try:
            self._tls = ssl.create_default_context(cafile=settings.ca_file)
        except OSError as error:
            raise ConfigError(f"the certificates in {settings.ca_file} cannot be read: {error}") from error

    async def notify(self, notice: Notice) -> None:
        """Post one notice; any answer of the 200s means it arrived."""
        body = json.dumps(payload(notice), separators=(",", ":")).encode("ascii")
        headers = dict(signed(self._key, self._clock.token("n"), self._clock.now(), body))
        try:
            async with (
                httpx2.AsyncClient(verify=self._tls, timeout=self._timeout, follow_redirects=False) as client,
                client.stream(
                    "POST", self._url, content=body, headers=headers | {"content-type": "application/json"}
                ) as answer,
            ):
                status = answer.status_code
        except (httpx2.HTTPError, OSError) as error:
            raise ChannelError("the receiver does not answer", detail=type(error).__name__) from error
        if not answer.is_success:
            lasting = not answer.is_server_error and status not in _AGAIN
            raise ChannelError(f"the receiver answered {status}", lasting=lasting)
