"""A file that one process writes and others read, whole at every moment.

    0   magic, version
    16  two slots: sequence, length, checksum of the data
    64  the data of one slot, then the data of the other

Rules:
- The writer fills the older slot, data first, so that the newer one is never touched. A reader
  takes the newest slot whose checksum is right: what is being written has a wrong one.
- What does not fit makes a larger file, which replaces the old one by its name.
- A write is a copy in memory. It survives the writer, and is not meant to survive the machine.
"""

import mmap
import os
import threading
import zlib
from pathlib import Path
from struct import Struct
from typing import Final

MAGIC: Final = b"rlmapped1\0\0\0\0\0\0\0"
_SLOT: Final = Struct("<QII")
_SLOTS_AT: Final = len(MAGIC)
_DATA_AT: Final = 64
_MIN_CAPACITY: Final = 64 * 1024
# A snapshot of the largest policy has some MiB.
MAX_BYTES: Final = 256 * 1024 * 1024
# A reader that is held up for as long as two writes sees both slots wrong, and looks again.
_READ_ATTEMPTS: Final = 5


class MappedFile:
    """The writer's side; may be used by several threads of it."""

    def __init__(self, path: Path) -> None:
        """Begin anew at `path`; nothing is there to be read until the first `write`."""
        self.path = path
        self._lock = threading.Lock()
        self._sequence = 0
        self._capacity = 0
        self._map: mmap.mmap | None = None

    def write(self, data: bytes) -> None:
        """Let readers see `data` from now on."""
        assert len(data) <= MAX_BYTES, f"{len(data)} bytes of metrics"
        with self._lock:
            if self._map is None or len(data) > self._capacity:
                self._grow(data)
            else:
                self._put(self._map, data)

    def close(self) -> None:
        """Stop writing; the file stays."""
        with self._lock:
            if self._map is not None:
                self._map.close()
                self._map = None

    def _grow(self, data: bytes) -> None:
        """Replace the file by one with room to spare for `data`."""
        self._capacity = max(_MIN_CAPACITY, len(data) * 2)
        new = self.path.with_name(f"{self.path.name}.new")
        with new.open("w+b") as file:
            file.truncate(_DATA_AT + 2 * self._capacity)
            mapped = mmap.mmap(file.fileno(), 0)
        mapped[: len(MAGIC)] = MAGIC
        self._put(mapped, data)
        new.replace(self.path)
        if self._map is not None:
            self._map.close()
        self._map = mapped

    def _put(self, mapped: mmap.mmap, data: bytes) -> None:
        self._sequence += 1
        slot = self._sequence % 2
        start = _DATA_AT + slot * self._capacity
        mapped[start : start + len(data)] = data
        _SLOT.pack_into(
            mapped,
            _SLOTS_AT + slot * _SLOT.size,
            self._sequence,
            len(data),
            _checksum(self._sequence, data),
        )


def read_mapped(path: Path) -> bytes | None:
    """Return what was written last; None if there is no file, or nothing that is whole in it."""
    for _ in range(_READ_ATTEMPTS):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        found = _newest(content)
        if found is not None:
            return found
        os.sched_yield()
    return None


def _newest(content: bytes) -> bytes | None:
    if len(content) < _DATA_AT or not content.startswith(MAGIC):
        return None
    capacity = (len(content) - _DATA_AT) // 2
    slots = [
        (*_SLOT.unpack_from(content, _SLOTS_AT + slot * _SLOT.size), _DATA_AT + slot * capacity)
        for slot in range(2)
    ]
    for sequence, length, checksum, start in sorted(slots, reverse=True):
        data = content[start : start + length]
        if sequence and len(data) == length and _checksum(sequence, data) == checksum:
            return data
    return None


def _checksum(sequence: int, data: bytes) -> int:
    return zlib.crc32(data, sequence & 0xFFFFFFFF)
