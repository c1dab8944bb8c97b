"""A worker's process, from its start to its end.

    python -m ratelimitd.workers.main CHANNEL PARENT_PID MODULE:FUNCTION

Rules:
- It ends when its parent does, by the kernel's word or because the channel ended: it finishes
  what is in flight first, as at SIGTERM.
- What a worker does not need it cannot import: each such package costs memory in every worker.
- However it hangs, it is gone a few seconds after its grace.
"""

import asyncio
import contextlib
import ctypes
import importlib
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Final, Protocol, cast

import uvloop

from ratelimitd.workers.channel import Channel, inherited_channel
from ratelimitd.workers.file_limit import raise_file_limit
from ratelimitd.workers.messages import (
    Adopt,
    Begin,
    ChannelError,
    Connections,
    Drain,
    Draining,
    GoAway,
    Listener,
    Message,
    PolicyChanged,
    PolicyInForce,
    Ready,
)

# uvicorn brings watchfiles along if it can; the others are the control process's business.
NOT_IN_WORKERS: Final = ("grpc", "rich", "typer", "watchfiles")
BEGIN_TIMEOUT_S: Final = 10.0
# What is left after the grace, to close the store and write the last counters.
ALARM_MARGIN_S: Final = 5
ADOPT_TIMEOUT_S: Final = 1.0
_PR_SET_PDEATHSIG: Final = 1


class Work(Protocol):
    """What a worker serves; composed by the function that the command line names."""

    def open_connections(self, listener: Listener) -> int:
        """Return how many connections of `listener` are open."""
        ...

    async def adopt(self, message: Adopt) -> None:
        """Serve a connection; return when it is among the open ones, or gone."""
        ...

    def move(self, count: int) -> None:
        """Ask `count` gRPC clients to connect again."""
        ...

    async def load_policy(self) -> tuple[int, str]:
        """Serve the copy of the policy as it is now; return its serial and its revision."""
        ...

    async def drain(self, grace_s: float) -> None:
        """Turn unhealthy, and return when what was in flight is done, or `grace_s` has passed."""
        ...


# Composes the work; it calls the second argument whenever connections were closed.
Compose = Callable[[Begin, Callable[[], None]], contextlib.AbstractAsyncContextManager[Work]]


def main(arguments: list[str]) -> int:
    """Work until told to end; return the exit code."""
    descriptor, parent_pid, target = int(arguments[1]), int(arguments[2]), arguments[3]
    _end_with_parent(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise_file_limit()
    for name in NOT_IN_WORKERS:
        sys.modules[name] = None  # type: ignore[assignment] # how Python is told not to import it
    channel = inherited_channel(descriptor)
    begin = _receive_begin(channel)
    module, _, function = target.partition(":")
    compose = cast("Compose", getattr(importlib.import_module(module), function))
    uvloop.run(Worker(channel, begin).run(compose))
    return 0


class Worker:
    """Does what the supervisor says with the work that was composed."""

    def __init__(self, channel: Channel, begin: Begin) -> None:
        """Answer on `channel`."""
        self._channel = channel
        self._begin = begin
        self._work: Work | None = None
        self._adopted = dict.fromkeys(Listener, 0)
        self._adopting = dict.fromkeys(Listener, 0)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_reporting = False
        self._policy_changed = asyncio.Event()
        self._stop = asyncio.Event()

    async def run(self, compose: Compose) -> None:
        """Serve until told to end, then finish."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        async with compose(self._begin, self._report_soon) as work:
            self._work = work
            self._tell(PolicyInForce(*await work.load_policy()))
            loop.add_reader(self._channel, self._on_readable)
            policies = asyncio.create_task(self._follow_policy(work))
            self._tell(Ready())
            await self._stop.wait()
            # Whatever hangs from here on, the kernel ends us.
            signal.alarm(int(self._begin.grace_s) + ALARM_MARGIN_S)
            self._tell(Draining())
            policies.cancel()
            # Connections that were handed over just before are told to leave like the others.
            await asyncio.wait({policies, *self._tasks}, timeout=ADOPT_TIMEOUT_S)
            await work.drain(self._begin.grace_s)
            self._tell_connections()
        self._detach()

    def _on_readable(self) -> None:
        try:
            for message in self._channel.receive():
                self._on_message(message)
        except ChannelError:
            self._detach()
        if self._channel.is_ended:
            self._detach()

    def _on_message(self, message: Message) -> None:
        work = self._work
        assert work is not None, "read only after it was composed"
        match message:
            case Adopt(listener=listener):
                self._adopted[listener] += 1
                self._adopting[listener] += 1
                task = asyncio.create_task(self._adopt(work, message))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case GoAway(count=count):
                work.move(count)
            case PolicyChanged():
                self._policy_changed.set()
            case Drain():
                self._stop.set()
            case _:
                raise ChannelError(f"the supervisor sent {type(message).__name__}")

    async def _adopt(self, work: Work, message: Adopt) -> None:
        try:
            await work.adopt(message)
        finally:
            self._adopting[message.listener] -= 1
            self._report_soon()

    async def _follow_policy(self, work: Work) -> None:
        while True:
            await self._policy_changed.wait()
            self._policy_changed.clear()
            self._tell(PolicyInForce(*await work.load_policy()))

    def _report_soon(self) -> None:
        """Tell once, at the end of this turn of the loop, of all connections that came and went."""
        if not self._is_reporting:
            self._is_reporting = True
            asyncio.get_running_loop().call_soon(self._tell_connections)

    def _tell_connections(self) -> None:
        self._is_reporting = False
        work = self._work
        if work is None:
            return
        for listener in Listener:
            is_open = work.open_connections(listener) + self._adopting[listener]
            self._tell(Connections(listener, self._adopted[listener], is_open))

    def _tell(self, message: Message) -> None:
        if self._channel.is_ended:
            return
        try:
            self._channel.send(message)
        except ChannelError:
            self._detach()

    def _detach(self) -> None:
        """End the channel, and so ourselves: without a supervisor nobody needs us."""
        if self._channel.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._channel)
            self._channel.close()
        self._stop.set()


def _end_with_parent(parent_pid: int) -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) != 0:
            sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent_pid:
        sys.exit("the parent ended before this worker started")


def _receive_begin(channel: Channel) -> Begin:
    readable, _, _ = select.select([channel], [], [], BEGIN_TIMEOUT_S)
    messages = channel.receive(at_most=1) if readable else []
    if not messages or not isinstance(messages[0], Begin):
        sys.exit("the supervisor did not say what to do")
    return messages[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv))
