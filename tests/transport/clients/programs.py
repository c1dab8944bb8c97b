"""The clients in Go and JavaScript, built out of the tree from the versions pinned beside them."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.programs import find_program
from tests.transport.clients.plan import Client, program

SOURCES = Path(__file__).parent
BUILD_TIMEOUT_S = 300


def build_go(directory: Path) -> Client:
    """Build the client by grpc-go in `directory`."""
    go = find_program("go", "build the client of grpc-go with")
    built = directory / "client"
    _run([go, "build", "-o", str(built), "."], SOURCES / "go")
    return program([built])


def install_js(directory: Path) -> Client:
    """Install the client by grpc-js in `directory`."""
    node = find_program("node", "run the client of grpc-js with")
    npm = find_program("npm", "install grpc-js with")
    copy = directory / "client"
    shutil.copytree(SOURCES / "js", copy, ignore=shutil.ignore_patterns("node_modules"))
    _run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], copy)
    return program([node, copy / "client.js"])


def _run(command: Sequence[str], directory: Path) -> None:
    """Run a build; what it needs comes by the machine's package registries."""
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
