"""Findings about policy files for terminals, programs, code scanning (SARIF 2.1.0) and GitHub's annotations. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import Final, Literal, TypeAlias

from guard.model import Json
from guard.policy.tree import Mistake

Severity: TypeAlias = Literal["mistake", "warning", "note"]
Found: TypeAlias = tuple[Severity, Mistake]

_LEVEL: Final = {"mistake": "error", "warning": "warning", "note": "note"}
_GITHUB: Final = {"mistake": "error", "warning": "warning", "note": "notice"}
_MEANING: Final[dict[Severity, str]] = {
    "mistake": "the file cannot be used",
    "warning": "the file is allowed, but hardly meant like this",
    "note": "worth a look",
}


def text(found: Iterable[Found]) -> Iterator[str]:
    """FILE:LINE:COLUMN: MESSAGE."""
    for severity, one in found:
        yield str(one if severity == "mistake" else Mistake(one.place, f"{severity}: {one.message}"))


def data(found: Iterable[Found]) -> str:
    """A JSON array."""
    return json.dumps(
        [
            {
                "severity": severity,
                "file": one.place.file,
                "line": one.place.line,
                "column": one.place.column,
                "message": one.message,
            }
            for severity, one in found
        ],
        indent=2,
    )


def github(found: Iterable[Found]) -> Iterator[str]:
    """Workflow commands, which GitHub shows beside the lines of a pull request."""
    for severity, one in found:
        place = f"file={_property(one.place.file)},line={one.place.line},col={one.place.column}"
        yield f"::{_GITHUB[severity]} {place}::{_escaped(one.message)}"


def _escaped(value: str) -> str:
    return value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    return _escaped(value).replace(":", "%3A").replace(",", "%2C")


def sarif(found: Sequence[Found], version: str) -> str:
    """One SARIF log with one run."""
    rules: list[Json] = [
        {"id": f"policy/{severity}", "shortDescription": {"text": meaning}} for severity, meaning in _MEANING.items()
    ]
    results: list[Json] = [
        {
            "ruleId": f"policy/{severity}",
            "level": _LEVEL[severity],
            "message": {"text": one.message},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": PurePath(one.place.file).as_posix()},
                        "region": {"startLine": one.place.line, "startColumn": one.place.column},
                    }
                }
            ],
        }
        for severity, one in found
    ]
    driver: Json = {"name": "guard policy check", "semanticVersion": version, "rules": rules}
    log: Json = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}],
    }
    return json.dumps(log, indent=2)
