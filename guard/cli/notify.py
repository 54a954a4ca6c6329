"""`guard notify`: the channels that tell people."""

from __future__ import annotations

from pathlib import Path

import anyio
import click

from guard.app import Desk, desk
from guard.channels import Channel
from guard.cli import options
from guard.errors import ChannelError, GuardError, NotFoundError
from guard.model import Json


@click.group()
def notify() -> None:
    """See and try the channels that tell people what waits for them."""


@notify.command("ls")
@options.config
@options.as_json
def list_(file: Path, as_json: bool) -> None:
    """List the channels of guard.toml, the groups they reach, and who may deny through them."""
    with desk(file) as services:
        channels = services.config.notify
    options.show(
        (
            {
                "name": name,
                "kind": one.kind,
                "groups": [*one.groups],
                "deny_by": sorted(getattr(one, "deny_by", {}).values()),
            }
            for name, one in channels.items()
        ),
        columns=("name", "kind", "groups", "deny_by"),
        as_json=as_json,
    )


@notify.command()
@click.argument("name", required=False, default="")
@options.config
@options.as_json
def test(name: str, file: Path, as_json: bool) -> None:
    """Send a notice that says only that it is a test, through channel NAME or through all; exit 1 when one fails."""
    with desk(file) as services:
        channels = {one: channel for one, channel in services.config.notify.items() if name in {"", one}}
        if not channels:
            raise NotFoundError(
                f"there is no channel {name}" if name else "there is no channel; add a [notify.NAME] table"
            )
        rows = [_try(services, one, channel) for one, channel in channels.items()]
    options.show(rows, columns=("name", "delivered", "error"), as_json=as_json)
    if not all(row["delivered"] for row in rows):
        raise GuardError("not every channel took the notice")


def _try(services: Desk, name: str, channel: Channel) -> dict[str, Json]:
    """One attempt, as the guard itself would make it."""
    from guard.notify.build import notifier  # noqa: PLC0415 - clients of four kinds, for this verb only
    from guard.notify.words import trial  # noqa: PLC0415 - as above

    made = notifier(channel, services.clock)
    told = trial(services.config.console.public_url, services.clock.now())

    async def attempt() -> str:
        try:
            with anyio.fail_after(channel.timeout):
                await made.notify(told)
        except ChannelError as error:
            return error.public + (f" ({error.detail})" if error.detail else "")
        except TimeoutError:
            return "it took too long"
        return ""

    error = anyio.run(attempt)
    return {"name": name, "delivered": not error, "error": error}
