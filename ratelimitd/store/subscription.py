"""A connection of its own that hears what is published on one channel.

Rules:
- A message says only that there is something to ask for; so does a new subscription, because what
  was published before it is lost. What messages lose, whoever asks now and then finds.
- A server that is silent for two PING_INTERVAL_S is given up.
- Dialled again after FIRST_PAUSE_S, then ever later up to LAST_PAUSE_S, for as long as it runs.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import hiredis

from ratelimitd.defects import DefectLog
from ratelimitd.errors import StoreError
from ratelimitd.store.address import Endpoint, StoreAddress
from ratelimitd.store.dial import dial_as
from ratelimitd.store.exchange import pack
from ratelimitd.store.failures import from_reply_error
from ratelimitd.store.link import ErrorReply, NotRedis, NotWritten, StoreLink

PING_INTERVAL_S: Final = 15.0
FIRST_PAUSE_S: Final = 0.1
LAST_PAUSE_S: Final = 5.0
DIAL_TIMEOUT_S: Final = 2.0

_log = logging.getLogger(__name__)


class MessageLink(StoreLink):
    """A link that, once it listens, gives each reply to a callback instead of to who asked."""

    def __init__(self) -> None:
        """Answer questions, as the handshake needs it."""
        super().__init__()
        self._on_reply: Callable[[object], None] | None = None
        # When nothing came since the last look, the server is silent.
        self.heard = 0

    def listen(self, on_reply: Callable[[object], None]) -> None:
        """Give `on_reply` whatever comes from now on."""
        self._on_reply = on_reply

    def write(self, *words: str | bytes) -> None:
        """Send a command whose reply is one of many."""
        if self._transport is None:
            raise NotWritten
        self._transport.write(pack(words))

    async def wait_closed(self, timeout_s: float) -> bool:
        """Return whether the connection ended within `timeout_s`."""
        done, _ = await asyncio.wait({self._closed}, timeout=timeout_s)
        return bool(done)

    def data_received(self, data: bytes) -> None:
        """Hand over every whole reply."""
        if self._on_reply is None:
            super().data_received(data)
            return
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                self.heard += 1
                self._on_reply(reply)
        except hiredis.ProtocolError:
            self._fail(NotRedis())


class Subscription:
    """Hears `channel` on the server that `locate` names.

    `on_message` is called for each message, `on_connected` for each new subscription.
    """

    def __init__(
        self,
        address: StoreAddress,
        channel: bytes,
        *,
        locate: Callable[[], Awaitable[Endpoint]],
        on_message: Callable[[], None],
        on_connected: Callable[[], None],
    ) -> None:
        """Dial nobody yet."""
        self._address = address
        self._channel = channel
        self._locate = locate
        self._on_message = on_message
        self._on_connected = on_connected
        self._pause_s = FIRST_PAUSE_S
        self._told = ""
        self._defects = DefectLog(_log)
        # Why the server refused, if it did.
        self._refusal: StoreError | None = None

    async def run(self) -> None:
        """Subscribe, and again whenever the connection ends, until cancelled."""
        while True:
            try:
                await self._hear()
            except (StoreError, OSError, TimeoutError) as error:
                self._tell(error)
            except Exception as error:  # noqa: BLE001 - nobody would subscribe any more
                self._defects.record(error, "the subscription to changes of subjects failed")
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(LAST_PAUSE_S, 2 * self._pause_s)

    async def _hear(self) -> None:
        """Subscribe once, and return when the connection has ended."""
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            endpoint = await self._locate()
            link = await dial_as(MessageLink, self._address, endpoint)
        self._refusal = None
        link.listen(lambda reply: self._take(link, endpoint, reply))
        try:
            link.write("SUBSCRIBE", self._channel)
            while not await link.wait_closed(PING_INTERVAL_S):
                if not link.heard:
                    raise TimeoutError("the server is silent")
                link.heard = 0
                link.write("PING")
        finally:
            link.hang_up()
        if self._refusal is not None:
            raise self._refusal

    def _take(self, link: MessageLink, endpoint: Endpoint, reply: object) -> None:
        match reply:
            case [b"message", _, _]:
                self._on_message()
            case [b"subscribe", *_]:
                self._pause_s = FIRST_PAUSE_S
                self._told = ""
                self._on_connected()
            case ErrorReply():
                self._refusal = from_reply_error(reply, endpoint)
                link.hang_up()
            case _:
                pass

    def _tell(self, error: Exception) -> None:
        """Log why changes are found by polls alone, once for each reason."""
        if isinstance(error, StoreError) and str(error) != self._told:
            self._told = str(error)
            # A server that is away is told of by who watches it; a refusal only here.
            level = logging.WARNING if error is self._refusal else logging.DEBUG
            _log.log(level, "changes of subjects are found by polls alone: %s", error)
