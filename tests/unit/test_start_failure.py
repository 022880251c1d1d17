"""Why an application of Ray Serve has not started, in one line."""

from __future__ import annotations

import pytest

from serve.start_failure import reason

SAID = "Failed to update the deployments ['one'].\nMore."
TRACEBACK = "The deployment failed to start 1 times in a row. Error:\nTraceback:\n  File x\nRuntimeError: No platform.\n"


@pytest.mark.parametrize(
    ("said", "raised", "words"),
    [
        (SAID, [" ", TRACEBACK], "RuntimeError: No platform"),
        (SAID, [" "], "Failed to update the deployments ['one']"),
        (" ", [], "it does not say why"),
    ],
)
def test_what_a_replica_has_raised_comes_before_what_serve_says(
    said: str, raised: list[str], words: str
) -> None:
    assert reason(said, raised) == words
