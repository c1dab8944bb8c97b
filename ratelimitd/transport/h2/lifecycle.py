"""The state of a connection: how it begins, drains and ends, its header blocks, its resets.

Rules:
- Drain is two GOAWAY: the first says that no stream should be opened, the second, after a round
  trip, which was the last one (RFC 9113, 6.8).
- Frames on a stream that we reset are ignored, as the peer may have sent them before it knew;
  the last REMEMBERED_RESETS are known.
- A block that changed the dynamic table makes the remembered ones forgotten.
"""

from typing import Final

from ratelimitd.transport.h2 import answers, frames
from ratelimitd.transport.h2.answers import refuse_grpc
from ratelimitd.transport.h2.failures import PeerError
from ratelimitd.transport.h2.frames import ErrorCode
from ratelimitd.transport.h2.headers import Head
from ratelimitd.transport.h2.hpack import Decoder, HeaderListTooLarge, HpackError
from ratelimitd.transport.h2.intake import Intake
from ratelimitd.transport.h2.meter import Kind, Meter
from ratelimitd.transport.h2.outbox import Outbox
from ratelimitd.transport.h2.profile import Profile

REMEMBERED_RESETS: Final = 128

# The PING whose acknowledgement says that the peer has read our first GOAWAY.
DRAIN_PING: Final = b"draining"
NEVER: Final = -1

LIST_TOO_LARGE: Final = Head(
    None,
    refusal=refuse_grpc(
        "header_list_bytes", answers.RESOURCE_EXHAUSTED, "received metadata size exceeds the limit"
    ),
)


class Lifecycle:
    """The state of a connection; `dispatch` has the frames, `connection` what the shell calls."""

    __slots__ = (
        "_block",
        "_block_flags",
        "_block_stream",
        "_blocks",
        "_bounds",
        "_continuations",
        "_counters",
        "_decoder",
        "_expected",
        "_gaps",
        "_intake",
        "_is_draining",
        "_is_final",
        "_is_greeted",
        "_last_id",
        "_meter",
        "_our_resets",
        "_out",
        "_profile",
        "end_reason",
        "is_closing",
        "last_ping_ack",
        "peer_is_leaving",
    )

    def __init__(self, profile: Profile) -> None:
        """Greet the peer."""
        bounds = profile.bounds
        self._profile = profile
        self._bounds = bounds
        self._counters = profile.counters
        self._decoder = Decoder(max_header_list_size=bounds.header_list_bytes)
        self._meter = Meter(profile.limits, bounds.frames_per_call)
        self._intake = Intake(bounds)
        self._out = Outbox(bounds.buffered_answer_bytes)
        self._out.write(profile.greeting)
        # Blocks remembered by their bytes.
        self._blocks: dict[bytes, Head] = {}
        # The block whose CONTINUATION is to come, with the stream, 0 for none.
        self._block = b""
        self._block_stream = 0
        self._block_flags = 0
        self._continuations = 0
        # The highest stream, and the one that a client opens next, if it may open one.
        self._last_id = 0
        self._expected = NEVER
        self._gaps: list[range] = []
        self._our_resets: dict[int, None] = {}
        self._is_greeted = False
        self._is_draining = False
        self._is_final = False
        self.is_closing = False
        self.end_reason = ""
        self.peer_is_leaving = False
        self.last_ping_ack: int | None = None

    def drain(self) -> None:
        """Ask the peer to open no more streams; those that are open go on.

        The final GOAWAY follows when the peer has acknowledged, or with `finish_drain`.
        """
        if not self.is_closing and not self._is_draining:
            self._is_draining = True
            self._out.write(frames.goaway(frames.MAX_WINDOW, ErrorCode.NO_ERROR, b"draining"))
            self._out.write(frames.frame(frames.PING, 0, 0, DRAIN_PING))

    def finish_drain(self) -> None:
        """Take no more streams from now on."""
        if not self.is_closing and not self._is_final:
            self._is_draining = self._is_final = True
            self._expected = NEVER
            self._out.write(frames.goaway(self._last_id, ErrorCode.NO_ERROR, b"draining"))

    def close(self, code: ErrorCode, reason: str) -> None:
        """End the connection now, for a reason of the shell's."""
        if not self.is_closing:
            self._end(PeerError(code, reason))

    def ping(self, token: int) -> None:
        """Ask whether the peer lives; its answer sets `last_ping_ack` to `token`."""
        self._out.write(frames.frame(frames.PING, 0, 0, token.to_bytes(8, "big")))

    def _end(self, error: PeerError) -> None:
        counters = self._counters
        counted = counters.over_bound if error.bound else counters.connection_errors
        name = error.bound or error.code.name
        counted[name] = counted.get(name, 0) + 1
        self._out.write(frames.goaway(self._last_id, error.code, error.reason.encode()))
        self.end_reason = error.reason
        self._drop_all()

    def _drop_all(self) -> None:
        """Forget every request and answer: the connection ends."""
        self.is_closing = True
        self._out.drop_all()
        self._intake = Intake(self._bounds)
        self._blocks.clear()
        self._block = b""

    def _room(self) -> int:
        """Return how many calls the service may have of this connection."""
        busy = len(self._intake.streams) + len(self._out.waiting)
        return self._bounds.concurrent_streams - busy

    def _use(self, length: int) -> None:
        update = self._intake.use(length)
        if update:
            self._out.write(update)

    def _reset(self, stream_id: int, code: ErrorCode, reason: str) -> None:
        self._counters.refuse(reason)
        self._counters.our_resets += 1
        self._out.write(frames.rst_stream(stream_id, code))
        self._intake.close(stream_id)
        self._out.forget(stream_id)
        self._remember_reset(stream_id)

    def _remember_reset(self, stream_id: int) -> None:
        self._meter.spend(Kind.STREAM_ERRORS)
        resets = self._our_resets
        resets[stream_id] = None
        if len(resets) > REMEMBERED_RESETS:
            del resets[next(iter(resets))]

    def _decode(self, block: bytes) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """Return names and values. Raises PeerError and HeaderListTooLarge."""
        self._counters.block_misses += 1
        try:
            return self._decoder.decode(block)
        except HpackError as error:
            raise PeerError(ErrorCode.COMPRESSION_ERROR, str(error)) from error
        finally:
            if self._decoder.changed and self._blocks:
                self._blocks.clear()

    def _read_head(self, block: bytes) -> Head:
        try:
            head = self._profile.heads.read(*self._decode(block))
        except HeaderListTooLarge:
            return LIST_TOO_LARGE
        is_lasting = head.is_plain and not self._decoder.changed
        if is_lasting and len(block) <= self._bounds.remembered_block_bytes:
            if len(self._blocks) >= self._bounds.remembered_blocks:
                self._blocks.clear()
            self._blocks[block] = head
        return head
