"""Fixtures every test may ask for."""

from __future__ import annotations

import os

import pytest
from hypothesis import Phase, settings


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Everything below the fronts runs on both backends."""
    backend: str = request.param
    return backend


# A busy machine proves nothing about the code, so no example has a deadline.
settings.register_profile("usual", deadline=None)
settings.register_profile("thorough", deadline=None, max_examples=1_000, stateful_step_count=100)
settings.register_profile(
    "mutants",
    max_examples=15,
    stateful_step_count=15,
    deadline=None,
    derandomize=True,  # a score can be found again
    phases=(Phase.explicit, Phase.generate),  # that an example fails is enough, the simplest is not looked for
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "usual"))
