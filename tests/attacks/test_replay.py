"""The attack corpus, replayed against both fronts; the upstream's journal says what got through.

The corpus lives beside the repository, not in it. It asks for: every critical attack stopped, 98 % of the
high ones, and every benign message served unchanged.
"""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.outside import Site, Verbs
from tests.world import GUARD, free_port, until

CORPUS = Path(__file__).parents[3] / "shared" / "attacks"
pytestmark = pytest.mark.skipif(not (CORPUS / "replay.py").exists(), reason=f"there is no attack corpus in {CORPUS}")


@contextmanager
def victim(journal: Path) -> Iterator[int]:
    """The corpus's tool server over HTTP; its port."""
    port = free_port()
    command = [sys.executable, CORPUS / "victim.py", "http", str(port), "--journal", journal]
    with journal.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until(lambda: listens(port), "the tool server listens", within=30)
        yield port
    finally:
        process.kill()
        process.wait(10)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.mark.timeout(400)
def test_no_attack_of_the_corpus_gets_through_either_front_and_every_benign_message_does(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    policy = (CORPUS / "tool_policies" / "vault.yaml").read_text()
    child = json.dumps([sys.executable, str(CORPUS / "victim.py"), "stdio", "--journal", str(journal)])
    with Verbs(tmp_path) as verbs, victim(journal) as port:
        site = Site(tmp_path, verbs)
        servers = f"[servers.vault]\nurl = 'http://127.0.0.1:{port}/mcp'\n[servers.piped]\ncommand = {child}\n"
        site.write(servers, vault=policy, piped=policy.replace("server: vault", "server: piped"))
        key = site.agent("alice-bot")
        stdio = shlex.join([str(GUARD), "run", "piped", "--config", str(site.file)])

        def sent(attacks: Path) -> dict[str, dict[str, Any]]:
            words = (sys.executable, CORPUS / "replay.py", attacks, "--url", site.url("vault"), "--stdio", stdio)
            how = ("--auth", f"Bearer {key}", "--journal", journal, "--json")
            done = subprocess.run([*words, *how], capture_output=True, text=True, check=False, timeout=380)
            return {one["id"]: one for one in json.loads(done.stdout)["results"]}

        with site.serve():
            told = sent(CORPUS / "attacks.jsonl")
            if late := {name for name, one in told.items() if only_late(one)}:
                again = tmp_path / "again.jsonl"
                lines = (CORPUS / "attacks.jsonl").read_text().splitlines(keepends=True)
                again.write_text("".join(line for line in lines if json.loads(line)["id"] in late))
                told |= sent(again)
    assert {name: one for name, one in told.items() if not one["stopped"]} == {}
    assert {"critical", "high", "benign"} <= {one["severity"] for one in told.values()}
    assert any(name.startswith("MTH-019") for name in told), "the stdio attacks were sent"


def only_late(one: Mapping[str, Any]) -> bool:
    """Whether nothing is wrong but that the guard answered after more than two seconds, as on a busy machine it may."""
    return not one["stopped"] and one.get("served_after", False) and not one["reached"] and not one["leaked"]
