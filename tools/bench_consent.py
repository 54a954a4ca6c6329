"""What consent costs: from a valid proof to the call leaving, the console with 10,000 that wait, the weight of a page.

Runs `guard serve` with SQLite in a temporary directory. The time of a proof begins when a workload's
signature is sent to the local socket, and ends when the tool server has read the call, by the clock both share. Every
figure is a median of many; on a machine that does other work it says little, so the load is printed, too.
"""

from __future__ import annotations

import base64
import os
import re
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

import psutil
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from guard.factors.signature import workload_factor
from guard.model import Demand, Requirement
from guard.signer.filekey import FileKey
from guard.stepup.binding import challenge_bytes
from tests.guards import Serving
from tests.nouns import challenge
from tests.visitors import Client, add_person
from tests.world import World, until

PROOFS, ROUNDS, PENDING = 101, 31, 10_000
POLICY = "server: {server}\nowner: bench\ntools:\n  wipe: {sensitivity: sensitive, require: possession}\n"
PERSON = "server: {server}\nowner: bench\ntools:\n  wipe: {sensitivity: sensitive, require: consent}\n"
PATHS = ("/", "/history", "/history?q=refund", "/v1/challenges?limit=200")


def main() -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder, World(Path(folder), hold=30) as world:
        world.write_everywhere(POLICY)
        guard = world.serve()
        process = psutil.Process(guard.process.pid)
        before = sum(process.cpu_times()[:2])
        times = proofs(world, guard)
        spent = (sum(process.cpu_times()[:2]) - before) * 1000 / PROOFS
        print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
        deciles = statistics.quantiles(times, n=10)
        print(
            f"from a valid proof to the call leaving: p50 {statistics.median(times):.1f} ms, p90 {deciles[-1]:.1f} ms,"
            f" best {min(times):.1f} ms, of {len(times)} (goal: p50 10 ms)"
        )
        print(f"  CPU of the guard for all of it, from the call that pauses to its answer: {spent:.1f} ms a call")
        crypto = verification(world)
        print(f"  of it, to build the document and verify the signature: p50 {crypto:.2f} ms")
    with tempfile.TemporaryDirectory() as folder, World(Path(folder)) as world:
        world.write_everywhere(PERSON)
        console(world, world.serve())
    return 0


def proofs(world: World, guard: Serving) -> list[float]:
    """Milliseconds from sending a signature to the tool server having the held call, one call after the other."""
    key, factor = enrolled(world)
    times = []
    with world.desk() as desk:
        challenges = desk.store.challenges
        for number in range(PROOFS):
            held = guard.ask("wipe", {"number": number})
            until(lambda: list(challenges.find()) and challenges.find()[-1].state == "pending", "it waits", within=30)
            found = challenges.find()[-1]
            signature = key.sign(challenge_bytes(found, audience=desk.config.deployment))
            evidence = {
                "kind": "signature",
                "factor": factor,
                "signature": base64.b64encode(signature).decode("ascii"),
            }
            began = time.monotonic()
            guard.prove(found.id, evidence)
            answer = held.future.result(30)
            assert answer is not None
            assert answer.ran, answer
            [line] = [one for one in world.ran() if one["arguments"] == {"number": number}]
            times.append((line["mono"] - began) * 1000)
    return times[1:]


def enrolled(world: World) -> tuple[FileKey, str]:
    """A key of the agent's, enrolled as one that a token holds, and the id of its factor."""
    private = ec.generate_private_key(ec.SECP256R1())
    spki = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with world.desk() as desk:
        name = desk.clock.token("f")
        made = workload_factor(identifier=name, subject="robot", spki=spki, attestation=1, now=time.time())
        desk.store.factors.add(made)
    return FileKey(private), name


def verification(world: World) -> float:
    """Milliseconds of a signature's verification in this process, with the document it covers."""
    with world.desk() as desk:
        ceremony_factor = desk.ceremony()._verifiers["signature"]  # noqa: SLF001 - the one the guard uses
        [factor] = desk.store.factors.of("robot", "signature")
        private = ec.generate_private_key(ec.SECP256R1())
        spki = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        other = workload_factor(identifier="f_bench", subject="robot", spki=spki, attestation=1, now=factor.created)
        desk.store.factors.add(other)
        times = []
        for number in range(PROOFS):
            one = challenge(Demand.POSSESSION, random=f"{number:022d}")
            one = replace(one, principal=replace(one.principal, subject="robot"))
            signature = FileKey(private).sign(challenge_bytes(one, audience=desk.config.deployment))
            evidence = {"factor": "f_bench", "signature": base64.b64encode(signature).decode("ascii")}
            began = time.perf_counter()
            ceremony_factor.verify(one, evidence, one.opened)
            times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def console(world: World, guard: Serving) -> None:
    """The lists with many that wait, and the heaviest page of one of them."""
    phone, now = add_person(world, "ann"), time.time()
    paused = guard.call("wipe", {"text": "<&'\"" * 10_000})
    with world.desk() as desk:
        for number in range(PENDING):
            group = "others" if number % 5 == 0 else "approvers"
            waits = replace(
                challenge(Demand.CONSENT, random=f"{number:022d}", arguments='{"blob":"' + "x" * 1000 + '"}'),
                digest=f"{number:064x}",
                requirement=Requirement(frozenset({Demand.CONSENT}), approvers=group),
                opened=now,
                expires=now + 900,
            )
            desk.store.challenges.open_or_join(waits)
    client = Client(guard)
    client.log_in("ann", phone.now())
    print(f"\nload {os.getloadavg()[0]:.1f}; with {PENDING:,} that wait (goal: a list in 200 ms)")
    for path in PATHS:
        times = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            assert client("GET", path).status == HTTPStatus.OK
            times.append((time.perf_counter() - began) * 1000)
        print(f"  {path:<26} p50 {statistics.median(times):6.1f} ms, best {min(times):6.1f} ms, of {ROUNDS}")
    page = client("GET", f"/challenges/{paused.challenge}").text
    loaded = re.findall(r'(?:src|href)="(/static/[^"]+)"', page)
    weight = sum(len(text.encode()) for text in (page, *(client("GET", one).text for one in loaded)))
    print(f"the page of a call with 40,000 characters of markup, style and script: {weight:,} bytes (goal: 50 KB)")


if __name__ == "__main__":
    sys.exit(main())
