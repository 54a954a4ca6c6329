"""Notices on the screen, through the program the system has for it: `notify-send` on Linux, `osascript` on macOS."""

from __future__ import annotations

import shutil
import sys
from html import escape
from subprocess import DEVNULL
from typing import Final

import anyio

from guard.errors import ChannelError
from guard.notices import Notice
from guard.notify.words import text, title

_MAC: Final = (
    "-e", "on run argv",
    "-e", "display notification (item 2 of argv) with title (item 1 of argv)",
    "-e", "end run",
)  # fmt: skip


def command(notice: Notice, platform: str) -> list[str]:
    """The program and its arguments; texts are arguments, never part of a script or of markup."""
    if platform == "darwin":
        return ["osascript", *_MAC, title(notice), text(notice)]
    return ["notify-send", "--app-name=guard", "--urgency=critical", "--", title(notice), escape(text(notice))]


class DesktopChannel:
    """Shows each notice to the user the guard runs as (a `guard.ports.Notifier`)."""

    async def notify(self, notice: Notice) -> None:
        """Show one notice; that the program ended well means it was shown."""
        words = command(notice, sys.platform)
        if shutil.which(words[0]) is None:
            raise ChannelError(f"there is no program {words[0]} on this machine", lasting=True)
        try:
            done = await anyio.run_process(words, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, check=False)
        except OSError as error:
            raise ChannelError(f"{words[0]} cannot be started", detail=type(error).__name__) from error
        if done.returncode:
            raise ChannelError(f"{words[0]} ended with {done.returncode}; is there a desktop session?")
