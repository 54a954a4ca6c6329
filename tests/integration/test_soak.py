"""The soak of `make soak`, short: every story and every judge, with too little time for a leak to show."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "tools" / "soak"


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_mixed_load_with_crashes_loses_nothing_leaves_nothing_and_is_on_record() -> None:
    done = subprocess.run(
        [sys.executable, SOAK, "--minutes", "0.5", "--workers", "6", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert {one["name"]: one["evidence"] for one in found["judges"] if not one["holds"]} == {}
    assert done.returncode == 0
    assert found["upstream_kills"] >= 1
    assert {"permitted", "paused", "voted", "left", "cancelled", "crashed", "piped"} <= set(found["outcomes"])
