"""Cases to begin from: what clients in good order send, and what a real Envoy sent."""

from pathlib import Path
from random import Random

import hpack

from ratelimitd.transport.h2 import frames
from ratelimitd.transport.h2.frames import ErrorCode
from tests.transport.h2 import peer
from tests.transport.h2.fuzz.case import BOUNDS, Case, Kind, Step
from tests.transport.h2.peer import CALL, Fields, changed, data, message

_CAPTURES = Path(__file__).parents[1] / "data"
_CAPTURED_BYTES = 3000
# Read as a frame's header it is a long one: what follows a cut is not thousands of empty frames.
_FILLER = b"U"
# What requests that are refused look like.
_ODD_FIELDS: tuple[Fields, ...] = (
    changed(path=b"/no/such"),
    changed(method=b"GET"),
    changed(method=b"HEAD"),
    changed(te=None),
    changed(content_type=b"text/plain"),
    changed(content_length=b"9"),
    changed(grpc_timeout=b"0m"),
    changed(grpc_timeout=b"1x"),
    changed(grpc_encoding=b"gzip"),
    changed(connection=b"close"),
    changed(large=b"x" * 650),
    changed(value=b"a\nb"),
)


def captured(random: Random) -> Case:
    """Return the beginning of what an Envoy sent, in random pieces."""
    name = random.choice(sorted(_CAPTURES.glob("*.bin")))
    sent = name.read_bytes()[: random.randrange(200, _CAPTURED_BYTES)]
    return Case(random.randrange(len(BOUNDS)), tuple(_served(random, [sent])))


def generated(random: Random) -> Case:
    """Return a session of some calls with frames of every type between them, none of them wrong."""
    client = _Client(random)
    sent = [frames.PREFACE + client.settings() + client.first_call()]
    choices = random.choices(client.choices, client.weights, k=random.randrange(1, 12))
    sent += [choice() for choice in choices]
    return Case(random.randrange(len(BOUNDS)), tuple(_served(random, sent)))


def _served(random: Random, sent: list[bytes]) -> list[Step]:
    """Cut what is sent into reads, and let the service and the clock do something between."""
    steps = []
    for part in sent:
        for piece in _cut(random, part):
            steps.append(Step(Kind.RECEIVE, data=piece))
            while random.random() < 0.4:
                steps.append(any_step(random))
    return steps


def any_step(random: Random) -> Step:
    """Return a step that is not a read."""
    kind = random.choices(
        [kind for kind in Kind if kind is not Kind.RECEIVE],
        (30, 8, 25, 10, 3, 3, 3, 1, 1, 20),
    )[0]
    sizes = (0, 5, 50, 400, 20_000, 65_535)
    return Step(kind, random.randrange(8), random.choices(sizes, (2, 9, 9, 4, 3, 3))[0])


def _cut(random: Random, sent: bytes) -> list[bytes]:
    if random.random() < 0.6:
        return [sent]
    places = sorted(random.randrange(len(sent) + 1) for _ in range(random.randrange(1, 4)))
    ends = [*places, len(sent)]
    return [sent[start:end] for start, end in zip([0, *places], ends, strict=True)]


