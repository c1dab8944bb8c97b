"""One load on a gRPC port: connect, say so, wait for the word, call until the time is over.

Closed loop: a call is sent when the one before it was answered, so the server sets the pace and a
latency is what a caller waits at that load. Open loop: calls are sent when they are due, whatever
was answered, and a latency counts from the instant a call was due.

Bounds: loopback only, `seconds`, `max_calls`, MAX_OUTSTANDING, and DRAIN_S for the last answers.
"""

import asyncio
import itertools
import ssl
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from time import perf_counter_ns

from bench.load.blocks import Blocks, request_headers
from bench.load.bodies import make_bodies
from bench.load.link import Link
from bench.load.peer import STATUS_SILENT, STATUS_UNSENT, Answer
from bench.load.schedule import Schedule, connection_order
from bench.load.spec import LoadResult, LoadSpec
from bench.load.tally import Tally
from bench.load.ticks import ticking

DRAIN_S = 3.0
MAX_OUTSTANDING = 100_000
TICK_NS = 250_000
CONNECTING_AT_ONCE = 128
GO = "go\n"


async def drive(spec: LoadSpec) -> LoadResult:
    """Do what `spec` says, and return what came of it."""
    load = _Load(spec)
    links = load.links
    try:
        for start in range(0, len(links), CONNECTING_AT_ONCE):
            await asyncio.gather(
                *(link.open() for link in links[start : start + CONNECTING_AT_ONCE])
            )
        print("ready", flush=True)
        if await asyncio.to_thread(sys.stdin.readline) != GO:
            raise SystemExit("nobody said go")
        return await load.run()
    finally:
        for link in links:
            link.close()


class _Load:
    """The links of one load and what it counts; it is their `Owner`."""

    def __init__(self, spec: LoadSpec) -> None:
        host, _, port = spec.address.rpartition(":")
        if not ip_address(host).is_loopback:
            raise ValueError(f"{spec.address}: load goes to loopback only")
        bodies = make_bodies(spec)
        self.body_bytes = max(map(len, bodies))
        self.bodies: Iterator[bytes] = itertools.cycle(bodies)
        self.is_over = False
        self._spec = spec
        self._tally = Tally()
        self._outstanding = self._sent = 0
        self._end_ns = 0
        self._idle = asyncio.Event()
        headers = request_headers(spec.path, is_tls=bool(spec.ca), is_traced=spec.traced)
        context = _tls_context(spec.ca) if spec.ca else None
        name = host if context else None
        loop = asyncio.get_running_loop()

        def connect(link: Link) -> "asyncio.Future[object]":
            opened = loop.create_connection(
                lambda: link, host, int(port), ssl=context, server_hostname=name
            )
            return asyncio.ensure_future(opened)

        self.links = [
            Link(self, partial(_blocks, spec, headers, number), connect)
            for number in range(spec.connections)
        ]
        order = connection_order(spec.connections, spec.weights, f"{spec.seed}/connections")
        self._next_link = itertools.cycle([self.links[number] for number in order])

    async def run(self) -> LoadResult:
        """Send until the time is over, wait for the last answers, and return the result."""
        spec, cpu_s, start_ns = self._spec, time.process_time(), perf_counter_ns()
        self._end_ns = start_ns + int(spec.seconds * 1e9)
        if spec.rate:
            await self._send_by_schedule(start_ns)
        else:
            self._begin_closed_loop(start_ns)
            # It ends sooner only where `max_calls` were made.
            await self._wait_idle(spec.seconds)
        self.is_over = True
        self._check_idle()
        await self._wait_idle(DRAIN_S)
        if not self._idle.is_set():
            self._count_unanswered()
        seconds = (perf_counter_ns() - start_ns) / 1e9
        self._tally.reconnects = sum(link.reconnects for link in self.links)
        message = next((link.first_message for link in self.links if link.first_message), "")
        self._tally.add_error(0, 0, message)
        return self._tally.to_result(seconds, time.process_time() - cpu_s)

    def on_sent(self, due_ns: Sequence[int], now_ns: int) -> None:
        """Count how late calls were written; in a closed loop they are due when there is room."""
        if self._spec.rate:
            self._tally.add_sent(due_ns, now_ns)

    def on_answers(self, link: Link, answers: Sequence[Answer], now_ns: int) -> None:
        """Count answers; in a closed loop each makes room for the next call."""
        self._tally.add_answers(answers, now_ns)
        self._outstanding -= len(answers)
        if self._spec.rate:
            self._check_idle()
        elif now_ns >= self._end_ns or self._sent >= self._spec.max_calls:
            self.is_over = True
            self._check_idle()
        elif self._spec.spreads:
            for _ in answers:
                target = next(self._next_link)
                self._submit(target, [now_ns], now_ns)
                target.flush()
        else:
            self._submit(link, [now_ns] * len(answers), now_ns)

    def on_lost(self, link: Link, calls: int, status: int, message: str) -> None:
        """Count lost calls; in a closed loop others take their places once it is back."""
        self._tally.add_error(status, calls, message)
        self._outstanding -= calls
        if not self._spec.rate and not self.is_over:
            now_ns = perf_counter_ns()
            self._submit(link, [now_ns] * calls, now_ns)
        self._check_idle()

    def _begin_closed_loop(self, now_ns: int) -> None:
        for _ in range(self._spec.in_flight):
            self._submit(next(self._next_link), [now_ns], now_ns)
        for link in self.links:
            link.flush()

    async def _send_by_schedule(self, start_ns: int) -> None:
        spec = self._spec
        schedule = Schedule(spec.rate, spec.seconds, f"{spec.seed}/arrivals")
        is_done = asyncio.Event()

        def send_due() -> None:
            now_ns = perf_counter_ns()
            touched = set()
            for due_ns in schedule.take_due(now_ns - start_ns):
                if self._outstanding >= MAX_OUTSTANDING or self._sent >= spec.max_calls:
                    self._tally.add_error(STATUS_UNSENT, 1, "too many calls without an answer")
                    continue
                link = next(self._next_link)
                self._submit(link, [start_ns + due_ns], now_ns)
                touched.add(link)
            for link in touched:
                link.flush()
            if schedule.is_over:
                is_done.set()

        with ticking(asyncio.get_running_loop(), TICK_NS, send_due):
            async with asyncio.timeout(spec.seconds + DRAIN_S):
                await is_done.wait()

    def _submit(self, link: Link, due_ns: Sequence[int], now_ns: int) -> None:
        self._sent += len(due_ns)
        self._outstanding += len(due_ns)
        link.submit(due_ns, now_ns)

    def _check_idle(self) -> None:
        if self.is_over and self._outstanding == 0:
            self._idle.set()

    async def _wait_idle(self, timeout_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()

    def _count_unanswered(self) -> None:
        self._tally.add_error(STATUS_SILENT, sum(link.in_flight for link in self.links))
        self._tally.add_error(STATUS_UNSENT, sum(len(link.waiting) for link in self.links))


def _blocks(
    spec: LoadSpec, headers: list[tuple[bytes, bytes]], number: int, table_bytes: int
) -> Blocks:
    return Blocks(
        headers,
        table_bytes=table_bytes,
        seed=f"{spec.seed}/{number}/traces",
        variants=spec.variants,
    )


def _tls_context(ca: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    return context
