"""The shell on asyncio: sockets around connections, and everything that time decides.

Rules:
- A service gets all calls of one read at once, `on_calls(link, calls)`, at the loop, and must not
  block. It answers by `link.answer_all` and `link.fail`, when it likes; all answers of one turn of
  the loop and one connection are one write.
- No task and no timer for a connection: one tick a second goes over the connections that did
  something since, and over those whose next check is due. So every wait ends up to a second late.
- While a peer does not read what we write, we do not read what it sends.
- A peer that breaks the protocol gets its GOAWAY and CLOSE_S to read it.
"""

import asyncio
import logging
import socket
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ratelimitd.defects import DefectLog
from ratelimitd.transport.acceptor import Acceptor
from ratelimitd.transport.h2.bounds import Bounds
from ratelimitd.transport.h2.connection import Call
from ratelimitd.transport.h2.handshakes import reason_of
from ratelimitd.transport.h2.link import Link, Timeouts
from ratelimitd.transport.h2.profile import Profile

_log = logging.getLogger(__name__)

TICK_S = 1.0
# Links that are looked at in one turn of the loop: a third of a millisecond.
CHECKS_PER_TURN = 64
# Beyond it connections are closed as they come: file descriptors end at some number anyway, and
# a connection takes some KiB.
MAX_CONNECTIONS = 16_384
BACKLOG = 1024
HANDSHAKE_S = 10.0

OnCalls = Callable[[Link, list[Call]], None]


@dataclass(slots=True)
class LinkCounters:
    """What happened to connections as such; plain numbers that only grow."""

    accepted: int = 0
    over_limit: int = 0
    closed: dict[str, int] = field(default_factory=dict)
    failed_handshakes: dict[str, int] = field(default_factory=dict)


