"""Fixtures every test may ask for."""

from __future__ import annotations

import pytest
from hypothesis import settings


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Everything below the fronts runs on both backends."""
    backend: str = request.param
    return backend


settings.register_profile("mutants", max_examples=15, deadline=None, stateful_step_count=15)
