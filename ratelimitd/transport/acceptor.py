"""Accepts connections on listening sockets, and holds back while nobody can take them.

Rules:
- What cannot be taken stays with the kernel: its queue is the only one.
- Without file descriptors or memory accepting pauses for PAUSE_S, which is logged when it begins.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Hashable, Mapping
from typing import Final, Generic, TypeVar

_log = logging.getLogger(__name__)

# So that a burst of connections does not keep the loop from what workers tell.
ACCEPTS_PER_TURN: Final = 64
PAUSE_S: Final = 0.2
# What an accept can meet that is the caller's business or nobody's: go on with the next.
_PASSING: Final = frozenset(
    {errno.ECONNABORTED, errno.EINTR, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.EHOSTDOWN}
)

K = TypeVar("K", bound=Hashable)


class Acceptor(Generic[K]):
    """Owns the listening sockets; needs a running loop."""

    def __init__(
        self,
        listeners: Mapping[K, socket.socket],
        hand_over: Callable[[K, socket.socket], bool],
        *,
        has_room: Callable[[], bool],
    ) -> None:
        """Accept from `listeners` once `resume` is called, while there `has_room`.

        `hand_over` takes a connection and returns True, or returns False while nobody can.
        """
        self._listeners = listeners
        self._hand_over = hand_over
        self._has_room = has_room
        self._loop = asyncio.get_running_loop()
        self._is_accepting = False
        self._is_closed = False
        self._is_short = False
        self._pause: asyncio.TimerHandle | None = None

    def resume(self) -> None:
        """Accept again, if there is room and no pause."""
        if self._is_accepting or self._is_closed or self._pause or not self._has_room():
            return
        self._is_accepting = True
        for listener, sock in self._listeners.items():
            self._loop.add_reader(sock, self._accept, listener, sock)

    def close(self) -> None:
        """Stop listening."""
        self._hold()
        self._is_closed = True
        if self._pause is not None:
            self._pause.cancel()
        for sock in self._listeners.values():
            sock.close()

    def _hold(self) -> None:
        if not self._is_accepting:
            return
        self._is_accepting = False
        for sock in self._listeners.values():
            self._loop.remove_reader(sock)

    def _accept(self, listener: K, sock: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if not self._has_room():
                self._hold()
                return
            try:
                accepted, _ = sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _PASSING:
                    continue
                self._rest(error)
                return
            self._is_short = False
            if not self._hand_over(listener, accepted):
                accepted.close()

    def _rest(self, error: OSError) -> None:
        """Pause, because the next accept would fail the same way."""
        self._hold()
        if not self._is_short:
            _log.warning("connections wait: accepting fails: %s", error.strerror)
        self._is_short = True
        self._pause = self._loop.call_later(PAUSE_S, self._end_pause)

    def _end_pause(self) -> None:
        self._pause = None
        self.resume()
