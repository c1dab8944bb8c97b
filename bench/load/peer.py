"""The client's side of one HTTP/2 connection, for unary calls only: bytes in, answers out.

Rules:
- No socket and no clock. `start` and `receive` leave what must be sent in `take_output`. A call is
  known by a tag of its caller's, which comes back with the answer.
- Bodies are a frame each; they must fit into the peer's frame and window. `capacity` says how many
  calls may be started now without breaking a promise to the peer.
- Our own windows are as large as can be, so that we never hold the server back.
- Header blocks of answers are remembered while decoding them changes nothing.
- The client shares the machine with what it measures, so loops stand where calls would be nicer.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from hpack import Decoder

from bench.load import frames
from bench.load.blocks import DEFAULT_TABLE_BYTES, Blocks

# Answers that no grpc-status describes; above every status of gRPC.
STATUS_RESET, STATUS_GOAWAY, STATUS_LOST, STATUS_SILENT, STATUS_UNSENT = 100, 101, 102, 103, 104
STATUS_UNKNOWN = 2
STATUS_NAMES = {
    STATUS_RESET: "RST_STREAM",
    STATUS_GOAWAY: "GOAWAY",
    STATUS_LOST: "connection lost",
    STATUS_SILENT: "no answer",
    STATUS_UNSENT: "not sent",
}
# overall_code, the first field of a RateLimitResponse, and the status of a health check.
CODE_OK, CODE_OVER_LIMIT = b"\x08\x01", b"\x08\x02"
_CODE = slice(5, 7)
_NO_STATUS = -1
_WHOLE = frames.END_HEADERS | frames.END_STREAM
_REMEMBERED_BLOCKS = 64
_REPLENISH_BYTES = 2**30


class PeerError(Exception):
    """The server broke the protocol, or asks for something that this client does not do."""


class Answer(NamedTuple):
    """The end of one call: the caller's tag, the status, and the first field of the message."""

    tag: int
    status: int
    code: bytes


