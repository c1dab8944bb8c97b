r"""The policy as it was compiled, in a file: the control process compiles once for all workers.

    ratelimitd frames PROGRAM\n                     what made it, see `program_version`
    length in four bytes, checksum in four, frame   ... for each frame of policy/transfer.py

Rules:
- Frames are pickles, for our own processes alone: the file lies in the directory that only our
  user can read, a reader looks first whether the same program made it, and at each checksum.
- A worker can do without: whatever is wrong with the file, it compiles the policy's copy itself.
- A file is complete once it has its name. That of the policy before stays for who reads it still.
"""

import hashlib
import logging
import zlib
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from ratelimitd import policy

_log = logging.getLogger("ratelimitd.policy")

_NEW: Final = "policy.frames.new"
_MAGIC: Final = b"ratelimitd frames "
_NUMBER_BYTES: Final = 4


def program_version() -> str:
    """Return what changes with the code that compiles and reads policies.

    A process asks at its start: later the files may be those of another version.
    """
    digest = hashlib.sha256()
    for root in policy.__path__:
        for path in sorted(Path(root).glob("*.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:32]


class PolicyFrames:
    """Keeps the frames of the policy in force in `directory`."""

    def __init__(self, directory: Path) -> None:
        """Keep nothing yet."""
        self._directory = directory
        self._program = program_version()
        self._file: BinaryIO | None = None
        self._kept: list[Path] = []

    def begin(self) -> None:
        """Begin with the frames of another policy."""
        self.drop()
        try:
            self._file = (self._directory / _NEW).open("wb")
            self._file.write(_MAGIC + self._program.encode() + b"\n")
        except OSError as error:
            self._give_up(error)

    def add(self, frame: bytes) -> None:
        """Keep one more frame."""
        if self._file is None:
            return
        try:
            self._file.write(_to_bytes(len(frame)) + _to_bytes(zlib.crc32(frame)) + frame)
        except OSError as error:
            self._give_up(error)

    def commit(self, revision: str) -> None:
        """Give the frames to workers that look for this revision."""
        if self._file is None:
            return
        path = frames_path(self._directory, revision)
        try:
            self._file.close()
            (self._directory / _NEW).replace(path)
        except OSError as error:
            self._give_up(error)
            return
        self._file = None
        self._kept = [*(kept for kept in self._kept if kept != path), path]
        while len(self._kept) > 2:  # noqa: PLR2004 - this one and the one before
            self._kept.pop(0).unlink(missing_ok=True)

    def drop(self) -> None:
        """Forget the frames that were begun, if any: the policy is not put in force."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None
        with suppress(OSError):
            (self._directory / _NEW).unlink(missing_ok=True)

    def _give_up(self, error: OSError) -> None:
        _log.warning(
            "the compiled policy cannot be kept, each worker compiles it: %s", error.strerror
        )
        self.drop()


def frames_path(directory: Path, revision: str) -> Path:
    """Return where the frames of a policy are."""
    return directory / f"policy-{revision}.frames"


async def read_frames(path: Path, program: str) -> AsyncGenerator[bytes, None]:
    """Yield the frames of a file that `program` made. Raises OSError or ValueError."""
    with path.open("rb") as file:
        made_by = _MAGIC + program.encode() + b"\n"
        if file.read(len(made_by)) != made_by:
            raise ValueError(f"{path} was made by another program")
        while head := file.read(2 * _NUMBER_BYTES):
            length = int.from_bytes(head[:_NUMBER_BYTES], "big")
            frame = file.read(length)
            checksum = int.from_bytes(head[_NUMBER_BYTES:], "big")
            if len(frame) != length or zlib.crc32(frame) != checksum:
                raise ValueError(f"{path} is damaged")
            yield frame


def _to_bytes(number: int) -> bytes:
    return number.to_bytes(_NUMBER_BYTES, "big")
