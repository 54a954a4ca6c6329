"""The requirement table, transcribed row by row, as an oracle for `guard.requirement`.

Written from the specification and independent of the code: cells are sets of words, not joins of demands, and
no threshold is shared. Keep it dull: its only virtue is that a reader can hold it against the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from guard.model import Classification, Finding, Proof

# (sensitivity, doubt, band) -> what the cell adds
TABLE = {
    ("public", "identity", "calm"): [],
    ("public", "identity", "unusual"): [],
    ("public", "identity", "alarming"): ["possession"],
    ("public", "intent", "calm"): [],
    ("public", "intent", "unusual"): [],
    ("public", "intent", "alarming"): ["consent"],
    ("internal", "identity", "calm"): [],
    ("internal", "identity", "unusual"): ["possession"],
    ("internal", "identity", "alarming"): ["possession"],
    ("internal", "intent", "calm"): [],
    ("internal", "intent", "unusual"): [],
    ("internal", "intent", "alarming"): ["consent"],
    ("sensitive", "identity", "calm"): [],
    ("sensitive", "identity", "unusual"): ["possession"],
    ("sensitive", "identity", "alarming"): ["possession"],
    ("sensitive", "intent", "calm"): [],
    ("sensitive", "intent", "unusual"): ["consent"],
    ("sensitive", "intent", "alarming"): ["consent"],
    ("critical", "identity", "calm"): [],
    ("critical", "identity", "unusual"): ["possession"],
    ("critical", "identity", "alarming"): ["possession"],
    ("critical", "intent", "calm"): [],
    ("critical", "intent", "unusual"): ["consent"],
    ("critical", "intent", "alarming"): ["consent", "two_people"],
}


def demanded(classification: Classification, findings: Iterable[Finding], irreversible: Iterable[str]) -> set[str]:
    """Every demand the table makes, by name."""
    sensitivity = classification.sensitivity.name.lower()
    words = {str(demand) for demand in classification.demands}
    if not classification.tagged:
        words.add("step_up")
    if sensitivity == "critical":
        words.add("step_up")
        for effect in irreversible:
            if effect in classification.effects:
                words.add("consent")
    for finding in findings:
        words.update(TABLE[sensitivity, str(finding.cause), finding.band.name.lower()])
    return words


def met(words: Iterable[str], proofs: Sequence[Proof], *, critical: bool) -> bool:
    """Whether proofs meet every named demand, counted the slow way."""
    signed_by = [proof.subject for proof in proofs if proof.proof_class == "possession" and proof.attestation > 0]
    people = []
    for proof in proofs:
        if str(proof.proof_class) != "consent":
            continue
        if proof.subject in people or proof.subject in signed_by or proof.subject == "":
            continue
        if critical and proof.kind == "totp" and len(signed_by) == 0:
            continue
        people.append(proof.subject)
    answers = {
        "step_up": len(signed_by) > 0 or len(people) > 0,
        "possession": len(signed_by) > 0,
        "consent": len(people) > 0,
        "two_people": len(people) > 1,
    }
    return all(answers[word] for word in words)
