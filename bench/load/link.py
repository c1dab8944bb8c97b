"""The shell around one connection: calls wait here for their turn, and a lost link is made anew."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter_ns
from typing import Protocol, cast

from bench.load.blocks import Blocks
from bench.load.peer import STATUS_LOST, Answer, Peer, PeerError

CONNECT_TIMEOUT_S = 10.0
RETRY_S = 0.1
MAX_RETRIES = 50


class Owner(Protocol):
    """Who has the links: it gives bodies, none over `body_bytes`, and hears what became of them."""

    bodies: Iterator[bytes]
    is_over: bool

    body_bytes: int

    def on_sent(self, due_ns: Sequence[int], now_ns: int) -> None:
        """Hear that calls were written that were due at these instants."""

    def on_answers(self, link: "Link", answers: Sequence[Answer], now_ns: int) -> None:
        """Hear of ended calls; the tag of each is the instant that it was due."""

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
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False
        self._peer = Peer()
        self._blocks: Blocks | None = None
        self._ready = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Return how many calls were written and not answered."""
        return len(self._peer.open_tags)

    async def open(self) -> None:
        """Connect, and return once the server has said its SETTINGS."""
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await self._connect(self)
            await self._ready.wait()

    def submit(self, due_ns: Sequence[int], now_ns: int) -> None:
        """Write calls that were due at these instants; those the peer does not take yet wait."""
        if not self.waiting and self._room() >= len(due_ns):
            self._start(due_ns, now_ns)
        else:
            self.waiting.extend(due_ns)
            self._send_waiting(now_ns)

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
                self._owner.on_answers(self, answers, now_ns)
            if self.waiting:
                self._send_waiting(now_ns)
        except PeerError as error:
            self._peer.first_message = self._peer.first_message or str(error)
            if self._transport is not None:
                self._transport.abort()
            return
        self.flush()
        if self._peer.is_going and not self.in_flight and self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count what was in flight as lost, and connect again while the load goes on."""
        lost, self._transport = self.in_flight, None
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

    def _send_waiting(self, now_ns: int) -> None:
        """Write as many of the calls that wait as the peer takes."""
        count = min(self._room(), len(self.waiting))
        if count > 0:
            self._start([self.waiting.popleft() for _ in range(count)], now_ns)

    def _start(self, due_ns: Sequence[int], now_ns: int) -> None:
        assert self._blocks is not None, "there is no room before there are blocks"
        self._peer.start(self._blocks, self._owner.bodies, due_ns)
        self._owner.on_sent(due_ns, now_ns)

    def _room(self) -> int:
        return self._peer.capacity(self._owner.body_bytes) if self._blocks is not None else 0

    async def _reopen(self) -> None:
        for _ in range(MAX_RETRIES):
            try:
                await self.open()
            except (OSError, TimeoutError):
                await asyncio.sleep(RETRY_S)
            else:
                self.reconnects += 1
                return
