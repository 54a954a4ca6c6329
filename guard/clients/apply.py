"""Carrying a plan out: the agent's key, guard.toml, policies, the receipt, and the agent's own file last of all.

Until that last step nothing the agent does has changed, and every earlier step can be done again.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from guard.clients import files
from guard.clients.files import Content
from guard.clients.plan import Plan
from guard.clients.receipts import Receipt, Receipts
from guard.config import parse
from guard.errors import ConfigError, NotFoundError
from guard.identity.keys import key_digest, well_formed
from guard.identity.lifecycle import Lifecycle
from guard.ports import Store


def executable() -> Path:
    """The `guard` that agents shall start: the one that runs now, by its absolute path.

    Raises:
        NotFoundError: it was started in a way that no other program can repeat.
    """
    running, beside = Path(sys.argv[0]), Path(sys.executable).with_name("guard")
    found = shutil.which("guard")
    for one in (running if running.name == "guard" else beside, beside, Path(found or "")):
        if one.is_file():
            return one.absolute()
    raise NotFoundError("there is no `guard` on this computer that an agent could start; install the package first")


def key(file: Path, agent: str, *, owner: str, lifecycle: Lifecycle, store: Store, now: float) -> None:
    """See that an agent is enrolled and its key is in the file.

    Raises:
        ConfigError: the agent is enrolled, and its key is somewhere else, or the key in the file has ended.
        NameRefusedError: the agent cannot have this name.
    """
    if file.exists():
        digest = key_digest(read_key(file))
        for one in store.agents.credentials(agent):
            if one.digest == digest and not one.revoked and (not one.expires or one.expires > now):
                return
        message = (
            f"the key of {agent} in here is not valid any more; put a new one in with "
            f"`guard agent rotate {agent} > {file}`, or give another name with --agent"
        )
        raise ConfigError(message, file=file)
    if store.agents.get(agent) is not None:
        message = (
            f"the agent {agent} is enrolled, and its key is not here; give another name with --agent, "
            f"or put a new key in with `(umask 077; guard agent rotate {agent} > {file})`"
        )
        raise ConfigError(message, file=file)
    files.write(file, lifecycle.add_agent(agent, owner=owner) + "\n")


def read_key(file: Path) -> str:
    """The agent's key that a file holds.

    Raises:
        ConfigError: it cannot be read, others may read it, or it holds no key.
    """
    try:
        mode, text = file.stat().st_mode, file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        message = f"the key cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}"
        raise ConfigError(message, file=file) from error
    if mode & 0o077:
        message = f"other users may read this key; chmod go-rwx {file}"
        raise ConfigError(message, file=file)
    if not well_formed(text):
        raise ConfigError("this is no agent's key", file=file)
    return text


def wrap(plan: Plan, receipts: Receipts, settings: Path) -> None:
    """Write what a plan to wrap says; the agent's key is there already.

    Raises:
        ConfigError: something cannot be written. The agent's file is as it was.
    """
    _settings(plan, settings)
    for file, text in plan.policies.items():
        if not file.exists():
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                message = f"cannot be made: {error.strerror or error}"
                raise ConfigError(message, file=file.parent) from error
            files.write(file, text, mode=0o644)
    if plan.receipt is not None and plan.receipt.servers:
        receipts.keep(plan.receipt)
    if plan.changes:
        files.replace(plan.content, plan.text)


def unwrap(plan: Plan, receipts: Receipts, settings: Path) -> None:
    """Write what a plan to unwrap says: the agent's file first, for then nothing needs the rest.

    Raises:
        ConfigError: something cannot be written.
    """
    if plan.changes:
        files.replace(plan.content, plan.text)
    if settings.exists():
        _settings(plan, settings)
    receipts.drop(plan.content.file)


def checked(plan: Plan, settings: Path) -> None:
    """See that the guard would still read its own configuration afterwards.

    Raises:
        ConfigError: it would not; nothing was changed.
    """
    try:
        parse(plan.settings, settings)
    except ConfigError as error:
        message = f"the servers of {plan.place.file} do not fit in: {error.public}; nothing was changed"
        raise ConfigError(message) from error


def shared(receipts: Iterable[Receipt], file: Path) -> frozenset[str]:
    """The servers of guard.toml that other wrapped files need."""
    return frozenset(put.server for one in receipts if one.file != file for put in one.servers)


def _settings(plan: Plan, file: Path) -> None:
    try:
        before = file.read_bytes() if file.exists() else None
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}"
        raise ConfigError(message, file=file) from error
    if before is None:
        files.write(file, plan.settings)  # what an agent hands its servers as arguments may be for nobody else
    elif before != plan.settings.encode():
        found = Content(Path(file.resolve()), before, "", file.stat().st_mode & 0o7777)
        files.replace(found, plan.settings)
