"""Runs `guard` verbs as processes without paying for a start-up each: forks from one that has imported everything.

    guard_verbs.py      one JSON object a line on stdin: {"words", "cwd", "env", "stdin", "out", "err"}

The verb runs in a process of its own, without a terminal, with its output in the files `out` and `err`;
its exit code is the line that answers.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import Any, NoReturn

from guard import cli

for name in set(cli._VERBS.values()):
    importlib.import_module(name)


def become(asked: dict[str, Any]) -> NoReturn:
    """Be the verb, and end as the interpreter would."""
    os.setsid()
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    read, write = os.pipe()
    os.write(write, asked["stdin"].encode())
    os.close(write)
    os.dup2(read, 0)
    for fd, file in ((1, asked["out"]), (2, asked["err"])):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), fd)
    sys.argv = ["guard", *asked["words"]]
    code = 1
    try:
        cli.main()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:  # noqa: BLE001  # what the interpreter does with it
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Serve until the input ends."""
    while line := sys.stdin.readline():
        pid = os.fork()
        if not pid:
            become(json.loads(line))
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
