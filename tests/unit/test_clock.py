"""The random ids of this machine."""

from __future__ import annotations

import re
from collections import Counter

from guard.clock import SystemClock


def test_a_token_is_its_prefix_and_22_letters_or_digits() -> None:
    clock = SystemClock()
    assert all(re.fullmatch(r"k_[0-9A-Za-z]{22}", clock.token("k")) for _ in range(1000))


def test_tokens_do_not_repeat() -> None:
    clock = SystemClock()
    assert len({clock.token("k") for _ in range(10_000)}) == 10_000


def test_every_letter_is_as_likely_as_any_other() -> None:
    clock = SystemClock()
    counts = Counter("".join(clock.token("k")[2:] for _ in range(20_000)))
    assert len(counts) == 62
    expected = 20_000 * 22 / 62
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 140  # chi squared, p about 1e-8
