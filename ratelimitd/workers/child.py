"""One worker as the supervisor sees it: a process, the channel to it, and what it has to do."""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Final

from ratelimitd.workers.channel import Channel, channel_pair
from ratelimitd.workers.messages import Begin, Connections, Listener

# Connections that were handed to a worker which did not see them yet. A worker that hangs gets
# no more than these.
MAX_PENDING: Final = 256
_POLL_S: Final = 0.02


@dataclass(slots=True)
class Load:
    """The connections of one listener in one worker; `leaving` were asked to leave and have not."""

    handed: int = 0
    adopted: int = 0
    open: int = 0
    leaving: int = 0

    @property
    def pending(self) -> int:
        """Return how many the worker has not seen yet."""
        return self.handed - self.adopted

    @property
    def connections(self) -> int:
        """Return how many the worker has, or is about to have."""
        return self.pending + self.open

    @property
    def staying(self) -> int:
        """Return how many there are that were not asked to leave."""
        return max(0, self.connections - self.leaving)

    def report(self, told: Connections) -> None:
        """Take over what the worker says."""
        closed = max(0, self.open - told.open)
        self.adopted, self.open = told.adopted, told.open
        self.leaving = min(max(0, self.leaving - closed), self.connections)


@dataclass(slots=True, eq=False)
class Child:
    """A worker that was started."""

    slot: int
    number: int
    process: subprocess.Popen[bytes]
    channel: Channel
    started_s: float
    is_ready: bool = False
    is_draining: bool = False
    policy_serial: int = 0
    policy_revision: str = ""
    loads: dict[Listener, Load] = field(
        default_factory=lambda: {listener: Load() for listener in Listener}
    )

    @property
    def can_take(self) -> bool:
        """Whether a connection can be handed over now."""
        return (
            self.is_ready
            and not self.is_draining
            and not self.channel.is_full
            and sum(load.pending for load in self.loads.values()) < MAX_PENDING
        )

    def terminate(self) -> None:
        """Ask the process to finish and end."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()

    def kill(self) -> None:
        """End the process at once."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()


def start_child(target: str, begin: Begin) -> Child:
    """Start a worker that does what `target`, "module:function", composes.

    To be called from the main thread: the worker ends with the thread that started it.
    """
    assert threading.current_thread() is threading.main_thread()
    channel, theirs = channel_pair()
    try:
        with theirs:
            process = subprocess.Popen(  # noqa: S603 - our own program
                [
                    *(sys.executable, "-P", "-m", "ratelimitd.workers.main"),
                    *(str(theirs.fileno()), str(os.getpid()), target),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                # Ctrl-C in a terminal is for the daemon: it drains its workers.
                start_new_session=True,
            )
        channel.send(begin)
    except BaseException:
        channel.close()
        raise
    return Child(begin.slot, begin.number, process, channel, time.monotonic())


async def wait_for_exit(child: Child, timeout_s: float) -> int | None:
    """Return the exit code of a worker, None if it still runs after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while (code := child.process.poll()) is None:
        if time.monotonic() > deadline_s:
            return None
        await asyncio.sleep(_POLL_S)
    return code
