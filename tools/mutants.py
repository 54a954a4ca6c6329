"""Run mutmut over guard/stepup/ and guard/factors/ and print the score: `mutants.py [NAME ...]`.

Settings are in pyproject.toml. What is killed stays known in mutants/, so a run that was stopped goes on. A second
figure leaves out mutants that only change the words of a message (mutmut writes them as XX...XX or in capitals).
"""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

MUTMUT = Path(sys.executable).with_name("mutmut")
_WORDS = re.compile(r"""XX|["'][^"']*[A-Z ]{6,}[^"']*["']""")


def only_words(name: str) -> bool:
    """Whether a mutant differs from the code in the words of a message alone."""
    shown = subprocess.run([MUTMUT, "show", name], text=True, capture_output=True, check=False).stdout
    added = [line for line in shown.splitlines() if line.startswith("+") and not line.startswith("+++")]
    return bool(added) and all(_WORDS.search(line) for line in added)


def main() -> int:
    """Run, count, name the survivors; 1 when the score is below 90 %."""
    subprocess.run([MUTMUT, "run", "--max-children", "2", *sys.argv[1:]], check=False)
    listed = subprocess.run([MUTMUT, "results", "--all", "true"], text=True, capture_output=True, check=True).stdout
    found = [line.strip().rpartition(": ")[::2] for line in listed.splitlines() if ": " in line]
    judged = [(name, how) for name, how in found if how != "not checked"]
    count = Counter(how for _, how in judged)
    alive = [name for name, how in judged if how in {"survived", "no tests"}]
    words = [name for name in alive if only_words(name)]
    for name in alive:
        print(f"{'words' if name in words else 'ALIVE'} {name}")
    killed, real = len(judged) - len(alive), len(alive) - len(words)
    score, strict = killed / max(len(judged), 1), killed / max(killed + real, 1)
    print(f"{dict(count)}: score {score:.1%}; {strict:.1%} without those that change words only")
    return strict < 0.9  # noqa: PLR2004 - the aim


if __name__ == "__main__":
    sys.exit(main())
