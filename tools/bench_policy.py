"""What classification and a reload cost: `bench_policy.py`; figures only, judged by nobody.

p50 of classifying one call, by conditions, argument size and number of tools, over 20 000 calls each; the best of
three reloads of 1,000 and of 10,000 tools, and the longest pause of a thread beside it while they ran.
"""

import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

from guard.model import Call, Json, Principal, Source
from guard.policy.classify import PolicySet, classify
from guard.policy.directory import PolicyDirectory
from guard.policy.reading import read

CALLS = 20_000
RULES = (
    "rules: [{when: 'args.amount > 10000', require: two_people}, "
    "{when: 'args.environment == \"staging\"', sensitivity: internal}, "
    "{when: '!windows.office', require: consent}]"
)
HEAD = "server: vault\nwindows: {office: {zone: Europe/Berlin, days: mon-fri, hours: '08:00-18:00'}}\n"


def policies(tools: int, more: str = "") -> PolicySet:
    """A set of one file with so many tools."""
    text = HEAD + "tools:\n" + "".join(f"  t{n}: {{sensitivity: internal{more}}}\n" for n in range(tools))
    policy, mistakes = read(text.encode(), "vault.yaml")
    assert policy is not None, mistakes
    return PolicySet(MappingProxyType({"vault": policy}), "r1")


def call(name: str, arguments: dict[str, Json]) -> Call:
    """One call."""
    return Call(
        id="k_1", principal=Principal(subject="robot", credential="c"), source=Source(transport="http"), server="vault",
        method="tools/call", kind="tool", name=name, arguments=arguments, canonical="", definition="", digest="",
        received=0.0,
    )  # fmt: skip


def median(known: PolicySet, tools: int, arguments: dict[str, Json]) -> float:
    """Microseconds of half of the calls, over all tools in turn, after each was classified once."""
    calls = [call(f"t{n}", arguments) for n in range(min(tools, CALLS))]
    now, clock = time.time(), time.perf_counter_ns
    for one in calls:
        classify(known, one, now=now)
    spent = []
    for number in range(CALLS):
        one = calls[number % len(calls)]
        began = clock()
        classify(known, one, now=now)
        spent.append(clock() - began)
    return statistics.median(spent) / 1000


def reload(tools: int, rules: str) -> tuple[float, float, float]:
    """Seconds of the first load and of taking a changed file of so many tools, and the longest pause beside that."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vault.yaml"
        lines = [f"  t{n}: {{sensitivity: internal{rules.replace('10000', str(10000 + n))}}}\n" for n in range(tools)]
        file.write_text(HEAD + "tools:\n" + "".join(lines))
        served = PolicyDirectory(Path(folder), lasting=True, quiet=0.0)
        began = time.perf_counter()
        served.load()
        first, best, longest = time.perf_counter() - began, 9e9, 0.0
        for change in range(3):
            file.write_text(file.read_text() + f"# {change}\n")
            best = min(best, _timed(served.refresh))
            longest = max(longest, _Beside.longest)
        return first, best, longest


class _Beside:
    """A thread that looks at the clock as traffic would, while something runs in another."""

    longest = 0.0


def _timed(run: Callable[[], object]) -> float:
    ended = threading.Event()
    took: list[float] = []

    def work() -> None:
        began = time.perf_counter()
        run()
        took.append(time.perf_counter() - began)
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    _Beside.longest, before = 0.0, time.perf_counter()
    while not ended.is_set():
        time.sleep(0.0005)
        now = time.perf_counter()
        _Beside.longest, before = max(_Beside.longest, now - before), now
    thread.join()
    return took[0]


def main() -> None:
    """Print the figures."""
    small: dict[str, Json] = {"amount": 5, "environment": "production", "to": "ACME"}
    large: dict[str, Json] = small | {"body": "x" * 100_000}
    print("classification, p50")
    for tools in (10, 1_000, 10_000):
        known = policies(tools)
        print(f"  {tools:>6} tools, no condition      {median(known, tools, small):6.2f} us")
    for name, arguments in (("small arguments", small), ("100 KB arguments", large)):
        print(f"  three conditions, {name:<18}{median(policies(10, f', {RULES}'), 10, arguments):6.2f} us")
    print(f"  no condition, 100 KB arguments    {median(policies(10), 10, large):6.2f} us")
    print("first load; reload, best of 3; the longest pause of a thread beside the reloads")
    sizes = ((1_000, "", "no condition"), (1_000, f", {RULES}", "three conditions"), (10_000, "", "no condition"))
    for tools, more, what in sizes:
        first, seconds, pause = reload(tools, more)
        print(f"  {tools:>6} tools, {what:<17} {first:6.2f} s {seconds:6.2f} s {pause * 1000:6.1f} ms")


if __name__ == "__main__":
    main()
