"""Settings of the channels that tell people what waits for them: the tables `[notify.NAME]` of guard.toml.

No secret stands in the file: a `SecretRef` says where it is kept, and it is read when a channel is made.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from guard.errors import ConfigError

Word = Annotated[str, StringConstraints(pattern=r"^[^\s\x00-\x1f\x7f]{1,256}$")]
_SECRET_BYTES: Final = 4096


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SecretRef(_Strict):
    """Where a secret is kept: an environment variable or a file."""

    env: str | None = Field(None, min_length=1, description="name of an environment variable")
    file: Path | None = Field(None, description="file whose first line is the secret")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.env is None) == (self.file is None):
            message = 'say where the secret is kept: {env = "NAME"} or {file = "PATH"}'
            raise ValueError(message)
        return self

    def below(self, base: Path) -> Self:
        """The same with its file taken relative to a folder."""
        return self if self.file is None else self.model_copy(update={"file": base / self.file})

    def read(self) -> str:
        """The secret.

        Raises:
            ConfigError: it is not where it should be.
        """
        if self.env is not None:
            if found := os.environ.get(self.env, ""):
                return found
            raise ConfigError(f"the environment variable {self.env} is not set, and a secret should be in it")
        assert self.file is not None
        try:
            with self.file.open(encoding="utf-8") as file:
                found = file.readline(_SECRET_BYTES).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the secret in {self.file} cannot be read: {error}") from error
        if not found:
            raise ConfigError(f"the first line of {self.file} is empty, and a secret should be there")
        return found


class _Channel(_Strict):
    groups: tuple[str, ...] = Field((), description="groups of approvers this channel reaches; empty: everybody")
    timeout: float = Field(10.0, gt=0, le=20, description="seconds one attempt to deliver may take")

    def below(self, base: Path) -> Self:
        """The channel with its files taken relative to a folder."""
        changed: dict[str, SecretRef | Path] = {}
        for name, value in self:
            if isinstance(value, SecretRef):
                changed[name] = value.below(base)
            elif isinstance(value, Path):
                changed[name] = base / value
        return self.model_copy(update=changed) if changed else self


class Webhook(_Channel):
    """Notices as signed HTTP requests (Standard Webhooks)."""

    kind: Literal["webhook"] = Field(description="signed HTTP requests")
    url: str = Field(description="where notices are posted; https, or http on loopback")
    secret: SecretRef = Field(description="the key both sides share: `whsec_` and at least 24 bytes in base64")
    ca_file: Path | None = Field(None, description="PEM certificates that vouch for the receiver, not the system's")
    deny_by: dict[str, str] = Field(
        default_factory=dict,
        description="who may deny through this channel: the user's id there, and the approver they are; "
        "empty: nobody. Approving this way is not possible",
    )

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        parts = urlsplit(value)
        safe = parts.scheme == "https" or (parts.scheme == "http" and loopback(parts.hostname or ""))
        if not safe or not parts.hostname or parts.username or parts.fragment:
            message = 'expected an https URL such as "https://chat.example/guard", or http on loopback'
            raise ValueError(message)
        return value


class Smtp(_Channel):
    """Notices as mail."""

    kind: Literal["smtp"] = Field(description="mail")
    host: Word = Field(description="mail server")
    port: int = Field(587, ge=1, le=65535, description='its port; 465 is usual with `tls = "tls"`')
    tls: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="how the connection is protected; `none` is for a server on loopback"
    )
    ca_file: Path | None = Field(None, description="PEM certificates that vouch for the mail server, not the system's")
    sender: Word = Field(description="address the mail comes from")
    to: tuple[Word, ...] = Field(min_length=1, description="addresses it goes to")
    user: str | None = Field(None, description="name to log in with")
    password: SecretRef | None = Field(None, description="password to log in with")

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if self.tls == "none" and not loopback(self.host):
            message = f'{self.host} is not loopback: use tls = "starttls" or "tls"'
            raise ValueError(message)
        if (self.user is None) != (self.password is None):
            message = "user and password are given together or not at all"
            raise ValueError(message)
        return self


class Desktop(_Channel):
    """Notices on the screen of the user the guard runs as."""

    kind: Literal["desktop"] = Field(description="the desktop's own notifications (Linux `notify-send`, macOS)")


class Apprise(_Channel):
    """Notices through apprise: Slack, Teams, ntfy, Telegram and a hundred others."""

    kind: Literal["apprise"] = Field(description="any service that apprise knows")
    url: SecretRef = Field(description="where its apprise URL is kept, for it holds a token")


Channel: TypeAlias = Annotated[Webhook | Smtp | Desktop | Apprise, Field(discriminator="kind")]


def loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
