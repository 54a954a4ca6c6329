"""What is kept of every wrapped file, so that it can be given back as it was.

A receipt is `state/clients/<digest of the path>.json`. It holds the whole file from before, so it is as secret as that:
0600, in a folder of 0700.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, ValidationError

from guard.clients import files
from guard.errors import ConfigError

_LIMIT: Final = 32 * 1024 * 1024


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Put(_Kept):
    """One server: its path in the agent's file, its name and table in guard.toml, and whether it had no arguments."""

    path: tuple[str, ...]
    server: str
    block: str
    bare: bool

    @property
    def enforce(self) -> bool | None:
        """What was said about holding its calls when it was added."""
        return False if "\nenforce = false" in self.block else True if "\nenforce = true" in self.block else None


class Receipt(_Kept):
    """One wrapped file: what it was, and the digest (hex SHA-256) of what it became."""

    version: Literal[1] = 1
    client: str
    file: Path
    agent: str
    key_file: Path
    wrapped: str = Field(pattern="^[0-9a-f]{64}$")
    original: Base64Bytes
    servers: tuple[Put, ...]


def digest(raw: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(raw).hexdigest()


class Receipts:
    """The receipts below one state directory."""

    def __init__(self, state: Path) -> None:
        """Name the directory; nothing is made until something is kept."""
        self.folder = state / "clients"

    def get(self, file: Path) -> Receipt | None:
        """The receipt of a file; None if it is not wrapped.

        Raises:
            ConfigError: there is one that cannot be read.
        """
        kept = self.place(file)
        return self._read(kept) if kept.exists() else None

    def all(self) -> Iterator[Receipt]:
        """Every receipt.

        Raises:
            ConfigError: one cannot be read.
        """
        for kept in sorted(self.folder.glob("*.json")):
            yield self._read(kept)

    def keep(self, receipt: Receipt) -> None:
        """Keep a receipt, durably, before the file it is about is changed.

        Raises:
            ConfigError: it cannot be written.
        """
        self.prepare()
        files.write(self.place(receipt.file), receipt.model_dump_json(indent=1))

    def drop(self, file: Path) -> None:
        """Forget a file that was given back."""
        self.place(file).unlink(missing_ok=True)

    def prepare(self) -> Path:
        """The folder, made so that nobody else reads it and git does not take it along."""
        files.folder(self.folder.parent)
        folder = files.folder(self.folder)
        if not (folder / ".gitignore").exists():
            files.write(folder / ".gitignore", "*\n")
        return folder

    def place(self, file: Path) -> Path:
        """Where the receipt of a file is kept."""
        return self.folder / f"{digest(str(file).encode('utf-8', 'surrogateescape'))[:32]}.json"

    def _read(self, kept: Path) -> Receipt:
        try:
            if kept.stat().st_size > _LIMIT:
                message = "is too large for a receipt"
                raise ConfigError(message, file=kept)
            return Receipt.model_validate_json(kept.read_bytes())
        except OSError as error:
            message = f"cannot be read: {error.strerror or error}"
            raise ConfigError(message, file=kept) from error
        except ValidationError as error:
            message = "is no receipt of `guard wrap`; restore it from a backup, or move it away and unwrap by hand"
            raise ConfigError(message, file=kept) from error
