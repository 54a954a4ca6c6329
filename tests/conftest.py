"""Fixtures every test may ask for."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Everything below the fronts runs on both backends."""
    backend: str = request.param
    return backend


# A busy machine proves nothing about the code: no example has a deadline, and none takes too long to be made.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# `make test` tries the same examples every time, so that the same tree has the same result; `make test-slow` others.
settings.register_profile("usual", settings.get_profile("busy"), derandomize=True)
settings.register_profile("thorough", settings.get_profile("busy"), max_examples=1_000, stateful_step_count=100)
settings.register_profile(
    "mutants",
    settings.get_profile("busy"),
    max_examples=15,
    stateful_step_count=15,
    derandomize=True,  # a score can be found again
    phases=(Phase.explicit, Phase.generate),  # that an example fails is enough, the simplest is not looked for
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "usual"))
