"""Mutation score of guard/stepup/ and guard/factors/: `mutants.py [--again | --alive] [--seconds S] [NAME ...]`.

mutmut makes the mutants (settings in pyproject.toml; `mutmut show NAME` prints one); this runs them. Half of them have
an error that mypy finds, as `make check` would: they are caught without a run. Those that change a sentence alone (a
text that has a blank) are neither run nor counted. For the others the tests are collected once, and a process forked
for each mutant runs the tests that reach its function, the cheapest and most special first, until one fails, on
databases that are copied, in memory: many times faster than to start pytest for each.

NAMEs such as "guard.stepup.intent*" choose a part and keep the other results; `--alive` runs again what is not known
to be caught, `--again` only prints what is known. `--seconds` bounds the tests of one mutant, by the time they take
without it: what they leave alive counts as alive, so a bounded run finds a score that is too low if anything. Mutants
are run in random order, so a run that is stopped has looked at a fair sample; what it never ran is taken to be like it.
"""

import argparse
import ast
import gc
import json
import math
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatch
from functools import lru_cache
from itertools import accumulate
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import pytest
from _pytest.runner import runtestprotocol
from mutmut import __main__ as mutmut
from mutmut.configuration import config
from mutmut.mutation.data import MutantLineSpans, SourceFileMutationData
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.state import state
from mutmut.utils.file_utils import copy_also_copy_files, copy_src_dir, setup_source_paths, walk_mutatable_files

