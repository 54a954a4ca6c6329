"""Whom a challenge asks at which moment: its group, and after half of its time the next one as well. Pure.

What must be proven stays the same; only who may prove it widens, and never for a machine.
"""

from __future__ import annotations

from collections.abc import Mapping

from guard.model import Challenge


def half_time(challenge: Challenge) -> float:
    """The moment (Unix seconds) at which half of the challenge's time is gone."""
    return challenge.opened + (challenge.expires - challenge.opened) / 2


def asked(challenge: Challenge, escalate: Mapping[str, str], at: float) -> tuple[str, ...]:
    """The groups whose members may decide at `at`, the first one first.

    `escalate` names the next group by the one asked first; one step, so nobody is asked who was not named.
    """
    first = challenge.requirement.approvers
    following = escalate.get(first, first)
    return (first,) if following == first or not at >= half_time(challenge) else (first, following)
