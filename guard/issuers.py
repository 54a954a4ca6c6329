"""Settings of the OpenID provider that people may log in to the console with: the table `[console.oidc]`."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from guard.channels import SecretRef, Word

LOCAL: Final = frozenset({"127.0.0.1", "localhost", "::1"})
"""Where http will do: what is said there does not leave the machine."""


class Issuer(BaseModel):
    """An OpenID provider whose login lets an approver look. It never decides: each vote takes a proof of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: str = Field(description="the provider's issuer URL, exactly as it spells it itself")
    client_id: Word = Field(description="what the provider knows this console as")
    client_secret: SecretRef = Field(description="the secret that goes with it")
    claim: Word = Field(
        "sub", description="claim of the ID token that says who it is; `email` counts only where it is verified"
    )
    people: dict[str, str] = Field(
        default_factory=dict,
        description="approver by value of the claim; any other value is nobody. Empty: the value is an approver's name",
    )
    scopes: tuple[Word, ...] = Field(("openid",), description="what is asked for; add the scope that brings the claim")
    acr: tuple[Word, ...] = Field(
        (), description="accepted ways of authentication (`acr`), best first; empty: any, and none said"
    )
    max_age: float = Field(
        3600.0, ge=0, le=604_800, description="seconds since the person showed who they are at the provider, at most"
    )
    timeout: float = Field(5.0, gt=0, le=30, description="seconds to connect, and between two pieces of an answer")
    ca_file: Path | None = Field(
        None, description="PEM certificates that vouch for the provider, in place of the system's"
    )

    @field_validator("issuer")
    @classmethod
    def _url(cls, value: str) -> str:
        parts = urlsplit(value)
        if not secure(value) or parts.query or parts.fragment or parts.username is not None:
            message = 'expected an https URL such as "https://login.example"; http is for this machine only'
            raise ValueError(message)
        return value

    @model_validator(mode="after")
    def _asks(self) -> Self:
        if "openid" not in self.scopes:
            message = 'scopes must hold "openid"'
            raise ValueError(message)
        return self

    def below(self, base: Path) -> Self:
        """The same with its files taken relative to a folder."""
        changed: dict[str, SecretRef | Path] = {"client_secret": self.client_secret.below(base)}
        if self.ca_file is not None:
            changed["ca_file"] = base / self.ca_file
        return self.model_copy(update=changed)


def secure(url: str) -> bool:
    """Whether this is an address that secrets may be sent to: https, or http on this machine."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (
            parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOCAL)
        )
    except ValueError:
        return False
