"""The shell around one connection: calls wait here for their turn, and a lost link is made anew."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from time import perf_counter_ns
from typing import Protocol, cast

from bench.load.blocks import Blocks
from bench.load.peer import STATUS_LOST, Answer, Peer, PeerError

CONNECT_TIMEOUT_S = 10.0
RETRY_S = 0.1
MAX_RETRIES = 50


class Owner(Protocol):
    """Who has the links: it gives bodies and is told what became of calls."""

    bodies: Iterator[bytes]
    is_over: bool

    def on_sent(self, lag_ns: int) -> None:
        """Hear that a call was written, so late."""

    def on_answers(self, link: "Link", answers: list[tuple[Answer, int]], now_ns: int) -> None:
        """Hear of ended calls, each with the instant that it was meant for."""

    def on_lost(self, link: "Link", calls: int, status: int, message: str) -> None:
        """Hear that calls in flight will have no answer."""


class Link(asyncio.Protocol):
    """One connection of a load."""

    def __init__(
        self,
        owner: Owner,
        make_blocks: Callable[[int], Blocks],
        connect: Callable[["Link"], "asyncio.Future[object]"],
    ) -> None:
        """Belong to `owner`; `connect` opens a transport for this protocol."""
        self.waiting: deque[int] = deque()
        self.reconnects = 0
        self._owner = owner
        self._make_blocks = make_blocks
        self._connect = connect
        self._transport: asyncio.Transport | None = None
        self._due_ns: dict[int, int] = {}
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False
        self._peer = Peer()
        self._blocks: Blocks | None = None
        self._ready = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Return how many calls were written and not answered."""
        return len(self._due_ns)

    async def open(self) -> None:
        """Connect, and return once the server has said its SETTINGS."""
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await self._connect(self)
            await self._ready.wait()

    def submit(self, due_ns: int, now_ns: int) -> None:
        """Write a call that was due at `due_ns`, or let it wait until the peer takes it."""
        if self.waiting:
            self.waiting.append(due_ns)
            return
        body = next(self._owner.bodies)
        if self._blocks is None or self._peer.capacity(len(body)) <= 0:
            self.waiting.append(due_ns)
            return
        self._due_ns[self._peer.start(self._blocks, body)] = due_ns
        self._owner.on_sent(now_ns - due_ns)

    def flush(self) -> None:
        """Send what was written."""
        if self._transport is not None:
            self._transport.write(self._peer.take_output())

    def close(self) -> None:
        """Close for good."""
        self._is_closing = True
        if self._task is not None:
            self._task.cancel()
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast("asyncio.Transport", transport)
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Count what was answered and send what may follow."""
        now_ns = perf_counter_ns()
        try:
            answers = self._peer.receive(data)
            if self._blocks is None and self._peer.is_ready:
                self._blocks = self._make_blocks(self._peer.table_bytes)
                self._ready.set()
            if answers:
                due = self._due_ns
                ended = [(answer, due.pop(answer.stream_id)) for answer in answers]
                self._owner.on_answers(self, ended, now_ns)
            self._send_waiting(now_ns)
        except PeerError as error:
            self._peer.first_message = self._peer.first_message or str(error)
            if self._transport is not None:
                self._transport.abort()
            return
        self.flush()
        if self._peer.is_going and not self._due_ns and self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count what was in flight as lost, and connect again while the load goes on."""
        lost, self._transport = len(self._due_ns), None
        message = self._peer.first_message or (str(exc) if exc else "")
        self._begin()
        if self._is_closing:
            return
        if not self._owner.is_over:
            self._task = asyncio.get_running_loop().create_task(self._reopen())
        self._owner.on_lost(self, lost, STATUS_LOST, message)

    @property
    def first_message(self) -> str:
        """Return the first error message that the server sent on this connection."""
        return self._peer.first_message

    def _begin(self) -> None:
        """Forget the old connection."""
        self._peer, self._blocks, self._ready = Peer(), None, asyncio.Event()
        self._due_ns.clear()

    def _send_waiting(self, now_ns: int) -> None:
        waiting = self.waiting
        while waiting and self._blocks is not None:
            body = next(self._owner.bodies)
            if self._peer.capacity(len(body)) <= 0:
                return
            due_ns = waiting.popleft()
            self._due_ns[self._peer.start(self._blocks, body)] = due_ns
            self._owner.on_sent(now_ns - due_ns)

    async def _reopen(self) -> None:
        for _ in range(MAX_RETRIES):
            try:
                await self.open()
            except (OSError, TimeoutError):
                await asyncio.sleep(RETRY_S)
            else:
                self.reconnects += 1
                return
