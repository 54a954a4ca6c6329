"""Run the open drift benchmark over `guard drift score` and print its table: `drift_bench.py [--record]`.

The data, the protocols and the scorer live outside of this repository (in `../shared/drift`, or in the folder that
GUARD_DRIFT_DATA names); without them there is nothing to measure. With --record the table goes into
docs/explanation/drift.md.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("GUARD_DRIFT_DATA", ROOT.parent / "shared" / "drift"))
PAGE = ROOT / "docs" / "explanation" / "drift.md"
PROTOCOLS = "recurring,new,peer,cold:10,poison:10"
PLACE = re.compile(r"(<!-- drift-bench -->\n).*?(<!-- /drift-bench -->)", re.DOTALL)


def main() -> int:
    """Measure, print, and record when asked to."""
    scorer = DATA / "score.py"
    if not scorer.exists():
        sys.stderr.write(f"no scorer at {scorer}; GUARD_DRIFT_DATA names the folder of the benchmark\n")
        return 1
    guard = Path(sys.executable).with_name("guard")
    command = f"{guard} drift score --config {{config}} --history {{history}} --sessions {{sessions}} --out {{out}}"
    arguments = [sys.executable, scorer, DATA, "--command", command, "--protocols", PROTOCOLS]
    done = subprocess.run(arguments, text=True, stdout=subprocess.PIPE, check=False)
    sys.stdout.write(done.stdout)
    if done.returncode == 0 and "--record" in sys.argv[1:]:
        table, _, notes = done.stdout.partition("\n\n")
        text = f"\n{table}\n\n```text\n{notes.strip()}\n```\n\n"
        PAGE.write_text(PLACE.sub(lambda found: found[1] + text + found[2], PAGE.read_text()))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
