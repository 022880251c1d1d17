"""What is set for the libraries of a model."""

from __future__ import annotations

import os
import subprocess
import sys

from serve.local.environment import prepare


def test_nothing_is_told_to_anybody_unless_somebody_wants_it() -> None:
    environment: dict[str, str] = {}
    prepare(environment)
    assert environment["HF_HUB_DISABLE_TELEMETRY"] == "1"
    own = {"HF_HUB_DISABLE_TELEMETRY": "0"}
    prepare(own)
    assert own == environment | {"HF_HUB_DISABLE_TELEMETRY": "0"}


def test_threads_of_torch_that_wait_for_each_other_leave_the_cores_alone() -> None:
    """What the library of threads says itself, when torch is imported as a replica does it."""
    code = "import os; from serve.local.environment import prepare; prepare(os.environ); import torch"
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))
    }
    said = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True, text=True, check=True,
    ).stderr  # fmt: skip
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in said
    assert "GOMP_SPINCOUNT = '0'" in said
