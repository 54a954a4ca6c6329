"""Measures one result: against the limits of its owner, and against what this agent usually takes in a day."""

from __future__ import annotations

from guard.drift.assess import Assessor
from guard.model import Band, Doubt, Finding, Limit, Measure
from guard.proxy.documents import documents
from guard.proxy.exchange import KEPT_LIMIT, Outcome
from guard.proxy.journal import Judged
from guard.proxy.rows import rows
from guard.proxy.volumes import Volumes
from guard.reasons import Code, Reason
from guard.requirement import asks


class Scale:
    """`guard.proxy.exchange.Gauge` for one call; afterwards it knows what was found.

    Args:
        judged: the call.
        volumes: counts what is delivered.
        assessor: knows what is usual; None where only the owner's limits count.
    """

    def __init__(self, judged: Judged, volumes: Volumes, assessor: Assessor | None) -> None:
        self._judged, self._volumes, self._assessor = judged, volumes, assessor
        self._counts_rows = any(limit.measure is Measure.ROWS for limit in judged.classification.limits)
        self.size = 0
        self.rows: int | None = None
        self.over: tuple[Limit, ...] = ()
        self.findings: tuple[Finding, ...] = ()

    @property
    def heavy(self) -> bool:
        """Whether the result is more than may go on."""
        return bool(self.over or self.findings)

    def fits(self, size: int) -> bool:
        """Whether an answer that will have so many bytes may go on as it comes; counts it if so."""
        return not self._counts_rows and self._weigh(size, None)

    def passes(self, answer: bytes, size: int) -> bool:
        """Whether this response may go on; counts it if so. Without its text nobody knows how many rows it has."""
        found = (rows(answer) if size else 0) if self._counts_rows else None
        return self._weigh(size, found, lost=size > KEPT_LIMIT)

    def watch(self, outcome: Outcome) -> None:
        """Find what there is to find in a result that went on as it came, and count it.

        Rows are counted in what is at hand of it, which is all of a short one.
        """
        counted = (rows(one) for one in documents(outcome.body)) if self._counts_rows else ()
        found = next((one for one in counted if one is not None), 0)
        if not self._weigh(outcome.result_bytes, found):
            limits = self._judged.classification.limits
            self._volumes.deliver(self._judged.call.principal.subject, limits, outcome.result_bytes, found)

    def _weigh(self, size: int, found: int | None, *, lost: bool = False) -> bool:
        call, tags = self._judged.call, self._judged.classification
        self.size, self.rows = size, found
        self.over = self._volumes.exceeded(call.principal.subject, tags.limits, size, found)
        self.findings = tuple(one for one in self._unusual(size) if asks(one, tags.sensitivity))
        if self.heavy or lost:
            return False
        self._volumes.deliver(call.principal.subject, tags.limits, size, found)
        return True

    def _unusual(self, size: int) -> tuple[Finding, ...]:
        if self._assessor is None:
            return ()
        try:
            return self._assessor.bulky(self._judged.call, size)
        except KeyError:  # its profile made room for others while the call ran
            reason = Reason(Code.MUCH_DATA, evidence=f"{size} bytes; what is usual for this agent is not at hand")
            return (Finding(signal="volume", cause=Doubt.INTENT, band=Band.ALARMING, reason=reason),)
