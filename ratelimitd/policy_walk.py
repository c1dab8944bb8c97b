"""Walks the directory of a policy: which files are in it, and what cannot be read.

Rules:
- Every file below the root is policy, whatever its extension; its name is its relative path.
- A root that is a single file has CALLERS_FILE beside it, if there is one, as a directory has it
  among its files.
- Symlinks are followed, each directory once, so a loop ends and a Kubernetes mount works: there
  `api.yaml` links into `..data`, which is swapped as a whole.
- What cannot be read is a finding, and the walk goes on.
"""

import errno
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from ratelimitd.errors import ConfigError, Finding
from ratelimitd.policy.callers import CALLERS_FILE
from ratelimitd.policy.compile import MAX_FILES

MAX_DIRECTORIES = 1_000
"""Each costs an inotify watch, of which a system has some thousands."""

_NOT_A_FILE = "is neither a file nor a directory"

Signature: TypeAlias = tuple[str, int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Walk:
    """What a walk found: files by name, and the directories whose events matter.

    `findings` are about what is there and cannot be read.
    """

    files: dict[str, Path] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    signature: list[Signature] = field(default_factory=list)
    directories: set[Path] = field(default_factory=set)


def walk(root: Path, *, ignore_dotfiles: bool) -> Walk:
    """Walk `root`, a directory or a single file; raises ConfigError for what cannot be policy."""
    found = Walk()
    try:
        target = root.resolve(strict=True)
        if target.is_dir():
            _Walker(root, "." if ignore_dotfiles else "..", {target}, found).directory(root, "")
        else:
            _add_file(root, root.name, found)
            _add_callers(root.parent / CALLERS_FILE, found)
    except (OSError, RuntimeError) as error:
        raise _unreadable(root, error) from error
    return found


def to_finding(name: str, path: Path, error: OSError | RuntimeError) -> Finding:
    """Return what is told of something that could not be read."""
    return Finding(name, 0, 0, "", _reason(path, error))


def _add_callers(path: Path, found: Walk) -> None:
    """Add the file that says who may call, if it is there."""
    found.directories.add(path.parent.resolve())
    try:
        _add_file(path, CALLERS_FILE, found)
    except (OSError, RuntimeError) as error:
        if isinstance(error, FileNotFoundError) and not path.is_symlink():
            return
        _add_unreadable(path, CALLERS_FILE, error, found)


@dataclass(frozen=True, slots=True)
class _Walker:
    root: Path
    skipped_prefix: str
    visited: set[Path]
    found: Walk

    def directory(self, path: Path, prefix: str) -> None:
        self.found.directories.add(path.resolve())
        if len(self.found.directories) > MAX_DIRECTORIES:
            raise ConfigError(
                f"{self.root} has more than {MAX_DIRECTORIES} directories; is it the right one?"
            )
        for entry in sorted(path.iterdir()):
            if entry.name.startswith(self.skipped_prefix):
                continue
            name = prefix + os.fsencode(entry.name).decode(errors="replace")
            try:
                self._entry(entry, name)
            except (OSError, RuntimeError) as error:
                _add_unreadable(entry, name, error, self.found)

    def _entry(self, entry: Path, name: str) -> None:
        if not entry.is_dir():
            _add_file(entry, name, self.found)
            return
        target = entry.resolve()
        if target not in self.visited:
            self.visited.add(target)
            self.directory(entry, f"{name}/")


def _add_file(path: Path, name: str, found: Walk) -> None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, _NOT_A_FILE)
    _check_number(path, found)
    found.files[name] = path
    found.directories.add(path.resolve().parent)
    found.signature.append(
        (
            name,
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )
    )


def _add_unreadable(path: Path, name: str, error: OSError | RuntimeError, found: Walk) -> None:
    _check_number(path, found)
    found.findings.append(to_finding(name, path, error))
    # It is no file to read, and a change as soon as it is another thing.
    found.signature.append((name, 0, 0, 0, 0, 0))


def _check_number(path: Path, found: Walk) -> None:
    if len(found.files) + len(found.findings) >= MAX_FILES:
        raise ConfigError(
            f"there are more than {MAX_FILES} files beside {path}; is it the right directory?"
        )


def _unreadable(path: Path, error: OSError | RuntimeError) -> ConfigError:
    if isinstance(error, FileNotFoundError) and not path.is_symlink():
        return ConfigError(f"{path} does not exist; name a directory of policy files")
    return ConfigError(f"{path} {_reason(path, error)}")


def _reason(path: Path, error: OSError | RuntimeError) -> str:
    if isinstance(error, RuntimeError) or error.errno == errno.ELOOP:
        # How pathlib reports a symlink loop depends on the version of Python.
        return "is a symlink that leads to itself"
    if error.strerror == _NOT_A_FILE:
        return f"{_NOT_A_FILE}; take it out of the policy"
    if error.errno == errno.ENOENT:
        if path.is_symlink():
            return f"is a symlink to {path.readlink()}, which does not exist"
        return "went away while it was read"
    if error.errno == errno.EACCES:
        return f"cannot be read: permission denied for user id {os.geteuid()}"
    return f"cannot be read: {error.strerror}"
