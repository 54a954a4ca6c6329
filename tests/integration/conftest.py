"""Fixtures of the tests that run a whole deployment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A deployment whose paused calls are answered at once."""
    with World(tmp_path) as made:
        yield made


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[World]:
    """A deployment that holds paused calls for longer than a test lasts."""
    with World(tmp_path, hold=50) as made:
        yield made


@pytest.fixture(params=["http", "stdio"])
def front(request: pytest.FixtureRequest) -> str:
    """Both ways in."""
    name: str = request.param
    return name
