"""Notices as mail."""

from __future__ import annotations

import smtplib
import ssl
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final

import anyio

from guard.channels import Smtp
from guard.errors import ChannelError, ConfigError
from guard.notices import Notice
from guard.notify.words import text, title
from guard.ports import Clock

_THREADS: Final = 2
"""How many mails may be under way in one channel; a server that hangs holds no more threads than these."""

_TEMPORARY: Final = range(400, 500)


class SmtpChannel:
    """Sends each notice to fixed addresses (a `guard.ports.Notifier`); smtplib blocks, so in a thread of its own."""

    def __init__(self, settings: Smtp, clock: Clock) -> None:
        """Read the password and the certificates.

        Raises:
            ConfigError: one of them cannot be used.
        """
        self._settings, self._clock = settings, clock
        self._password = settings.password.read() if settings.password else ""
        self._limiter: anyio.CapacityLimiter | None = None
        try:
            self._tls = ssl.create_default_context(cafile=settings.ca_file)
        except OSError as error:
            raise ConfigError(f"the certificates in {settings.ca_file} cannot be read: {error}") from error

    async def notify(self, notice: Notice) -> None:
        """Send one mail; the server's acceptance means it was delivered."""
        self._limiter = self._limiter or anyio.CapacityLimiter(_THREADS)
        mail = self._mail(notice)
        try:
            await anyio.to_thread.run_sync(self._send, mail, abandon_on_cancel=True, limiter=self._limiter)
        except smtplib.SMTPResponseException as error:
            lasting = error.smtp_code not in _TEMPORARY
            raise ChannelError(f"the mail server answered {error.smtp_code}", lasting=lasting) from error
        except smtplib.SMTPRecipientsRefused as error:
            lasting = all(code not in _TEMPORARY for code, _ in error.recipients.values())
            raise ChannelError("the mail server takes none of the addresses", lasting=lasting) from error
        except smtplib.SMTPNotSupportedError as error:
            raise ChannelError("the mail server does not offer what the settings ask for", lasting=True) from error
        except ValueError as error:
            raise ChannelError("an address or the password cannot be written in mail", lasting=True) from error
        except (smtplib.SMTPException, OSError) as error:
            raise ChannelError("the mail server does not answer", detail=type(error).__name__) from error

    def _mail(self, notice: Notice) -> EmailMessage:
        mail = EmailMessage()
        mail["From"], mail["To"] = self._settings.sender, ", ".join(self._settings.to)
        mail["Subject"] = title(notice)
        mail["Date"] = format_datetime(datetime.fromtimestamp(int(notice.at), tz=UTC))
        mail["Message-ID"] = f"<{self._clock.token('n')}@guard.invalid>"
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(text(notice))
        return mail

    def _send(self, mail: EmailMessage) -> None:
        settings = self._settings
        if settings.tls == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                settings.host, settings.port, timeout=settings.timeout, context=self._tls
            )
        else:
            server = smtplib.SMTP(settings.host, settings.port, timeout=settings.timeout)
        with server:
            if settings.tls == "starttls":
                server.starttls(context=self._tls)
            if settings.user is not None:
                server.login(settings.user, self._password)
            server.send_message(mail)
