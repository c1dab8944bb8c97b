"""Compiles a policy in another process, and puts it together here in steps.

Rules:
- Requests are answered meanwhile: compiling holds Python's lock for as long as it takes, so it
  happens elsewhere, and what comes back is read in frames of about a millisecond.
- The other process is there only while it compiles, COMPILE_TIMEOUT_S at most.
- What was read is kept from the garbage collector: it would walk all of it, again and again.
"""

import asyncio
import contextlib
import gc
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing
from typing import Final

from ratelimitd.app.compiler_child import LENGTH_BYTES, to_length, to_message
from ratelimitd.errors import RatelimitError
from ratelimitd.policy.compile import CompileOptions
from ratelimitd.policy.loaded import Loaded, release
from ratelimitd.policy.transfer import Assembly

COMPILE_TIMEOUT_S: Final = 120.0
"""Five times what the largest policy takes: more descriptors than these are refused anyway."""

KILL_TIMEOUT_S: Final = 5.0

PAUSE_S: Final = 0.001
"""Between two steps: as long as one takes, so that requests have half of the time at least."""

_WRITE_BYTES: Final = 256 * 1024
_COMMAND: Final = (sys.executable, "-P", "-m", "ratelimitd.app.compiler_child")


class CompilerError(RatelimitError):
    """The policy could not be compiled, whatever it holds; it is worth another try."""


async def compile_apart(
    files: Mapping[str, bytes],
    options: CompileOptions,
    keep: Callable[[bytes], None] = lambda _: None,
) -> Loaded:
    """Compile `files` in a process of its own; raises PolicyError or CompilerError.

    `keep` gets each frame of what was compiled.
    """
    try:
        async with asyncio.timeout(COMPILE_TIMEOUT_S), aclosing(frames_from(files, options)) as got:
            return await assemble(got, keep)
    except TimeoutError as error:
        raise CompilerError(
            f"compiling the policy took more than {COMPILE_TIMEOUT_S:g} s; "
            "give the daemon more CPU, or make the policy smaller"
        ) from error


async def assemble(
    frames: AsyncIterator[bytes], keep: Callable[[bytes], None] = lambda _: None
) -> Loaded:
    """Put `frames` together in steps; raises PolicyError if that is what they hold."""
    assembly = Assembly()
    async for frame in frames:
        keep(frame)
        with _uncollected():
            assembly.add(frame)
        await asyncio.sleep(PAUSE_S)
    if not assembly.is_complete:
        raise CompilerError("the compiled policy is not whole")
    return assembly.finish()


async def let_go(parts: list[object]) -> None:
    """Free the parts of a policy that was replaced, in steps, if nothing else holds its roots."""
    for _ in release(parts):
        await asyncio.sleep(PAUSE_S)


async def frames_from(
    files: Mapping[str, bytes], options: CompileOptions
) -> AsyncGenerator[bytes, None]:
    """Yield what the compiling process makes of `files`; it is gone when this ends."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            process = _start(theirs)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
    except OSError as error:
        ours.close()
        raise CompilerError(f"the compiler cannot be started: {error.strerror}") from error
    try:
        await _send(writer, files, options)
        while (frame := await _receive(reader)) is not None:
            yield frame
        await _check_end(process)
    finally:
        writer.transport.abort()
        process.kill()
        await asyncio.to_thread(process.wait, KILL_TIMEOUT_S)


def _start(theirs: socket.socket) -> subprocess.Popen[bytes]:
    # Not by the loop's own means: uvloop copies the page tables of this whole process.
    return subprocess.Popen(  # noqa: S603 - our own program
        _COMMAND,
        stdin=theirs.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in a terminal is for the daemon
    )


async def _send(
    writer: asyncio.StreamWriter, files: Mapping[str, bytes], options: CompileOptions
) -> None:
    """Write the files; a child that does not read them shows by how it ends."""
    with contextlib.suppress(ConnectionError):
        writer.write(to_message(pickle.dumps((len(files), options))))
        for name, content in files.items():
            writer.write(to_message(name.encode("utf-8", "surrogateescape")))
            writer.write(to_length(content))
            data = memoryview(content)
            for at in range(0, len(data), _WRITE_BYTES):
                writer.write(data[at : at + _WRITE_BYTES])
                await writer.drain()


async def _receive(reader: asyncio.StreamReader) -> bytes | None:
    """Return the next message, None at the end, whether that is where it should be or not."""
    try:
        length = await reader.readexactly(LENGTH_BYTES)
        return await reader.readexactly(int.from_bytes(length, "big"))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def _check_end(process: subprocess.Popen[bytes]) -> None:
    """Raise CompilerError unless the process ended well."""
    code = await asyncio.to_thread(process.wait, KILL_TIMEOUT_S)
    if code < 0:
        hint = "; was there enough memory?" if code == -signal.SIGKILL else ""
        raise CompilerError(f"the compiler was ended by {signal.Signals(-code).name}{hint}")
    if code > 0:
        raise CompilerError(f"the compiler ended with exit code {code}")


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Keep what is made in the block from the garbage collector; the block awaits nothing.

    What the loop has in flight is kept from it too, so a cycle of these is never found. It is
    collected first, and there are few of them.
    """
    if not gc.isenabled():
        yield
        return
    gc.collect(1)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
