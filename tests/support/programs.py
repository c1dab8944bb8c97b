"""Programs that a test needs and a laptop may lack: then it skips, and in CI it fails."""

import os
import shutil

import pytest


def find_program(name: str, use: str) -> str:
    """Return the path of a program; `use` says what it is for."""
    found = shutil.which(name)
    if found is None:
        reason = f"no {name} here to {use}"
        if os.environ.get("CI"):
            pytest.fail(f"{reason}; .ci/run installs it")
        pytest.skip(reason)
    return found