class _Client:
    """Sends what the protocol allows."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._encoder = hpack.Encoder()
        self._next_id = 1
        self._opened = [1]
        self._jump = random.choice((2, 2, 4, 40))
        self.choices = (
            *(self._call, self._call_in_pieces, self._refused_call, self._open, self._ping),
            *(self.settings, self._window, self._reset, self._other, self._burst, self._large),
        )
        self.weights = (6, 4, 3, 2, 1, 1, 2, 1, 1, 1, 1)

    def settings(self) -> bytes:
        sizes = self._random.choice((0, 1, 7, 100, 65_535, 2**20))
        values = {frames.INITIAL_WINDOW_SIZE: sizes, frames.ENABLE_PUSH: 0}
        return frames.settings(values if self._random.random() < 0.6 else {})

    def first_call(self) -> bytes:
        """Return the call that opens the first stream."""
        return self._call()

    def _id(self) -> int:
        stream_id = self._next_id
        self._opened.append(stream_id)
        self._next_id += self._random.choice((2, self._jump))
        return stream_id

    def _block(self, fields: Fields) -> bytes:
        if self._random.random() < 0.5:
            number = self._random.getrandbits(100)
            fields = [*fields, (b"traceparent", b"00-%032x-%016x-01" % (number, number >> 40))]
        block: bytes = self._encoder.encode(list(fields), huffman=self._random.random() < 0.8)
        return block

    def _body(self) -> bytes:
        return message(_FILLER * self._random.choice((0, 1, 40, 300, 590, 610)))

    def _call(self) -> bytes:
        stream_id = self._id()
        block = frames.frame(frames.HEADERS, frames.END_HEADERS, stream_id, self._block(CALL))
        return block + data(stream_id, self._body())

    def _burst(self) -> bytes:
        return b"".join(self._call() for _ in range(self._random.randrange(2, 30)))

    def _refused_call(self) -> bytes:
        stream_id = self._id()
        block = self._block(self._random.choice(_ODD_FIELDS))
        flags = frames.END_HEADERS | self._random.randrange(2)
        head = frames.frame(frames.HEADERS, flags, stream_id, block)
        return head if flags & frames.END_STREAM else head + data(stream_id, self._body())

    def _call_in_pieces(self) -> bytes:
        """Send a call with padding, priority, CONTINUATION, cut DATA and trailers."""
        random, stream_id = self._random, self._id()
        block = self._block(changed(large=b"x" * random.choice((0, 200, 900, 2000))))
        cuts = sorted(random.randrange(len(block)) for _ in range(random.choice((1, 1, 2))))
        first = b"\x03\0\0\0\0\x10" + block[: cuts[0]] + b"\0\0\0"
        flags = frames.PADDED | frames.HAS_PRIORITY
        sent = frames.frame(frames.HEADERS, flags, stream_id, first)
        for start, end in zip(cuts, [*cuts[1:], None], strict=True):
            flags = frames.END_HEADERS if end is None else 0
            sent += frames.frame(frames.CONTINUATION, flags, stream_id, block[start:end])
        body = self._body()
        at = random.randrange(len(body))
        sent += data(stream_id, body[:at], 0) + data(stream_id, b"\x02" + body[at:] + b"\0\0", 8)
        if random.random() < 0.5:
            return sent + data(stream_id, b"", frames.END_STREAM)
        trailer = self._encoder.encode([(b"x-trailer", b"y")])
        whole = frames.END_HEADERS | frames.END_STREAM
        return sent + frames.frame(frames.HEADERS, whole, stream_id, trailer)

    def _open(self) -> bytes:
        """Begin a call that does not end."""
        stream_id = self._id()
        block = frames.frame(frames.HEADERS, frames.END_HEADERS, stream_id, self._block(CALL))
        return block + data(stream_id, self._body()[: self._random.randrange(9)], 0)

    def _large(self) -> bytes:
        """Send a call of several full frames, and perhaps not its end."""
        stream_id = self._id()
        block = frames.frame(frames.HEADERS, frames.END_HEADERS, stream_id, self._block(CALL))
        body = message(_FILLER * self._random.choice((33_000, 50_000, 59_000)))
        parts = [body[start : start + 16_384] for start in range(0, len(body), 16_384)]
        ended = [data(stream_id, part, int(part is parts[-1])) for part in parts]
        return block + b"".join(ended[: self._random.randrange(2, 5)])

    def _any_id(self) -> int:
        return self._random.choice(self._opened)

    def _ping(self) -> bytes:
        payload = self._random.choice((b"draining", bytes(8), bytes(7) + b"\1"))
        return frames.frame(frames.PING, self._random.randrange(2), 0, payload)

    def _window(self) -> bytes:
        stream_id = self._random.choice((0, self._any_id()))
        amount = self._random.choice((1, 20, 500, 70_000, 2**26))
        return frames.window_update(stream_id, amount)

    def _reset(self) -> bytes:
        return frames.rst_stream(self._any_id(), ErrorCode.CANCEL)

    def _other(self) -> bytes:
        return self._random.choice(
            (
                frames.goaway(0, ErrorCode.NO_ERROR),
                frames.frame(frames.PRIORITY, 0, self._any_id(), b"\0\0\0\0\x10"),
                frames.frame(0x42, 0xFF, self._any_id(), b"?"),
                frames.frame(frames.SETTINGS, frames.ACK, 0),
                peer.data(self._any_id(), b"", 0),
            )
        )
