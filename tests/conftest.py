"""Fixtures every test may ask for."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Everything below the fronts runs on both backends."""
    backend: str = request.param
    return backend
