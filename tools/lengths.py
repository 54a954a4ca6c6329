"""Fail when a module grows beyond 500 lines or a function beyond 50: `lengths.py [DIR...]`."""

import ast
import sys
from pathlib import Path

MODULE, FUNCTION = 500, 50


def too_long(file: Path) -> list[str]:
    """The places in one file that are over a limit."""
    text = file.read_text(encoding="utf-8")
    lines = text.count("\n")
    found = [f"{file}:1: module has {lines} lines, the limit is {MODULE}"] if lines > MODULE else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            length = node.end_lineno - node.lineno + 1
            if length > FUNCTION:
                found.append(f"{file}:{node.lineno}: {node.name} has {length} lines, the limit is {FUNCTION}")
    return found


def main() -> int:
    """Check every module below the given directories."""
    folders = [Path(name) for name in sys.argv[1:] or ["guard"]]
    found = [line for folder in folders for file in sorted(folder.rglob("*.py")) for line in too_long(file)]
    print("\n".join(found) or "lengths: every module and function is within its limit")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
