"""Where the guard listens: the keys that `[proxy]` and `[console]` have in common."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Listener(BaseModel):
    """One listening socket."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    listen: str = Field(description="address:port to listen on")
    tls_cert: Path | None = Field(None, description="PEM certificate chain; TLS is on when set")
    tls_key: Path | None = Field(None, description="PEM private key of `tls_cert`")
    insecure: bool = Field(False, description="allow an address other than loopback without TLS")
    allowed_hosts: tuple[str, ...] = Field(
        (), description="further Host names (host or host:port) under which this listener may be addressed"
    )
    max_connections: int = Field(
        4096,
        ge=1,
        le=65536,
        description="connections at a time, at most a third of the process's descriptors; idle ones make room",
    )

    @field_validator("listen")
    @classmethod
    def _address(cls, value: str) -> str:
        host, colon, port = value.rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:  # noqa: PLR2004
            message = 'expected "ADDRESS:PORT", for example "127.0.0.1:7000"'
            raise ValueError(message)
        return value

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            message = "tls_cert and tls_key are given together or not at all"
            raise ValueError(message)
        if not self.loopback and self.tls_cert is None and not self.insecure:
            message = (
                f"{self.listen} is not loopback and has no TLS: set tls_cert and tls_key, "
                "listen on 127.0.0.1, or accept the risk with insecure = true"
            )
            raise ValueError(message)
        return self

    def below(self, base: Path) -> Self:
        """The listener with its files' paths taken relative to a folder."""
        if self.tls_cert is None or self.tls_key is None:
            return self
        return self.model_copy(update={"tls_cert": base / self.tls_cert, "tls_key": base / self.tls_key})

    @property
    def host(self) -> str:
        """The address without brackets."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port; 0 asks the system for a free one."""
        return int(self.listen.rpartition(":")[2])

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the listener."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
