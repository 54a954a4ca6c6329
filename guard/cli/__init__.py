"""The `guard` command: one thin module per group of verbs, imported when it is used.

Data goes to stdout, notes to stderr. Exit codes: 0 done, 1 refused or not found, 2 usage or configuration.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import NoReturn

import click

from guard import faults, oplog
from guard.cli.examples import illustrate
from guard.errors import ConfigError, GuardError

_VERBS = {
    "init": "guard.cli.init",
    "wrap": "guard.cli.wrap",
    "unwrap": "guard.cli.wrap",
    "serve": "guard.cli.serve",
    "run": "guard.cli.serve",
    "doctor": "guard.cli.doctor",
    "policy": "guard.cli.policy",
    "agent": "guard.cli.agent",
    "approver": "guard.cli.approver",
    "factor": "guard.cli.factor",
    "signer": "guard.cli.signer",
    "challenge": "guard.cli.challenge",
    "notify": "guard.cli.notify",
    "intent": "guard.cli.intent",
    "grant": "guard.cli.grant",
    "drift": "guard.cli.drift",
    "why": "guard.cli.why",
    "audit": "guard.cli.audit",
}


class _Verbs(click.Group):
    """Imports a verb's module only when the verb is named, so that `guard run` starts quickly."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every verb, in the order of a day's work."""
        del ctx
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command, or None."""
        del ctx
        if cmd_name not in _VERBS:
            return None
        command = getattr(importlib.import_module(_VERBS[cmd_name]), cmd_name)
        return illustrate(command, cmd_name) if isinstance(command, click.Command) else None


_HELP = """Guard the tool calls of AI agents.

The guard stands between agents and their MCP tool servers. Ordinary calls pass; privileged or unusual
ones are paused until a workload key signs or a person approves, run exactly once, and are explained.

\b
Start here:  guard init, guard wrap claude|cursor|vscode|codex|gemini|windsurf, guard doctor
By hand:     guard agent add NAME, guard approver add NAME, guard serve
Asked why?   guard why ID
"""


@click.group(cls=_Verbs, help=_HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="mcp-step-up-guard", prog_name="guard")
def cli() -> None:
    """Hold the verbs."""


def main() -> None:
    """Run the command and turn the guard's errors into exit codes and sentences."""
    try:
        faults.arm()
        oplog.to_stderr("warning")
        code = cli(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(1)
    except OSError as error:
        _unwritten(error)
    except GuardError as error:
        _end(error)
    except BaseExceptionGroup as group:
        _end(_sole(group))


def _end(error: GuardError) -> NoReturn:
    """Say what was refused, and exit with its code."""
    mistake = isinstance(error, ConfigError)
    click.echo(error.public + (f" ({error.detail})" if error.detail and not mistake else ""), err=True)
    sys.exit(2 if mistake else 1)


def _unwritten(error: OSError) -> NoReturn:
    """End where stdout takes no more, as on a full disk. What else fails is met where it fails.

    Raises:
        OSError: it is not about stdout.
    """
    if error.filename is not None or error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG}:
        raise error
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush does not fail as well
    click.echo(f"what was asked for cannot be written: {error.strerror}", err=True)
    sys.exit(1)


def _sole(group: BaseExceptionGroup[BaseException]) -> GuardError:
    """The one error of the guard's own that ended a group of tasks.

    Raises:
        BaseExceptionGroup: there is another, or more than one.
    """
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        [error] = error.exceptions
    if isinstance(error, GuardError):
        return error
    raise group
