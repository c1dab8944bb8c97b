"""What a peer may ask of one connection: every bound, with its reason.

Beyond a bound the connection ends with GOAWAY ENHANCE_YOUR_CALM, except where the field says
something milder. An interval is what passes between two calls of `Connection.new_interval`, a
second by intention. Frames that cost us something and bring no request have a bound for each
interval *plus* `frames_per_call` for every request completed in it, so that an honest client's
share never depends on how busy it is.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The bounds of one connection."""

    # A gateway has some hundred calls in flight; more are refused with REFUSED_STREAM, which a
    # client may retry. It is advertised.
    concurrent_streams: int = 1024
    # A message beyond it is refused with RESOURCE_EXHAUSTED. A gateway's has some hundred bytes.
    message_bytes: int = 1024 * 1024
    # Decoded fields, counted as RFC 9113 6.5.2 does; advertised; over it the call is refused with
    # RESOURCE_EXHAUSTED. Clients send about one KiB.
    header_list_bytes: int = 16 * 1024
    # One block on the wire, over all its frames. It cannot be refused alone, for it must be
    # decoded to keep the compression state, and twice the list is no honest block.
    header_block_bytes: int = 32 * 1024
    # CONTINUATION frames of one block: two full ones hold the largest, clients send none.
    continuation_frames: int = 8
    # Of requests that are not complete, over all streams; each is refused at `message_bytes`.
    buffered_request_bytes: int = 4 * 1024 * 1024
    # Of answers that wait for the peer's windows: it holds our memory by not reading.
    buffered_answer_bytes: int = 1024 * 1024
    # What the peer may send ahead on a connection, and on a stream, before we read: a batch of
    # the largest size is 512 requests of some hundred bytes.
    connection_window: int = 1024 * 1024

    # Requests that the peer opened and took back. A gateway whose deadline is shorter than a
    # stall takes back everything in flight at once, so twice `concurrent_streams`.
    resets_per_interval: int = 2048
    # Streams refused or reset by us: each costs a header block and an answer.
    stream_errors_per_interval: int = 1024
    # Clients send SETTINGS once; each one is acknowledged and may touch every stream.
    settings_per_interval: int = 32
    # Keepalive is one in some seconds; measuring the window, one for each round trip.
    pings_per_interval: int = 1024
    # DATA without a byte and without END_STREAM moves nothing.
    empty_data_per_interval: int = 128
    # Clients open windows as they read answers, at most one for a stream and one for all.
    window_updates_per_interval: int = 4096
    # PRIORITY, GOAWAY and frames of unknown types: ignored, but they are read.
    other_frames_per_interval: int = 1024
    # Frames of each kind above that a completed request brings at most.
    frames_per_call: int = 4

    # Intervals that the preface, a header block and a frame may take, once begun.
    header_intervals: int = 10
    # Intervals that a request's body may take; then the stream is reset with CANCEL.
    body_intervals: int = 30
    # Intervals that an answer may wait for the peer's windows; then its stream is reset too.
    answer_intervals: int = 30

    # Header blocks remembered by their bytes. A gateway sends two or three different ones while
    # its table stands still, and there may be thousands of connections.
    remembered_blocks: int = 8
    remembered_block_bytes: int = 1024
