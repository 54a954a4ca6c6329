"""Examples that the contract suites are written with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from guard.model import (
    Band,
    Challenge,
    Demand,
    Doubt,
    Finding,
    Principal,
    Proof,
    ProofClass,
    Requirement,
    Sensitivity,
    State,
)
from guard.reasons import Code, Reason

T = TypeVar("T")

NOON: Final = 1_800_000_000.25
RACERS: Final = 50


def example_challenge(number: int = 1, *, digest: str = "") -> Challenge:
    """Make a pending challenge with every field in use; `number` makes id and digest its own."""
    return Challenge(
        id=f"c_{number:022d}",
        nonce=f"{number:032x}",
        principal=Principal(subject="deployer", credential="0123456789abcdef", owner="ann", on_behalf_of="bob"),
        server="payments",
        method="tools/call",
        kind="tool",
        name="refund",
        arguments='{"amount":12.5,"to":"Zoë"}',
        definition="d" * 64,
        digest=digest or f"{number:064x}",
        policy_revision="r1",
        rule="payments.yaml#tools.refund.rules[0]",
        sensitivity=Sensitivity.CRITICAL,
        effects=frozenset({"move_money", "destroy"}),
        requirement=Requirement(frozenset({Demand.CONSENT, Demand.POSSESSION}), "payments-oncall", strict=True),
        reasons=(Reason(Code.TAG_CRITICAL, "payments-team"), Reason(Code.RULE, "payments.yaml:12", "large refund")),
        findings=(
            Finding(
                signal="network",
                cause=Doubt.IDENTITY,
                band=Band.ALARMING,
                reason=Reason(Code.NEW_NETWORK, evidence="203.0.113.0/24"),
                nats=2.125,
            ),
        ),
        opened=NOON,
        expires=NOON + 900,
    )


def example_proof(subject: str = "ann") -> Proof:
    """Make a consent."""
    return Proof(
        proof_class=ProofClass.CONSENT,
        kind="totp",
        factor="f_1",
        subject=subject,
        at=NOON + 1.5,
        attestation=1,
        view_digest="e" * 64,
        note="as agreed",
        solo=True,
    )


def satisfied(challenge: Challenge) -> Challenge:
    """Make the next version of a challenge: proven."""
    return replace(challenge, state=State.SATISFIED, version=challenge.version + 1, proofs=(example_proof(),))


def consumed(challenge: Challenge, by: str = "deployer") -> Challenge:
    """Make the next version of a challenge: its grant is spent, its arguments are gone."""
    return replace(
        challenge, state=State.CONSUMED, version=challenge.version + 1, arguments="", decided=NOON + 2, ended_by=by
    )


def race(act: Callable[[int], T], racers: int = RACERS) -> Sequence[T]:
    """Call `act(0)`, `act(1)` … in as many threads at once; what they returned.

    Raises:
        BaseExceptionGroup: some of them raised.
    """
    start = threading.Barrier(racers)
    results: dict[int, T] = {}
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            start.wait()
            results[number] = act(number)
        except BaseException as error:  # noqa: BLE001 - carried into the waiting thread and raised there
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(racers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise BaseExceptionGroup("racers failed", failures)
    return [results[number] for number in range(racers)]
