"""One connection to a server of the store: bytes out, a known number of replies in, by a callback.

Rules:
- One exchange at a time. Its `done` is told once: all its replies, or those that came and why no
  more will come.
- What is written goes out at once, without a turn of the loop.
- A reply that nobody asked for makes the connection useless: it would be taken for another's.
"""

import asyncio
import select
from collections.abc import Callable
from typing import cast

import hiredis

# Gets the replies in order, and the error that ended the connection before the last one, or None.
Done = Callable[[list[object], BaseException | None], None]


class ErrorReply(Exception):  # noqa: N818 - the protocol's word: an answer, not a failure of ours
    """An error that a server answered to one command; its text begins with a code."""


class ConnectionLost(ConnectionError):  # noqa: N818 - reads as what is the case
    """The connection ended without an error of the system's."""


class NotRedis(ConnectionLost):
    """What came is no reply of a Redis or Valkey server."""


class NotWritten(ConnectionLost):
    """The connection had ended before: nothing was written."""


class StoreLink(asyncio.Protocol):
    """A connection; made by `dial`, used by one caller at a time."""

    def __init__(self) -> None:
        """Wait for the transport."""
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(replyError=ErrorReply)
        self._replies: list[object] = []
        self._missing = 0
        self._done: Done | None = None
        self._poll = select.poll()
        self._lost: BaseException | None = None
        self._closed = asyncio.get_running_loop().create_future()

    @property
    def is_ready(self) -> bool:
        """Whether it is open, free, and nothing unasked lies in it.

        The loop may not have read yet that the peer closed, so the socket itself is looked at.
        """
        return self._lost is None and self._done is None and not self.has_arrivals

    @property
    def has_arrivals(self) -> bool:
        """Whether something came that the loop has not read yet."""
        return bool(self._lost is None and self._poll.poll(0))

    def ask(self, data: bytes, count: int, done: Done) -> None:
        """Write `data` and collect `count` replies for `done`; it may be told at once."""
        assert self._done is None, "one exchange at a time"
        self._replies, self._missing, self._done = [], count, done
        if self._lost is not None or self._transport is None:
            self._end(NotWritten())
        else:
            self._transport.write(data)

    async def exchange(self, data: bytes, count: int) -> list[object]:
        """Do as `ask` does, and wait. Raises what ended the connection, a last word first."""
        answered: asyncio.Future[list[object]] = asyncio.get_running_loop().create_future()

        def done(replies: list[object], error: BaseException | None) -> None:
            if answered.done():
                return
            if error is None:
                answered.set_result(replies)
            else:
                words = (reply for reply in reversed(replies) if isinstance(reply, ErrorReply))
                answered.set_exception(next(words, error))

        self.ask(data, count, done)
        return await answered

    def hang_up(self) -> None:
        """Close at once, whatever goes on; an exchange that waits is told."""
        if self._transport is not None:
            self._transport.abort()
        if self._lost is None:
            self._lost = ConnectionLost()
        self._end(self._lost)

    async def close(self, timeout_s: float) -> None:
        """Close, and wait for the peer's part of it no longer than `timeout_s`."""
        if self._transport is not None:
            self._transport.close()
            await asyncio.wait({self._closed}, timeout=timeout_s)
        self.hang_up()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Write without waiting for the end of a turn of the loop."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=0)
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        """Collect replies."""
        replies = self._replies
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                replies.append(reply)
        except hiredis.ProtocolError:
            self._fail(NotRedis())
            return
        if self._done is None or len(replies) > self._missing:
            self._fail(ConnectionLost())
        elif len(replies) == self._missing:
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits."""
        self._transport = None
        self._lost = self._lost or exc or ConnectionLost()
        if not self._closed.done():
            self._closed.set_result(None)
        self._end(self._lost)

    def _fail(self, error: BaseException) -> None:
        """Give the connection up: what comes cannot be understood."""
        self._lost = self._lost or error
        self.hang_up()

    def _end(self, error: BaseException | None) -> None:
        done, self._done = self._done, None
        if done is not None:
            replies, self._replies = self._replies, []
            done(replies, error)
