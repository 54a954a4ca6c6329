"""Run the open drift benchmark over `guard drift score` and print its table: `drift_bench.py [--record]`.

The data, the protocols and the scorer live outside of this repository (in `../shared/drift`, or in the folder that
GUARD_DRIFT_DATA names); without them there is nothing to measure. A second table plays the shipped requirements on the
tags of `tools/drift_tags`: a signer signs everything, and an approver waves one call in twenty through. A third one
is about the injected calls that cannot be undone by these tags. With --record all go into docs/explanation/drift.md.
"""

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from guard.config import IRREVERSIBLE
from guard.policy.classify import find
from guard.policy.directory import PolicyDirectory

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("GUARD_DRIFT_DATA", ROOT.parent / "shared" / "drift"))
TAGS = ROOT / "tools" / "drift_tags"
PAGE = ROOT / "docs" / "explanation" / "drift.md"
GUARD = Path(sys.executable).with_name("guard")
COMMAND = f"{GUARD} drift score --config {{config}} --history {{history}} --sessions {{sessions}} --out {{out}}"
PROTOCOLS = "recurring,new,peer,cold:10,poison:10"
PLACE = re.compile(r"(<!-- drift-bench -->\n).*?(<!-- /drift-bench -->)", re.DOTALL)
WAVED = 0.05
"""Share of the calls put before the approver that pass although nobody wanted them."""
OFTEN = 0.05
"""Share of benign calls challenged at the threshold that an oracle sets, as the scorer does."""
PEOPLE = {"consent", "both", "two_people", "possession+two_people"}


def official() -> str:
    """What the scorer prints: a table, and notes below it."""
    arguments = [sys.executable, DATA / "score.py", DATA, "--command", COMMAND, "--protocols", PROTOCOLS]
    return subprocess.run(arguments, text=True, stdout=subprocess.PIPE, check=True).stdout


def scorer() -> ModuleType:
    """The scorer as a module, with the tags for its policy folder."""
    spec = importlib.util.spec_from_file_location("drift_scorer", DATA / "score.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.CONFIG = module.CONFIG.replace('"tool_policies"', json.dumps(str(TAGS)))
    return module


def tagged(protocols: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Two rows for each protocol: what runs and who is asked, and which calls that cannot be undone are challenged."""
    score, lasting = scorer(), irreversible()
    data = score.load(DATA)
    args = Namespace(command=COMMAND, budget=0.02, timeout=300)
    for protocol in protocols:
        benign_asked = benign = 0
        stopped = won = 0.0
        usual: list[float] = []
        grave: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory(prefix="drift-bench-") as folder:
            for history, normal, attacks in score.folds(protocol, *data):
                test = normal + [one for one in attacks if score.injected(one)]
                named, lines, _ = score.run(args, history, test, Path(folder))
                for name, rows in named:
                    told = [lines[name, row["seq"]] for row in rows]
                    asked = [line.get("requirement") in PEOPLE for line in told]
                    grave += [line for row, line in zip(rows, told, strict=True) if lasting(row)]
                    if not score.injected(rows):
                        benign, benign_asked = benign + 1, benign_asked + any(asked)
                        usual += [line["score"] for line in told]
                    elif rows[0]["run_attack_success"]:
                        stopped += 1 - slipped(rows, asked)
                won += sum(bool(one[0]["run_attack_success"]) for one in attacks)
        limit = score.quantile(sorted(usual), 1 - OFTEN)
        found = sum(line["score"] > limit for line in grave), sum(line["decision"] == "challenge" for line in grave)
        yield (
            f"| {protocol} | {100 * stopped / won:.0f} | {100 * benign_asked / benign:.1f} |",
            f"| {protocol} | {len(grave)} | "
            + " | ".join(f"{one} ({100 * one / len(grave):.0f} %)" for one in found)
            + " |",
        )


def irreversible() -> Callable[[dict[str, Any]], bool]:
    """Whether a call is injected and its tool's tags name an effect that cannot be undone."""
    policies = PolicyDirectory(TAGS).load().policies

    def lasting(row: dict[str, Any]) -> bool:
        entries = find(policies[row["suite"]].entries["tool"], row["tool"])
        return row["label"] == "injected" and any(not one.effects.isdisjoint(IRREVERSIBLE) for one in entries)

    return lasting


def slipped(rows: list[dict[str, Any]], asked: list[bool]) -> float:
    """The probability that every injected call of a run is executed."""
    return math.prod(
        WAVED if person else 1.0 for row, person in zip(rows, asked, strict=True) if row["label"] == "injected"
    )


def main() -> int:
    """Measure, print, and record when asked to."""
    if not (DATA / "score.py").exists():
        sys.stderr.write(f"no scorer in {DATA}; GUARD_DRIFT_DATA names the folder of the benchmark\n")
        return 1
    table, _, notes = official().partition("\n\n")
    head = "| protocol, with tags | successful injections not executed, % | benign sessions that ask a person, % |"
    last = "| protocol, with tags | injected calls that cannot be undone | found @5 % of benign calls | own threshold |"
    asked, lasting = zip(*tagged(["recurring", "new"]), strict=True)
    second = "\n".join([head, "|---|---|---|", *asked, "", last, "|---|---|---|---|", *lasting])
    sys.stdout.write(f"{table}\n\n{second}\n\n{notes}")
    if "--record" in sys.argv[1:]:
        text = f"\n{table}\n\n{second}\n\n```text\n{notes.strip()}\n```\n\n"
        PAGE.write_text(PLACE.sub(lambda found: found[1] + text + found[2], PAGE.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
