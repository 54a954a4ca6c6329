"""What calls have in common is handed to the ledger as one object, and what comes once is not kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from guard.audit.redact import Redactor
from guard.model import Call, Classification, Json, Permit, Sensitivity
from guard.proxy.journal import Journal, Judged
from guard.reasons import Code, Reason
from tests import nouns
from tests.world_store import WorldLedger

TAGS = Classification(sensitivity=Sensitivity.PUBLIC, rule="r", revision="v", reasons=(Reason(Code.TAG_PUBLIC, "o"),))


class Sharing(WorldLedger):
    """Keeps what was shared, too."""

    def __init__(self) -> None:
        super().__init__()
        self.shared: list[Mapping[str, Json] | None] = []

    def append(self, event: str, fields: Mapping[str, Json], shared: Mapping[str, Json] | None = None) -> int:
        self.shared.append(shared)
        return super().append(event, fields, shared)

    note = append


def run(journal: Journal, call: Call) -> None:
    journal.decided(Judged(call=call, classification=TAGS, findings=()), Permit(reasons=TAGS.reasons))
    journal.concluded(call, "ok", result_bytes=1)


def test_from_the_second_call_on_what_repeats_is_one_object_and_the_records_say_the_same() -> None:
    ledger = Sharing()
    journal = Journal(ledger, Redactor(b"k" * 32))
    for _ in range(3):
        run(journal, nouns.call())
    first, second, third = ledger.shared[:2], ledger.shared[2:4], ledger.shared[4:]
    assert first == [None, None]
    assert all(one is other is not None for one, other in zip(second, third, strict=True))
    assert ledger.records[0] == ledger.records[2] == ledger.records[4]
    assert ledger.records[1] == ledger.records[3] == ledger.records[5]


def test_another_agent_place_or_tool_is_never_recorded_as_an_earlier_one() -> None:
    ledger = Sharing()
    journal = Journal(ledger, Redactor(b"k" * 32))
    call = nouns.call()
    others = [
        call,
        replace(call, principal=replace(call.principal, subject="other")),
        replace(call, principal=replace(call.principal, credential="f" * 16)),
        replace(call, source=replace(call.source, address="192.0.2.9")),
        replace(call, source=replace(call.source, client="other")),
        replace(call, server="other"),
        replace(call, name="other"),
        replace(call, definition="e" * 64),
    ]
    for _ in range(2):
        for one in others:
            run(journal, one)
    decided = [fields for event, fields in ledger.records if event == "decision.made"]
    assert decided[: len(others)] == decided[len(others) :]
    assert len({str(sorted(fields.items(), key=str)) for fields in decided}) == len(others)


def test_names_as_long_as_an_agent_likes_are_not_kept() -> None:
    ledger = Sharing()
    journal = Journal(ledger, Redactor(b"k" * 32))
    call = replace(nouns.call(), kind="resource", name="file:///" + "a" * 1000)
    for _ in range(3):
        run(journal, call)
    assert ledger.shared == [None] * 6
