"""The journalling tool server with a mailbox: `inbox` answers with the mail in `mail.json` beside the journal.

`send` takes `to` and `body`, `file` takes `folder`; both answer that they did it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import journal_server

journal_server.TOOLS = ("inbox", "send", "file")
MAIL = Path(sys.argv[sys.argv.index("--journal") + 1]).with_name("mail.json")


class Mailbox(journal_server.Server):
    """Answers about one mailbox."""

    def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """The mail as it is now, or a word that it was done."""
        del arguments
        text = MAIL.read_text() if tool == "inbox" else f"{tool}: done"
        return {"content": [{"type": "text", "text": text}], "isError": False}


if __name__ == "__main__":
    journal_server.Server = Mailbox  # type: ignore[misc]  # the same main, with a mailbox
    journal_server.main()
