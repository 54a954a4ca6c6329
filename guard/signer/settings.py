"""`state/signers/<agent>.toml`: everything a signer knows, written when its key was enrolled.

The signer never opens the guard's store. Relative paths are relative to the file.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from guard.errors import ConfigError

_FILE_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.@+-]{0,63}")


def require_pkcs11() -> None:
    """Make sure that the optional PKCS#11 binding is installed.

    Raises:
        ConfigError: it is not, and this is how to get it.
    """
    if find_spec("pkcs11") is None:
        raise ConfigError("keys in a token need the extra `hsm`: pip install 'mcp-step-up-guard[hsm]'")


class Allow(BaseModel):
    """What the signer signs for, whatever the guard asks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    servers: tuple[str, ...] = Field(("*",), description="globs of tool servers")
    tools: tuple[str, ...] = Field(("*",), description="globs of tool names and resource URIs")
    per_minute: int = Field(60, ge=1, description="signatures in any minute")


class SignerSettings(BaseModel):
    """Which key of which token answers for which agent, and how far."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    agent: str = Field(min_length=1, description="the principal whose challenges are signed")
    factor: str = Field(min_length=1, description="id of the enrolled factor")
    audience: str = Field(min_length=1, description="the only installation to sign for")
    public_key: str = Field(min_length=1, description="base64 of the enrolled DER public key")
    module: Path = Field(description="PKCS#11 module (shared library)")
    token: str = Field(min_length=1, description="label of the token")
    key: str = Field(min_length=1, description="label of the private key")
    pin_file: Path = Field(description="file whose first line is the user PIN")
    run: Path = Field(default=Path("../run"), description="directory where guards put their sockets")
    allow: Allow = Field(default_factory=Allow.model_construct, description="the allow-list")

    @classmethod
    def place(cls, state: Path, agent: str) -> Path:
        """The file of an agent's signer below the state directory.

        Raises:
            ConfigError: the name cannot be that of a file.
        """
        if not _FILE_NAME.fullmatch(agent):
            raise ConfigError(f"{agent!r} is not the name of an agent")
        return state / "signers" / f"{agent}.toml"

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read and check a settings file; its paths come back absolute.

        Raises:
            ConfigError: it is missing, not TOML, or has a mistake.
        """
        try:
            found = cls.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise ConfigError(
                f"there is no signer for {file.stem}; `guard factor enroll signature {file.stem} ...` makes one",
                file=file,
            ) from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"cannot be read: {error}", file=file) from error
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}", file=file) from error
        base = file.absolute().parent
        return found.model_copy(update={name: base / getattr(found, name) for name in ("module", "pin_file", "run")})

    def write(self, file: Path) -> None:
        """Write the file (0600, in a 0700 directory) so that a reader never sees half of it.

        Raises:
            ConfigError: it cannot be written.
        """
        lines = ["# Written by `guard factor enroll signature`. The signer reads this and nothing else of the guard."]
        plain = self.model_dump(mode="json", exclude={"allow"})
        lines += [f"{name} = {_toml(value)}" for name, value in plain.items()]
        lines += ["", "[allow]", *(f"{name} = {_toml(value)}" for name, value in self.allow.model_dump().items())]
        draft = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
                out.write("\n".join(lines) + "\n")
            draft.replace(file)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise ConfigError(f"cannot be written: {error}", file=file) from error


def _toml(value: str | int | tuple[str, ...]) -> str:
    """A TOML value; JSON's strings are TOML's, apart from surrogates (not produced here) and DEL."""
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
