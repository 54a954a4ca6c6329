"""Closing factors: by compare-and-swap, whoever else changes them at the same moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from guard.ports import Factor, Factors


def revoke(factors: Factors, factor: Factor, at: float) -> bool:
    """Revoke a factor for good and erase its secret; False when it was revoked before."""
    return _close(factors, factor, lambda now: None if now.revoked else replace(now, revoked=at, secret=b""))


def lock(factors: Factors, factor: Factor, at: float) -> bool:
    """Lock a factor until its subject is enrolled again; False when it was locked or revoked before."""
    return _close(factors, factor, lambda now: None if now.revoked or now.locked else replace(now, locked=at))


def _close(factors: Factors, factor: Factor, change: Callable[[Factor], Factor | None]) -> bool:
    current: Factor | None = factor
    while current is not None and (closed := change(current)) is not None:
        if factors.swap(current, replace(closed, version=current.version + 1)):
            return True
        current = factors.get(factor.id)
    return False
