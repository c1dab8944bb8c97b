"""Keeps N workers running, and hands each accepted connection to the one with the fewest.

Rules:
- A worker that ends costs its own connections only: the others go on, and another is started in
  its place, later each time if it keeps ending.
- Connections are accepted only while a worker can take them; until then the kernel queues them.
- At the end no worker is left: those that do not end within the grace are killed. If we are
  killed ourselves, the kernel tells each worker, and it finishes and ends.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never

from ratelimitd.errors import ConfigError
from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.telemetry.logs import fields
from ratelimitd.telemetry.processes import CONTROL, EndedWorkers, Publisher
from ratelimitd.transport.acceptor import Acceptor
from ratelimitd.workers.balance import Rebalancer, choose
from ratelimitd.workers.channel import Channel
from ratelimitd.workers.child import Child, start_child, wait_for_exit
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
from ratelimitd.workers.policy_copy import PolicyCopy, write_policy_copy

_log = logging.getLogger("ratelimitd.supervisor")

# A worker needs about a second to start, and more on a busy machine.
START_TIMEOUT_S: Final = 30.0
TICK_S: Final = 1.0
# A worker that ran this long was well: its successor starts at once.
WELL_S: Final = 30.0
MIN_BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 5.0
# What a worker has beyond the grace to write its last counters and end.
KILL_MARGIN_S: Final = 2.0
START_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What each worker is: `target`, "module:function", composes its work from `settings`."""

    count: int
    target: str
    settings: str
    directory: Path
    grace_s: float


