"""A private directory for what a daemon and its workers share while they run.

Rules:
- It is in the data directory, or where the system keeps temporary files if that cannot be
  written: a daemon with a remote store needs no data directory.
- It is removed at the end. One that a killed daemon left behind is removed by the next start in
  the same place: its lock is free then.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ratelimitd.errors import ConfigError

PREFIX: Final = "ratelimitd-workers-"
_LOCK: Final = "lock"


@contextlib.contextmanager
def shared_directory(data_dir: Path) -> Iterator[Path]:
    """Give a new directory that only this user can read, until the block ends."""
    directory = _make(data_dir)
    lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _remove_left(directory)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def _make(data_dir: Path) -> Path:
    with contextlib.suppress(OSError):
        data_dir.mkdir(parents=True, exist_ok=True)
    reasons = []
    for place in (data_dir, Path(tempfile.gettempdir())):
        try:
            return Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        except OSError as error:
            reasons.append(f"{place}: {error.strerror}")
    raise ConfigError(
        f"--workers: the workers need a directory that can be written ({'; '.join(reasons)}); "
        "set --data-dir"
    )


def _remove_left(ours: Path) -> None:
    for directory in ours.parent.glob(f"{PREFIX}*"):
        if directory == ours:
            continue
        with contextlib.suppress(OSError):
            lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(lock)