T = TypeVar("T")
AIM = 0.9
SURVIVED, KILLED, NO_TESTS, SKIPPED, TIMEOUT, MISTYPED = 0, 1, 33, 34, 36, 37
TYPE_ERRORS = frozenset(
    {
        "arg-type",
        "assignment",
        "attr-defined",
        "call-arg",
        "call-overload",
        "func-returns-value",
        "index",
        "list-item",
        "operator",
        "return",
        "return-value",
        "str-format",
        "type-var",
        "union-attr",
    }
)
"""Codes of mypy that say what the mutation did, and not what mutmut's own lines around it look like."""
CHILDREN = (os.cpu_count() or 1) + 1  # one more than cores: a mutant that hangs waits without computing
FOLDER = Path(tempfile.mkdtemp(prefix="mutants", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
HANGS_S, HANGS_TIMES = 15, 30  # a test hangs when it takes this much longer than without a mutant


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


def results() -> dict[Path, SourceFileMutationData]:
    """What is known of every mutant, by source file."""
    found = {path: SourceFileMutationData(path=path) for path in walk_mutatable_files()}
    for data in found.values():
        data.load()
    return found


class Trial:
    """Runs mutants within one pytest session instead of its tests."""

    def __init__(self, names: Sequence[str], bound: float, keep: Callable[[dict[str, int]], None]) -> None:
        self.names, self.bound = names, bound
        self.keep = keep
        self.verdicts: dict[str, int] = {}
        self._running: dict[int, str] = {}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Measure every test without a mutant, then run each mutant in a process of its own."""
        _copy_databases()
        reached, seconds = _forked(lambda: _own_folder(session) or _measure(session.items))
        gc.freeze()  # pages that no collection touches stay shared with the children
        of = {item.nodeid: item for item in session.items}
        special = Counter(test for tests in reached.values() for test in tests)
        for done, name in enumerate(self.names, 1):
            tests = sorted(reached[name.partition("__mutmut_")[0]], key=lambda test: seconds[test] * special[test])
            upto = accumulate(seconds[test] for test in tests)
            tests = [test for test, sum_ in zip(tests, upto, strict=True) if sum_ <= self.bound] or tests[:1]
            if not tests:
                self.verdicts[name] = NO_TESTS
                continue
            while len(self._running) >= CHILDREN:
                self._reap()
            if pid := os.fork():
                self._running[pid] = name
            else:
                _own_folder(session)
                _run_and_exit(name, [(of[test], seconds[test]) for test in tests])
            if done % 50 == 0:
                killed = sum(code not in {SURVIVED, NO_TESTS} for code in self.verdicts.values())
                print(f"{done} of {len(self.names)}, {killed} killed", file=sys.stderr, flush=True)
                self.keep(self.verdicts)
        while self._running:
            self._reap()
        return True

    def _reap(self) -> None:
        pid, status = os.wait()
        code = os.waitstatus_to_exitcode(status)
        self.verdicts[self._running.pop(pid)] = TIMEOUT if code == -signal.SIGALRM else min(abs(code), 1)
        shutil.rmtree(FOLDER / str(pid), ignore_errors=True)


def mistyped(paths: Iterable[Path]) -> set[str]:
    """Names of the mutants in which mypy finds an error that it does not find in the code."""
    mypy = Path(sys.executable).with_name("mypy")
    sources = [str(path) for path in paths]
    command = [mypy, "--output=json", "--cache-dir=.mypy_cache", *sources]
    said = subprocess.run(command, cwd="mutants", text=True, capture_output=True, check=False).stdout
    errors = defaultdict[str, list[dict[str, Any]]](list)
    for error in (json.loads(line) for line in said.splitlines() if line.startswith("{")):
        if error["code"] in TYPE_ERRORS:
            errors[error["file"]].append(error)
    found = set()
    for source in sources:
        spans = (
            MutantLineSpans.load(source) or MutantLineSpans(path=source, span_by_function_name={})
        ).span_by_function_name
        at = {line: name for name, span in spans.items() for line in range(span.start, span.end + 1)}
        wrong = defaultdict[str, set[tuple[str, str]]](set)
        for error in errors[source]:
            wrong[at.get(error["line"], "")].add((error["code"], error["message"]))
        module = source.removesuffix(".py").replace("/", ".")
        found |= {
            f"{module}.{name}"
            for name, its in wrong.items()
            if its - wrong.get(f"{name.rpartition('__mutmut_')[0]}__mutmut_orig", set())
        }
    return found


def _own_folder(session: pytest.Session) -> None:
    folder = FOLDER / str(os.getpid())
    folder.mkdir()
    session.config._tmp_path_factory._basetemp = folder  # noqa: SLF001 - pytest has no other way


def _copy_databases() -> None:
    """Let every new store be a copy of one that was migrated: migrations were most of the time of the tests."""
    from guard.store import sql  # noqa: PLC0415 - the mutated copy, found once the path is set
    from guard.store.seal import Keyring  # noqa: PLC0415 - the same

    empty = FOLDER / "empty"
    sql.SqlStore.open(empty, Keyring.open(empty)).close()
    made = sql._make_private  # noqa: SLF001 - what prepares a new file

    def copied(file: Path) -> None:
        if not file.exists():
            shutil.copyfile(empty / sql.DATABASE, file)
        made(file)

    sql._make_private = copied  # noqa: SLF001


def _forked(work: Callable[[], T]) -> T:
    reads, writes = os.pipe()
    if os.fork() == 0:
        with os.fdopen(writes, "wb") as pipe:
            pickle.dump(work(), pipe)
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads, "rb") as pipe:
        answer = pickle.load(pipe)
    os.wait()
    return answer


def _run(items: list[pytest.Item]) -> Iterator[bool]:
    """Run tests one after the other; yields whether each has passed."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        yield not any(report.failed for report in runtestprotocol(item, nextitem=following, log=False))


def _measure(items: list[pytest.Item]) -> tuple[dict[str, set[str]], dict[str, float]]:
    """Which tests reach a function, and how long each takes."""
    reached: dict[str, set[str]] = defaultdict(set)
    seconds = {}
    set_mutant_under_test("stats")
    begin = time.perf_counter()
    for item, passed in zip(items, _run(items), strict=True):
        if not passed:
            sys.exit(f"fails without a mutant: {item.nodeid}")
        for function in state()._stats:  # noqa: SLF001 - where mutmut notes what was called
            reached[function].add(item.nodeid)
        state()._stats.clear()  # noqa: SLF001
        seconds[item.nodeid] = time.perf_counter() - begin
        begin = time.perf_counter()
    return reached, seconds


def _run_and_exit(name: str, tests: list[tuple[pytest.Item, float]]) -> None:
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    set_mutant_under_test(name)
    verdicts = _run([item for item, _ in tests])
    for _, usual in tests:
        signal.alarm(int(HANGS_S + HANGS_TIMES * usual))
        if not next(verdicts):
            os._exit(KILLED)
    os._exit(SURVIVED)


def run(names: list[str], bound: float, alive: bool) -> None:
    """Make the mutants, run the ones chosen and keep the verdicts."""
    if not names and not alive:
        shutil.rmtree("mutants", ignore_errors=True)
    Path("mutants").mkdir(exist_ok=True)
    copy_src_dir()
    copy_also_copy_files()
    setup_source_paths()
    mutmut.create_mutants(os.cpu_count() or 1)
    known = results()
    wrong = mistyped(known)
    for data in known.values():
        left_out = {
            name: MISTYPED if name in wrong else SKIPPED
            for name in data.exit_code_by_key
            if name in wrong or only_words(name)
        }
        data.exit_code_by_key |= left_out
    chosen = [
        (code is not None, one)
        for data in known.values()
        for one, code in data.exit_code_by_key.items()
        if code not in {MISTYPED, SKIPPED}
        and any(fnmatch(one, name) for name in names or "*")
        and not (alive and code not in {None, SURVIVED, NO_TESTS})
    ]
    random.Random(0).shuffle(chosen)  # whatever is known when it is stopped is a fair sample
    chosen = [one for _, one in sorted(chosen, key=itemgetter(0))]  # what was never run comes first

    def keep(verdicts: dict[str, int]) -> None:
        for path, data in known.items():
            data.meta_path = root / "mutants" / f"{path}.meta"
            data.exit_code_by_key |= {name: code for name, code in verdicts.items() if name in data.exit_code_by_key}
            data.save()

    root, trial = Path.cwd(), Trial(chosen, bound, keep)
    options = [
        "-qq",
        "-s",
        "--rootdir=.",
        "--timeout=0",
        "--tb=native",
        "--assert=plain",
        *config().pytest_add_cli_args,
    ]
    os.chdir("mutants")
    try:
        code = pytest.main([*options, *config().pytest_add_cli_args_test_selection], plugins=[trial])
    finally:
        os.chdir(root)
    if code:
        sys.exit(code)
    keep(trial.verdicts)


def report(names: list[str]) -> bool:
    """Print the survivors and the score of every module; whether the aim is met by all together."""
    total: Counter[str] = Counter()
    for path, data in results().items():
        codes = {name: code for name, code in data.exit_code_by_key.items() if code is not None}
        alive = [name for name, code in codes.items() if code in {SURVIVED, NO_TESTS}]
        for name in alive:
            if any(fnmatch(name, one) for one in names or "*"):
                print("none " if codes[name] == NO_TESTS else "ALIVE", name)
        refused, words = (sum(code == kind for code in codes.values()) for kind in (MISTYPED, SKIPPED))
        killed = len(codes) - refused - words - len(alive)
        unknown = len(data.exit_code_by_key) - len(codes)
        here = Counter(killed=killed, alive=len(alive), refused=refused, words=words, unknown=unknown)
        total += here
        if codes:
            _line(str(path), here)
    return _line("all", total) >= AIM


def _line(of: str, count: Counter[str]) -> float:
    killed, alive, refused = count["killed"], count["alive"], count["refused"]
    unknown, words = count["unknown"], count["words"]
    by_tests = killed / max(killed + alive, 1)
    score = (refused + by_tests * (killed + alive + unknown)) / max(refused + killed + alive + unknown, 1)
    print(
        f"{of}: {killed} of {killed + alive} killed by tests ({by_tests:.1%}), {refused} refused by mypy, "
        f"{words} only words, {unknown} not run; score {score:.1%}"
    )
    return score


def main() -> int:
    """Run, print; 1 when the score is below the aim."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--alive", action="store_true")
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    try:
        if not given.again:
            run(given.names, given.seconds, given.alive)
    finally:
        shutil.rmtree(FOLDER)
    return not report(given.names)


if __name__ == "__main__":
    sys.exit(main())
