"""The control channel between the supervisor and one worker: small messages, and sockets.

Rules:
- A message is one packet of a SOCK_SEQPACKET pair, so that it arrives whole or not at all, and a
  socket stays with the message it belongs to.
- Both ends are processes of ours. What arrives is checked all the same, and anything odd is a
  ChannelError: the owner of the channel ends it and the worker behind it.
- `send` never blocks. What the peer has no room for waits here, MAX_WAITING at most; while it
  does, `is_full` says that nothing more should be handed over.
"""

import array
import json
import os
import socket
from collections import deque
from typing import Final

from ratelimitd.workers.messages import Adopt, ChannelError, Message, from_wire, to_wire

# The largest message is the first one, with the worker's settings.
MAX_MESSAGE_BYTES: Final = 64 * 1024
# Control messages are few: somebody who lets this many wait does not read at all.
MAX_WAITING: Final = 64
# So that a flood of messages does not keep a loop from its other work.
MAX_PER_READ: Final = 64
_SPACE: Final = socket.CMSG_SPACE(8 * array.array("i").itemsize)


class Channel:
    """One end; owns its socket."""

    def __init__(self, sock: socket.socket) -> None:
        """Take over `sock`, one of a SOCK_SEQPACKET pair."""
        assert sock.type == socket.SOCK_SEQPACKET, sock.type
        sock.setblocking(False)
        self._sock = sock
        self._waiting: deque[Message] = deque()
        self.is_ended = False

    def fileno(self) -> int:
        """Return the descriptor, to be watched by a loop; -1 once closed."""
        return self._sock.fileno()

    @property
    def is_full(self) -> bool:
        """Whether the peer has no room now; `flush` when the descriptor is writable."""
        return bool(self._waiting)

    def send(self, message: Message) -> None:
        """Send `message`, now or when there is room; an Adopt's socket is closed here once sent.

        Raises ChannelError when the peer is gone or does not read.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise ChannelError(f"{MAX_WAITING} messages wait: the peer does not read")
        self._waiting.append(message)
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as there is room."""
        while self._waiting:
            if not self._send_now(self._waiting[0]):
                return
            self._waiting.popleft()

    def receive(self, at_most: int = MAX_PER_READ) -> list[Message]:
        """Return what arrived, `at_most` so many messages; `is_ended` tells that no more come.

        Raises ChannelError for what no peer of ours sends.
        """
        messages: list[Message] = []
        while len(messages) < at_most and not self.is_ended:
            try:
                data, ancillary, flags, _ = self._sock.recvmsg(
                    MAX_MESSAGE_BYTES, _SPACE, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                break
            except OSError:
                self.is_ended = True
                break
            descriptors = _descriptors(ancillary)
            if not data and not descriptors:
                self.is_ended = True
                break
            messages.append(_read(data, descriptors, flags))
        return messages

    def close(self) -> None:
        """End the channel; sockets that were not handed over are closed."""
        self.is_ended = True
        for message in self._waiting:
            if isinstance(message, Adopt) and message.sock is not None:
                message.sock.close()
        self._waiting.clear()
        self._sock.close()

    def _send_now(self, message: Message) -> bool:
        """Send one packet; False if there is no room."""
        data = json.dumps(to_wire(message), separators=(",", ":")).encode()
        assert len(data) <= MAX_MESSAGE_BYTES, f"{type(message).__name__}: {len(data)} bytes"
        sock = message.sock if isinstance(message, Adopt) else None
        try:
            if sock is None:
                self._sock.send(data)
            else:
                socket.send_fds(self._sock, [data], [sock.fileno()])
                sock.close()
        except BlockingIOError:
            return False
        except OSError as error:
            raise ChannelError(f"the peer is gone: {error.strerror}") from error
        return True


def channel_pair() -> tuple[Channel, socket.socket]:
    """Return the supervisor's end, and the socket that the worker is to inherit."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(ours), theirs


def inherited_channel(descriptor: int) -> Channel:
    """Return the end that a child inherited as `descriptor`; ChannelError if it is none."""
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ChannelError(f"descriptor {descriptor} is no socket: {error.strerror}") from error
    if sock.type != socket.SOCK_SEQPACKET:
        sock.close()
        raise ChannelError(f"descriptor {descriptor} is no channel")
    os.set_inheritable(descriptor, False)
    return Channel(sock)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors that came with a packet."""
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()


def _read(data: bytes, descriptors: list[int], flags: int) -> Message:
    """Return the message of a packet; on an error its descriptors are closed."""
    try:
        message = _parse(data, len(descriptors), is_cut=bool(flags & socket.MSG_TRUNC))
        if not isinstance(message, Adopt):
            return message
        # Without room for one more descriptor the kernel drops it and delivers the packet.
        sock = _to_socket(descriptors[0]) if descriptors else None
        return Adopt(message.listener, sock)
    except ChannelError:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def _parse(data: bytes, sockets: int, *, is_cut: bool) -> Message:
    if is_cut:
        raise ChannelError(f"a message of more than {MAX_MESSAGE_BYTES} bytes")
    try:
        wire = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ChannelError("a message that is not JSON") from error
    message = from_wire(wire)
    if sockets > (1 if isinstance(message, Adopt) else 0):
        raise ChannelError(f"{sockets} sockets with {type(message).__name__}")
    return message


def _to_socket(descriptor: int) -> socket.socket:
    try:
        return socket.socket(fileno=descriptor)
    except OSError as error:
        raise ChannelError("a descriptor that is no socket") from error