class Supervisor:
    """Owns the listening sockets and the workers; needs a running loop in the main thread."""

    def __init__(
        self,
        options: WorkerOptions,
        listeners: Mapping[Listener, socket.socket],
        telemetry: Telemetry,
    ) -> None:
        """Prepare; `start` starts the workers."""
        self._options = options
        self._telemetry = telemetry
        self._loop = asyncio.get_running_loop()
        self._acceptor = Acceptor(listeners, self._hand_over, has_room=self._has_room)
        self._children: list[Child | None] = [None] * options.count
        self._last = dict.fromkeys(Listener, -1)
        self._number = 0
        self._serial = 0
        self._backoff_s = [0.0] * options.count
        self._rebalancer = Rebalancer()
        self._ended = EndedWorkers(options.directory)
        self._publisher = Publisher(options.directory / CONTROL, telemetry)
        # Workers that were given up and may still run, and who waits for their end.
        self._ending: dict[int, Child] = {}
        self._replacing: set[asyncio.Task[None]] = set()
        # Until all are ready nobody gets a connection: the first one would get them all.
        self._is_started = False
        self._is_stopping = False
        self._changed = asyncio.Event()
        self._ticking: asyncio.TimerHandle | None = None

    @property
    def children(self) -> tuple[Child, ...]:
        """Return the workers that run now."""
        return tuple(child for child in self._children if child is not None)

    async def start(self) -> None:
        """Start all workers, wait until they are ready, then accept. ConfigError if one ends."""
        self._ticking = self._loop.call_later(TICK_S, self._tick)
        started = [self._launch(slot) for slot in range(self._options.count)]
        deadline_s = self._loop.time() + START_TIMEOUT_S
        while not all(child.is_ready for child in started):
            for child in started:
                if child not in self._children:
                    code = await wait_for_exit(child, KILL_MARGIN_S)
                    raise ConfigError(
                        f"worker {child.slot} ended with code {code} before it was ready; "
                        "the log says why"
                    )
            if self._loop.time() > deadline_s:
                raise ConfigError(f"the workers were not ready within {START_TIMEOUT_S:.0f} s")
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), START_POLL_S)
        self._is_started = True
        self._acceptor.resume()

    def tell_policy(
        self, files: Mapping[str, bytes] | None, load_error: str = "", revision: str = ""
    ) -> int:
        """Let all workers serve `files`, and know what is wrong with newer ones; return a serial.

        `files` must compile, to the `revision`. None is no policy at all.
        """
        self._serial += 1
        copy = PolicyCopy(self._serial, files, load_error, revision)
        write_policy_copy(self._options.directory, copy)
        for child in self.children:
            self._send(child, PolicyChanged(self._serial))
        return self._serial

    async def stop(self) -> None:
        """Accept no more, let all workers finish within the grace, and end them all."""
        self._is_stopping = True
        if self._ticking is not None:
            self._ticking.cancel()
        self._acceptor.close()
        for task in self._replacing:
            task.cancel()
        await asyncio.gather(*self._replacing, return_exceptions=True)
        children = self.children
        for child in children:
            self._send(child, Drain())
        for child in self._ending.values():
            child.terminate()
        codes = await asyncio.gather(
            *(self._end(child) for child in {*children, *self._ending.values()})
        )
        killed = [code for code in codes if code < 0]
        if killed:
            _log.warning("%d workers did not end in time and were killed", len(killed))
        self._publisher.close()

    def publish(self) -> None:
        """Write the counters of this process, so that a scrape shows them as of now."""
        self._publisher.publish()

    def _launch(self, slot: int) -> Child:
        self._number += 1
        options = self._options
        begin = Begin(
            slot + 1, self._number, str(options.directory), options.grace_s, options.settings
        )
        child = start_child(options.target, begin)
        self._children[slot] = child
        self._loop.add_reader(child.channel, self._on_readable, child)
        return child

    def _hand_over(self, listener: Listener, sock: socket.socket) -> bool:
        loads = [
            child.loads[listener].staying if child is not None and child.can_take else None
            for child in self._children
        ]
        slot = choose(loads, self._last[listener])
        child = None if slot is None else self._children[slot]
        if slot is None or child is None:
            return False
        self._last[listener] = slot
        child.loads[listener].handed += 1
        self._send(child, Adopt(listener, sock))
        return True

    def _has_room(self) -> bool:
        return self._is_started and any(child.can_take for child in self.children)

    def _send(self, child: Child, message: Message) -> None:
        try:
            child.channel.send(message)
        except ChannelError as error:
            if isinstance(message, Adopt) and message.sock is not None:
                message.sock.close()
            self._lose(child, str(error))
            return
        if child.channel.is_full:
            self._loop.add_writer(child.channel, self._on_writable, child)

    def _on_writable(self, child: Child) -> None:
        try:
            child.channel.flush()
        except ChannelError as error:
            self._lose(child, str(error))
            return
        if not child.channel.is_full:
            self._loop.remove_writer(child.channel)
            self._acceptor.resume()

    def _on_readable(self, child: Child) -> None:
        try:
            for message in child.channel.receive():
                self._on_message(child, message)
        except ChannelError as error:
            self._lose(child, str(error))
            return
        if child.channel.is_ended:
            self._lose(child, "")

    def _on_message(self, child: Child, message: Message) -> None:
        match message:
            case Ready():
                child.is_ready = True
                _log.info("worker ready", extra=fields(worker=child.slot, pid=child.process.pid))
                if child.number > self._options.count:
                    self._rebalancer.join(self._loop.time())
            case Connections():
                child.loads[message.listener].report(message)
            case PolicyInForce():
                child.policy_serial, child.policy_revision = message.serial, message.revision
            case Draining():
                child.is_draining = True
            case Begin() | Adopt() | PolicyChanged() | GoAway() | Drain():
                raise ChannelError(f"a worker sent {type(message).__name__}")
            case _:
                assert_never(message)
        self._changed.set()
        self._acceptor.resume()

    def _lose(self, child: Child, reason: str) -> None:
        """Give up a worker whose channel ended; `reason` is "" if it ended by itself."""
        slot = child.slot - 1
        if self._children[slot] is not child:
            return
        self._detach(child.channel)
        self._children[slot] = None
        if reason:
            _log.error("worker given up: %s", reason, extra=fields(worker=child.slot))
            child.kill()
        self._changed.set()
        self._ending[child.number] = child
        if not self._is_stopping:
            task = asyncio.create_task(self._replace(child))
            self._replacing.add(task)
            task.add_done_callback(self._replacing.discard)

    async def _replace(self, child: Child) -> None:
        """Wait for the end of a worker, add up its counters, and start another."""
        slot = child.slot - 1
        code = await self._end(child)
        is_well = time.monotonic() - child.started_s >= WELL_S
        backoff_s = 0.0 if is_well else self._backoff_s[slot]
        self._backoff_s[slot] = min(MAX_BACKOFF_S, max(MIN_BACKOFF_S, backoff_s * 2))
        self._telemetry.worker_restarts += 1
        _log.error(
            "worker ended, starting another",
            extra=fields(
                worker=child.slot, pid=child.process.pid, code=code, restart_in_s=backoff_s
            ),
        )
        while True:
            await asyncio.sleep(backoff_s)
            if not child.is_ready and child.number <= self._options.count:
                return  # it never was ready at the start, which fails for that
            try:
                self._launch(slot)
            except OSError as error:
                backoff_s = MAX_BACKOFF_S
                _log.error("a worker cannot be started: %s", error.strerror)
            else:
                return

    async def _end(self, child: Child) -> int:
        """Wait until a worker has ended, kill it if it does not; return its exit code."""
        code = await wait_for_exit(child, self._options.grace_s + KILL_MARGIN_S)
        if code is None:
            child.kill()
            code = await wait_for_exit(child, KILL_MARGIN_S)
        self._detach(child.channel)
        self._ending.pop(child.number, None)
        if self._children[child.slot - 1] is child:
            self._children[child.slot - 1] = None
        self._ended.fold(child.number)
        return -9 if code is None else code

    def _detach(self, channel: Channel) -> None:
        if channel.fileno() >= 0:
            self._loop.remove_reader(channel)
            self._loop.remove_writer(channel)
            channel.close()

    def _tick(self) -> None:
        self._ticking = self._loop.call_later(TICK_S, self._tick)
        self._publisher.publish()
        for child in self.children:
            if not child.is_ready and time.monotonic() - child.started_s > START_TIMEOUT_S:
                self._lose(child, f"not ready within {START_TIMEOUT_S:.0f} s")
        able = {
            child.slot: child for child in self.children if child.is_ready and not child.is_draining
        }
        loads = {slot: child.loads[Listener.GRPC].staying for slot, child in able.items()}
        for slot, count in self._rebalancer.surplus(loads, self._loop.time()).items():
            able[slot].loads[Listener.GRPC].leaving += count
            self._send(able[slot], GoAway(count))
