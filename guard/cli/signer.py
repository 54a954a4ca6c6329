"""`guard signer`: the process beside a workload that holds its key and answers its challenges."""

from __future__ import annotations

import base64
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click

from guard import oplog
from guard.cli import options
from guard.clock import SystemClock
from guard.config import load
from guard.errors import ConfigError
from guard.signer.settings import SignerSettings, require_pkcs11

if TYPE_CHECKING:
    from guard.signer.service import Signer
    from guard.signer.token import TokenKey


@click.group()
def signer() -> None:
    """Answer an agent's challenges with the key in its token."""


@signer.command()
@click.argument("agent")
@options.config
def run(agent: str, file: Path) -> None:
    """Sign the challenges of AGENT until stopped.

    Reads state/signers/AGENT.toml and nothing else of the guard; guards are found by their sockets in
    state/run/. While the token is away, challenges stay pending. Exits with 2 when the PIN or key is wrong.
    """
    settings, key = _prepare(agent, file)
    from guard.signer.service import Signer  # noqa: PLC0415 - the PKCS#11 binding is optional

    oplog.to_stderr()
    if settings.pin_file.exists() and settings.pin_file.stat().st_mode & 0o077:
        options.note(f"other users may read {settings.pin_file}: chmod 600 it")
    try:
        anyio.run(_until_told, Signer(settings, key, SystemClock()))
    finally:
        key.close()


@signer.command()
@click.argument("agent")
@options.config
def test(agent: str, file: Path) -> None:
    """Sign a nonce with the key of AGENT and verify the signature."""
    settings, key = _prepare(agent, file)
    from guard.signer.enrolment import try_out  # noqa: PLC0415 - the PKCS#11 binding is optional

    try:
        key.open()
        try_out(key, base64.b64decode(settings.public_key))
    finally:
        key.close()
    options.note(f"the token {settings.token!r} signs for {agent}")


def _prepare(agent: str, file: Path) -> tuple[SignerSettings, TokenKey]:
    """The settings of an agent's signer, and its key, not opened yet."""
    require_pkcs11()
    from guard.signer.token import TokenKey  # noqa: PLC0415 - the PKCS#11 binding is optional

    settings = SignerSettings.read(SignerSettings.place(load(file).state, agent))
    key = TokenKey(module=settings.module, token=settings.token, key=settings.key, pin_file=settings.pin_file)
    return settings, key


async def _until_told(service: Signer) -> None:
    """Run until SIGTERM or SIGINT, or until the service gives up.

    Raises:
        ConfigError: the service gave up; raised here, for a task group would wrap it in a group.
    """
    mistake: ConfigError | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_on_signal, tasks.cancel_scope)
        try:
            await service.run()
        except ConfigError as error:
            mistake = error
        tasks.cancel_scope.cancel()
    if mistake is not None:
        raise mistake


async def _stop_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return