class Server:
    """Serves `methods` to everybody who connects; `on_calls` gets what they ask."""

    def __init__(
        self,
        methods: Mapping[bytes, object],
        on_calls: OnCalls,
        *,
        bounds: Bounds | None = None,
        timeouts: Timeouts | None = None,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        """Prepare; `listen` or `adopt` bring connections. Needs a running loop."""
        self.profile = Profile(methods, bounds or Bounds())
        self.timeouts = timeouts or Timeouts()
        self.on_calls = on_calls
        self.counters = LinkCounters()
        self.defects = DefectLog(_log)
        self.links: set[Link] = set()
        self.tick = 0
        self.is_stopping = False
        self._max_connections = max_connections
        self._loop = asyncio.get_running_loop()
        self._closers: list[Callable[[], None]] = []
        # Handshakes under way; those of adopted connections are somebody else's tasks.
        self._shaking: set[asyncio.Task[None]] = set()
        self._handshakes = 0
        self._empty = asyncio.Event()
        self._empty.set()
        # Links that did something since the last tick, and the others by the tick of their check.
        self._busy: set[Link] = set()
        self._wheel: dict[int, set[Link]] = {}
        self._checks: deque[Link] = deque()
        self._timer = self._loop.call_later(TICK_S, self._on_tick)

    async def listen(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accept from a bound socket, TCP or unix. New certificates go into `tls` itself."""
        if tls is not None:
            self._listen_for_handshakes(listener, tls)
            return
        server = await self._loop.create_server(self._new_link, sock=listener, backlog=BACKLOG)
        self._closers.append(server.close)

    async def adopt(self, accepted: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Serve a connection that somebody else accepted. Raises OSError if it is gone."""
        if tls is None:
            await self._loop.connect_accepted_socket(self._new_link, accepted)
        else:
            await self._shake_hands(accepted, tls)

    async def stop(self, grace_s: float) -> None:
        """Take no new connection, let the calls in flight end within `grace_s`, then close."""
        self.is_stopping = True
        for close in self._closers:
            close()
        for link in list(self.links):
            link.drain(self.tick)
        try:
            await asyncio.wait_for(self._empty.wait(), grace_s)
        except TimeoutError:
            for link in list(self.links):
                link.abort("stop")
            await self._empty.wait()
        finally:
            self._timer.cancel()
            for task in self._shaking:
                task.cancel()

    def move_one(self) -> bool:
        """Ask one client to connect again, elsewhere if it may; False when there is none."""
        for link in self.links:
            if not link.is_draining:
                link.drain(self.tick)
                return True
        return False

    def wake(self, link: Link) -> None:
        """Note that `link` did something, so that the next tick looks at it."""
        self._busy.add(link)

    def add(self, link: Link) -> str:
        """Take a new link; return why it is refused, or nothing."""
        self.counters.accepted += 1
        if self.is_stopping:
            return "stop"
        if len(self.links) >= self._max_connections:
            self.counters.over_limit += 1
            return "over_limit"
        self.links.add(link)
        self._empty.clear()
        self.wake(link)
        return ""

    def remove(self, link: Link, reason: str) -> None:
        """Forget a link that is gone."""
        if link not in self.links:
            return
        self.links.discard(link)
        self._busy.discard(link)
        slot = self._wheel.get(link.due)
        if slot is not None:
            slot.discard(link)
        closed = self.counters.closed
        closed[reason] = closed.get(reason, 0) + 1
        if not self.links:
            self._empty.set()

    def _listen_for_handshakes(self, listener: socket.socket, tls: ssl.SSLContext) -> None:
        """Accept ourselves: a server of the loop tells nobody of handshakes that fail."""

        def take(_: None, accepted: socket.socket) -> bool:
            task = self._loop.create_task(self._try_to_shake_hands(accepted, tls))
            self._shaking.add(task)
            task.add_done_callback(self._shaking.discard)
            return True

        listener.setblocking(False)
        listener.listen(BACKLOG)
        acceptor = Acceptor({None: listener}, take, has_room=lambda: True)
        self._closers.append(acceptor.close)
        acceptor.resume()

    async def _try_to_shake_hands(self, accepted: socket.socket, tls: ssl.SSLContext) -> None:
        try:
            await self._shake_hands(accepted, tls)
        except OSError:  # of TLS too, and counted
            accepted.close()

    async def _shake_hands(self, accepted: socket.socket, tls: ssl.SSLContext) -> None:
        """Serve a connection once it is encrypted; OSError if that fails, which is counted."""
        counters = self.counters
        if len(self.links) + self._handshakes >= self._max_connections:
            counters.accepted += 1
            counters.over_limit += 1
            accepted.close()
            return
        self._handshakes += 1
        try:
            await self._loop.connect_accepted_socket(
                self._new_link, accepted, ssl=tls, ssl_handshake_timeout=HANDSHAKE_S
            )
        except Exception as error:
            reason = reason_of(error)
            failed = counters.failed_handshakes
            failed[reason] = failed.get(reason, 0) + 1
            raise OSError(f"the TLS handshake failed: {reason}") from error
        finally:
            self._handshakes -= 1

    def _new_link(self) -> Link:
        return Link(self)

    def _on_tick(self) -> None:
        self._timer = self._loop.call_later(TICK_S, self._on_tick)
        while self._checks:  # A second was not enough: what is left comes first.
            self._check(self._checks.popleft())
        self.tick += 1
        busy, self._busy = self._busy, set()
        self._checks.extend(busy)
        self._checks.extend(self._wheel.pop(self.tick, ()))
        self._check_some()

    def _check_some(self) -> None:
        """Look at a few links, and let calls come between them and the next few."""
        for _ in range(min(len(self._checks), CHECKS_PER_TURN)):
            self._check(self._checks.popleft())
        if self._checks:
            self._loop.call_soon(self._check_some)

    def _check(self, link: Link) -> None:
        """Let a link look at the time, and put it where it is looked at again."""
        if link not in self.links:
            return
        try:
            due = link.on_tick(self.tick)
        except Exception as error:  # noqa: BLE001 - the other connections go on
            self.defects.record(error, "a connection failed")
            link.abort("error")
            return
        if link not in self.links:
            return
        slot = self._wheel.get(link.due)
        if slot is not None:
            slot.discard(link)
        if due <= self.tick + 1:
            self._busy.add(link)
        else:
            link.due = due
            self._wheel.setdefault(due, set()).add(link)
