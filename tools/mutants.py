"""Run mutmut over guard/stepup/ and guard/factors/ and print the score: `mutants.py [NAME ...]`.

Settings are in pyproject.toml. Every run begins anew: over three thousand mutants, an hour or more on two cores; NAMEs
such as "guard.stepup.intent*" choose a part. A second figure leaves out mutants that differ from the code in a sentence
alone: in texts that have a blank.
"""

import ast
import shutil
import subprocess
import sys
from collections import Counter
from functools import lru_cache
from pathlib import Path

MUTMUT = Path(sys.executable).with_name("mutmut")
AIM = 0.9


class _Wordless(ast.NodeTransformer):
    """Makes all sentences equal, and the names of the functions they stand in."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant("") if isinstance(node.value, str) and " " in node.value else node


@lru_cache(maxsize=64)
def functions(file: Path) -> dict[str, str]:
    """Every function of a mutated file by name, without the words of its messages."""
    found = {}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = ast.dump(ast.Module([_Wordless().visit(part) for part in node.body], []))
    return found


def only_words(name: str) -> bool:
    """Whether a mutant differs from the code in the words of a sentence alone."""
    module, _, function = name.rpartition(".")
    known = functions(Path("mutants", *module.split(".")).with_suffix(".py"))
    return known[function] == known[function.rpartition("__mutmut_")[0] + "__mutmut_orig"]


def main() -> int:
    """Run, count, name the survivors; 1 when the score is below the aim."""
    if "--again" not in sys.argv:
        shutil.rmtree("mutants", ignore_errors=True)
        subprocess.run([MUTMUT, "run", "--max-children", "2", *sys.argv[1:]], check=False)
    listed = subprocess.run([MUTMUT, "results", "--all", "true"], text=True, capture_output=True, check=True).stdout
    found = [line.strip().rpartition(": ")[::2] for line in listed.splitlines() if ": " in line]
    judged = [(name, how) for name, how in found if how != "not checked"]
    alive = [name for name, how in judged if how in {"survived", "no tests"}]
    words = {name for name in alive if only_words(name)}
    for name in alive:
        print("words" if name in words else "ALIVE", name)
    killed, real = len(judged) - len(alive), len(alive) - len(words)
    score, strict = killed / max(len(judged), 1), killed / max(killed + real, 1)
    print(f"{dict(Counter(how for _, how in judged))}: score {score:.1%}; {strict:.1%} without sentences")
    return strict < AIM


if __name__ == "__main__":
    sys.exit(main())
