"""The process that compiles a policy: files come in, frames go out, on one socket.

    python -P -m ratelimitd.app.compiler_child

Rules:
- The socket is stdin, open until the parent has everything. Its end ends this process, in the
  midst of compiling too: nothing of it outlives its parent.
- It yields the processor to processes that answer requests.
- Every message is its length in four bytes, big end first, and so many bytes.
"""

import contextlib
import os
import pickle
import threading
from typing import BinaryIO, Final

from ratelimitd.policy.transfer import compile_to_frames

LENGTH_BYTES: Final = 4
_NICENESS: Final = 5


def main() -> int:
    """Compile once; return the exit code."""
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
    # Unbuffered, because the last read goes on until the parent is done, or gone.
    source = os.fdopen(0, "rb", buffering=0, closefd=False)
    count, options = pickle.loads(_read(source))  # noqa: S301 - from the parent, our own program
    files: dict[str, bytes] = {}
    for _ in range(count):
        name = _read(source).decode("utf-8", "surrogateescape")
        files[name] = _read(source)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with os.fdopen(0, "wb", closefd=False) as out:
        for frame in compile_to_frames(files, options):
            out.write(to_message(frame))
    return 0


def to_message(data: bytes) -> bytes:
    """Return `data` with its length before it."""
    return to_length(data) + data


def to_length(data: bytes) -> bytes:
    """Return what precedes `data`."""
    return len(data).to_bytes(LENGTH_BYTES, "big")


def _read(source: BinaryIO) -> bytes:
    return _exactly(source, int.from_bytes(_exactly(source, LENGTH_BYTES), "big"))


def _exactly(source: BinaryIO, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = source.read(count - len(parts))
        if not part:
            os._exit(1)  # the parent is gone
        parts += part
    return bytes(parts)


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    code = main()
    # No finalizers: the thread still reads, and a large tree takes long to be let go.
    os._exit(code)
