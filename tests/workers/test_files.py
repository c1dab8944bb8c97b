"""The directory that a daemon shares with its workers, and the policy's copy in it."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.errors import ConfigError
from ratelimitd.workers.directory import shared_directory
from ratelimitd.workers.policy_copy import PolicyCopy, read_policy_copy, write_policy_copy

HOLD = """
import sys, time
from pathlib import Path
from ratelimitd.workers.directory import shared_directory
with shared_directory(Path(sys.argv[1])) as directory:
    print(directory, flush=True)
    time.sleep(60)
"""
FILES = st.dictionaries(st.text(min_size=1), st.binary(max_size=2000), max_size=5)


@given(st.integers(0, 2**53), st.none() | FILES, st.text())
def test_policy_copy_comes_back_as_it_was(
    tmp_path_factory: object, serial: int, files: dict[str, bytes] | None, load_error: str
) -> None:
    assert isinstance(tmp_path_factory, pytest.TempPathFactory)
    directory = tmp_path_factory.mktemp("copy")
    copy = PolicyCopy(serial, files, load_error)

    write_policy_copy(directory, copy)

    assert read_policy_copy(directory) == copy


def test_damaged_policy_copy_is_an_error(tmp_path: Path) -> None:
    write_policy_copy(tmp_path, PolicyCopy(1, {"api.yaml": b"domain: api"}))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(ValueError, match="damaged"):
        read_policy_copy(tmp_path)


def test_missing_policy_copy_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_policy_copy(tmp_path)


def test_shared_directory_is_private_and_gone_at_the_end(tmp_path: Path) -> None:
    with shared_directory(tmp_path / "data") as directory:
        assert directory.parent == tmp_path / "data"
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        (directory / "file").write_text("x")

    assert list((tmp_path / "data").iterdir()) == []


def test_shared_directory_needs_no_data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "file").write_text("")

    with shared_directory(tmp_path / "file" / "data") as directory:
        assert directory.parent == tmp_path


def test_shared_directory_without_any_place_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("")

    with (
        pytest.raises(ConfigError, match=r"--workers: .* set --data-dir"),
        shared_directory(tmp_path / "file" / "data"),
    ):
        pass


def test_directory_of_a_killed_daemon_is_removed_and_one_in_use_is_not(tmp_path: Path) -> None:
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        left, used = (Path(_first_line(holder)) for holder in holders)
        os.kill(holders[0].pid, signal.SIGKILL)
        holders[0].wait()

        with shared_directory(tmp_path) as directory:
            assert {*tmp_path.iterdir()} == {directory, used}
        assert not left.exists()
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()


def _first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()
