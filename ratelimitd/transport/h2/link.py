"""One transport and its connection: reading, writing, and what the passing of time means to it.

Rules:
- Ages and waits are counted in ticks of the server, about a second each.
- The age at which a link drains varies by a fifth from link to link, so that a fleet that
  connected at once does not come back at once.
- A link whose peer does not read is given up after `write_s`, one that is closing after
  CLOSE_S, one that drains after `grace_s`.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ssl import SSLObject
from typing import Any, Protocol, cast

from ratelimitd.defects import DefectLog
from ratelimitd.services.gate import Peer
from ratelimitd.transport.h2.answers import INTERNAL
from ratelimitd.transport.h2.connection import Call, Connection
from ratelimitd.transport.h2.frames import ErrorCode
from ratelimitd.transport.h2.profile import Profile

# What a peer that did wrong has to read why.
CLOSE_S = 5
# Written bytes that a peer may leave unread before we stop reading from it.
HIGH_WATER_BYTES = 256 * 1024
# How far the golden ratio moves the age of each link from that of the one before.
_SPREAD = 0.6180339887


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """The waits of a connection in seconds; None for no end."""

    # Without a call. Gateways keep connections for long, and one costs some KiB.
    idle_s: int | None = 3600
    # Fleets behind one address spread anew as their connections age.
    max_age_s: int | None = None
    # What calls in flight have when a connection drains.
    grace_s: int = 30
    # Without a byte from a peer before it is asked whether it lives, and its time to answer.
    keepalive_s: int | None = 60
    keepalive_timeout_s: int = 20
    # That the peer reads nothing while something is to be written.
    write_s: int = 30


class Shell(Protocol):
    """What a link needs of its server."""

    profile: Profile
    timeouts: Timeouts
    tick: int
    defects: DefectLog

    @property
    def on_calls(self) -> "Callable[[Link, list[Call]], None]":
        """Return who takes the calls."""
        ...

    def add(self, link: "Link", /) -> str:
        """Take a new link; return why it is refused, or nothing."""
        ...

    def remove(self, link: "Link", reason: str, /) -> None:
        """Forget a link."""
        ...

    def wake(self, link: "Link", /) -> None:
        """Look at the link at the next tick."""
        ...


class Link(asyncio.Protocol):
    """A connection on its transport."""

    __slots__ = (
        "_age_limit",
        "_born",
        "_closing_since",
        "_draining_since",
        "_heard",
        "_is_busy",
        "_pinged",
        "_reason",
        "_shell",
        "_stalled_since",
        "_transport",
        "_used",
        "connection",
        "due",
        "peer",
    )

    def __init__(self, shell: Shell) -> None:
        """Wait for the transport."""
        self._shell = shell
        self._transport: asyncio.Transport | None = None
        self.connection = Connection(shell.profile)
        self.due = 0
        # Who is behind it, once somebody asked.
        self.peer: Peer | None = None
        self._born = self._heard = self._used = shell.tick
        self._age_limit: int | None = None
        self._pinged: int | None = None
        self._closing_since: int | None = None
        self._draining_since: int | None = None
        self._stalled_since: int | None = None
        self._is_busy = True
        self._reason = ""

    @property
    def is_draining(self) -> bool:
        """Whether the peer was told to go elsewhere."""
        return self._draining_since is not None

    @property
    def peer_certificate(self) -> Mapping[str, Any] | None:
        """The peer's certificate as the ssl module shows it, if it gave one."""
        return self._transport.get_extra_info("peercert") if self._transport is not None else None

    def answer_all(self, answers: Sequence[tuple[int, bytes]]) -> int:
        """Answer calls, in one write at the end of this turn; return for how many nobody waits."""
        dropped = self.connection.answer_all(answers)
        self.flush()
        return dropped

    def fail(self, stream_id: int, status: int, message: str, details: bytes = b"") -> bool:
        """Answer a call with a gRPC status that is not OK; return whether somebody waits."""
        is_awaited = self.connection.fail(stream_id, status, message, details)
        self.flush()
        return is_awaited

    def drain(self, tick: int) -> None:
        """Ask the peer to go elsewhere, and close when its calls are answered."""
        if self._draining_since is None:
            self._draining_since = tick
            self.connection.drain()
            self._shell.wake(self)
            self.flush()

    def abort(self, reason: str) -> None:
        """Close without a word."""
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.abort()

    def flush(self) -> None:
        """Write what there is, and close if that was the last."""
        transport, connection = self._transport, self.connection
        if transport is None:
            return
        output = connection.take_output()
        if output:
            transport.write(output)
        if (connection.is_closing or connection.is_drained) and self._closing_since is None:
            self._reason = self._reason or ("peer_error" if connection.is_closing else "drained")
            self._closing_since = self._shell.tick
            self._shell.wake(self)
            transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the peer if there is room for it and it speaks HTTP/2."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        refusal = self._shell.add(self)
        tls: SSLObject | None = transport.get_extra_info("ssl_object")
        if not refusal and tls is not None and tls.selected_alpn_protocol() != "h2":
            refusal = "no_alpn"
        if refusal:
            self.abort(refusal)
            return
        max_age_s = self._shell.timeouts.max_age_s
        if max_age_s is not None:
            spread = (id(self) >> 4) * _SPREAD % 1
            self._age_limit = self._born + max(1, round(max_age_s * (0.9 + spread / 5)))
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Hand the calls of one read to the service."""
        shell = self._shell
        self._heard = shell.tick
        if not self._is_busy:
            self._is_busy = True
            shell.wake(self)
        connection = self.connection
        calls = connection.receive(data)
        if calls:
            self._used = shell.tick
            try:
                shell.on_calls(self, calls)
            except Exception as error:  # noqa: BLE001 - the edge: the connection goes on
                shell.defects.record(error, "a service failed on %d calls", len(calls))
                for stream_id, _, _ in calls:
                    connection.fail(stream_id, INTERNAL, "internal error")
        self.flush()

    def eof_received(self) -> bool:
        """Close when the peer has: a gRPC client that half closes waits for nothing."""
        return False

    def pause_writing(self) -> None:
        """Read no more until the peer does."""
        self._stalled_since = self._shell.tick
        self._shell.wake(self)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Read again."""
        self._stalled_since = None
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget everything."""
        self.connection.lose()
        self._transport = None
        self._shell.remove(self, self._reason or ("lost" if exc else "closed"))

    def on_tick(self, tick: int) -> int:
        """Look at the time; return the tick at which to look again."""
        timeouts, connection = self._shell.timeouts, self.connection
        connection.new_interval()
        self._is_busy = False
        expired = self._expired(tick)
        if expired:
            self.abort(expired)
            return tick + 1
        if self._draining_since is not None:
            if tick > self._draining_since:
                connection.finish_drain()
        elif self._age_limit is not None and tick >= self._age_limit:
            self.drain(tick)
        elif _is_over(timeouts.idle_s, tick - self._used) and connection.is_idle:
            self._reason = "idle"
            connection.close(ErrorCode.NO_ERROR, "idle")
        elif _is_over(timeouts.keepalive_s, tick - self._heard) and self._pinged is None:
            self._pinged = tick
            connection.ping(tick)
        self.flush()
        return self._next_tick(tick)

    def _expired(self, tick: int) -> str:
        """Return which wait is over, or nothing."""
        timeouts = self._shell.timeouts
        if self._closing_since is not None and tick - self._closing_since >= CLOSE_S:
            return self._reason
        if self._stalled_since is not None and tick - self._stalled_since >= timeouts.write_s:
            return "write"
        if self._draining_since is not None and tick - self._draining_since >= timeouts.grace_s:
            return "drain"
        if self._pinged is not None:
            if self._heard >= self._pinged:
                self._pinged = None
            elif tick - self._pinged >= timeouts.keepalive_timeout_s:
                return "keepalive"
        return ""

    def _next_tick(self, tick: int) -> int:
        waits = (self._closing_since, self._draining_since, self._stalled_since, self._pinged)
        if self.connection.has_begun or any(wait is not None for wait in waits):
            return tick + 1
        timeouts = self._shell.timeouts
        # Nothing is due before; what arrives meanwhile brings the link back at once.
        due = [tick + 3600]
        if self._age_limit is not None:
            due.append(self._age_limit)
        if timeouts.idle_s is not None:
            due.append(self._used + timeouts.idle_s)
        if timeouts.keepalive_s is not None:
            due.append(self._heard + timeouts.keepalive_s)
        return max(tick + 1, min(due))


def _is_over(limit_s: int | None, passed_s: int) -> bool:
    return limit_s is not None and passed_s >= limit_s