class Peer:
    """One connection; the first bytes to send are in `take_output` from the start."""

    def __init__(self) -> None:
        """Greet; calls may start once the server's SETTINGS were received."""
        self.is_ready = False
        self.is_going = False
        self.first_message = ""
        self.table_bytes = DEFAULT_TABLE_BYTES
        self._output = [
            frames.PREFACE,
            frames.settings({frames.ENABLE_PUSH: 0, frames.INITIAL_WINDOW_SIZE: frames.MAX_WINDOW}),
            frames.window_update(0, frames.MAX_WINDOW - frames.DEFAULT_WINDOW),
        ]
        self._rest = b""
        self._next_id = 1
        self._window = frames.DEFAULT_WINDOW
        self._stream_window = frames.DEFAULT_WINDOW
        self._max_calls = frames.MAX_STREAM_ID
        self._received = 0
        self._decoder = Decoder()
        self._statuses: dict[bytes, int] = {}
        self._codes: dict[int, bytes] = {}
        self._tags: dict[int, int] = {}
        # What lies between the two stream ids of a call, by the length of its body.
        self._middles: dict[int, bytes] = {}
        self._first = b""
        self._answers: list[Answer] = []
        self._block: tuple[int, int, bytes] | None = None

    @property
    def open_tags(self) -> list[int]:
        """Return the tags of the calls without an answer."""
        return list(self._tags.values())

    def capacity(self, body_bytes: int) -> int:
        """Return how many calls with bodies of this size may start now."""
        if not self.is_ready or self.is_going or self._next_id > frames.MAX_STREAM_ID:
            return 0
        if body_bytes > min(self._stream_window, frames.DEFAULT_FRAME_SIZE):
            raise PeerError(f"a body of {body_bytes} bytes does not fit into one frame")
        return min(self._max_calls - len(self._tags), self._window // body_bytes)

    def start(self, blocks: Blocks, bodies: Iterator[bytes], tags: Iterable[int]) -> None:
        """Send the next of `bodies` for each tag."""
        pack, output = frames.U32.pack, self._output
        stream_id, window = self._next_id, self._window
        for tag in tags:
            body = next(bodies)
            number = pack(stream_id)
            middle = self._middles.get(len(body))
            if middle is None:
                middle = self._middle(blocks, len(body))
            output += (self._first, number, middle, number, body)
            self._tags[stream_id] = tag
            stream_id += 2
            window -= len(body)
        self._next_id, self._window = stream_id, window

    def _middle(self, blocks: Blocks, body_bytes: int) -> bytes:
        """Take the next header block, and keep what follows from it if it is the last new one."""
        is_constant = blocks.constant is not None
        block = blocks.next()
        self._first = frames.head_start(frames.HEADERS, frames.END_HEADERS, len(block))
        middle = block + frames.head_start(frames.DATA, frames.END_STREAM, body_bytes)
        if is_constant:
            self._middles[body_bytes] = middle
        return middle

    def take_output(self) -> bytes:
        """Return the bytes to send, once."""
        output = b"".join(self._output)
        self._output.clear()
        return output

    def receive(self, data: bytes) -> list[Answer]:
        """Take what the server sent and return the calls that it ended."""
        data = self._rest + data if self._rest else data
        position, end = 0, len(data)
        unpack, codes, statuses = frames.HEAD.unpack_from, self._codes, self._statuses
        answers = self._answers = []
        while end - position >= frames.HEAD_BYTES:
            word, flags, stream_id = unpack(data, position)
            start = position + frames.HEAD_BYTES
            stop = start + (word >> 8)
            if stop > end:
                break
            position = stop
            kind = word & 0xFF
            # The three frames of an answer as servers send them; `_frame` knows all others.
            if kind == frames.HEADERS and flags | frames.END_STREAM == _WHOLE:
                status = statuses.get(data[start:stop])
                if status is None:
                    status = self._decode(data[start:stop])
                if flags & frames.END_STREAM:
                    tag = self._tags.pop(stream_id, None)
                    if tag is not None:
                        known = STATUS_UNKNOWN if status == _NO_STATUS else status
                        answers.append(Answer(tag, known, codes.pop(stream_id, b"")[_CODE]))
            elif kind == frames.DATA and not flags and stream_id not in codes:
                self._received += stop - start
                codes[stream_id] = data[start : min(stop, start + _CODE.stop)]
            else:
                self._frame(kind, flags, stream_id, data[start:stop])
        self._rest = data[position:]
        if self._received > _REPLENISH_BYTES:
            self._output.append(frames.window_update(0, self._received))
            self._received = 0
        return answers

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == frames.DATA:
            self._data(flags, stream_id, payload)
        elif kind == frames.HEADERS:
            if flags & (frames.PADDED | frames.HAS_PRIORITY):
                payload = frames.without_padding(payload, flags)
            if flags & frames.END_HEADERS:
                self._headers(flags, stream_id, payload)
            else:
                self._block = (flags, stream_id, payload)
        elif kind == frames.CONTINUATION:
            if self._block is None:
                raise PeerError("CONTINUATION without HEADERS")
            first_flags, stream_id, start = self._block
            self._block = (first_flags, stream_id, start + payload)
            if flags & frames.END_HEADERS:
                self._headers(*self._block)
                self._block = None
        else:
            self._control(kind, flags, stream_id, payload)

    def _data(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._received += len(payload)
        if flags & frames.PADDED:
            payload = frames.without_padding(payload, flags & frames.PADDED)
        known = self._codes.get(stream_id)
        self._codes[stream_id] = (known + payload if known else payload)[: _CODE.stop]
        if flags & frames.END_STREAM:
            self._end(stream_id, STATUS_UNKNOWN)

    def _headers(self, flags: int, stream_id: int, block: bytes) -> None:
        status = self._statuses.get(block)
        if status is None:
            status = self._decode(block)
        if flags & frames.END_STREAM:
            self._end(stream_id, STATUS_UNKNOWN if status == _NO_STATUS else status)

    def _decode(self, block: bytes) -> int:
        """Return the grpc-status of a block; remember it if the next equal block means the same."""
        table = self._decoder.header_table
        newest, size = _newest(self._decoder), table.maxsize
        status, message = _NO_STATUS, ""
        for name, value in self._decoder.decode(block, raw=True):
            if name == b"grpc-status":
                status = int(value)
            elif name == b"grpc-message":
                message = value.decode(errors="replace")
        if message and not self.first_message:
            self.first_message = message
        if _newest(self._decoder) is not newest or table.maxsize != size:
            self._statuses.clear()
        elif len(self._statuses) < _REMEMBERED_BLOCKS:
            self._statuses[block] = status
        return status

    def _control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == frames.SETTINGS and not flags & frames.ACK:
            self._settings(payload)
        elif kind == frames.PING and not flags & frames.ACK:
            self._output.append(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.WINDOW_UPDATE and stream_id == 0:
            self._window += frames.U32.unpack(payload)[0]
        elif kind == frames.RST_STREAM:
            self._end(stream_id, STATUS_RESET)
        elif kind == frames.GOAWAY:
            self.is_going = True
            last = frames.U32.unpack_from(payload)[0]
            error = frames.U32.unpack_from(payload, 4)[0]
            if error:
                reason = payload[8:].decode(errors="replace")
                self.first_message = self.first_message or f"GOAWAY {error} {reason}".strip()
            for refused in [one for one in self._tags if one > last]:
                self._end(refused, STATUS_GOAWAY)
        elif kind == frames.PUSH_PROMISE:
            raise PeerError("PUSH_PROMISE although we said that we take none")

    def _settings(self, payload: bytes) -> None:
        values = frames.read_settings(payload)
        self.is_ready = True
        self.table_bytes = values.get(frames.HEADER_TABLE_SIZE, self.table_bytes)
        self._max_calls = values.get(frames.MAX_CONCURRENT_STREAMS, self._max_calls)
        self._stream_window = values.get(frames.INITIAL_WINDOW_SIZE, self._stream_window)
        self._output.append(frames.frame(frames.SETTINGS, frames.ACK, 0))

    def _end(self, stream_id: int, status: int) -> None:
        tag = self._tags.pop(stream_id, None)
        if tag is not None:
            self._answers.append(Answer(tag, status, self._codes.pop(stream_id, b"")[_CODE]))


def _newest(decoder: Decoder) -> tuple[bytes, bytes] | None:
    """Return the newest entry of the dynamic table; another object after every insertion."""
    entries = decoder.header_table.dynamic_entries
    return entries[0] if entries else None
