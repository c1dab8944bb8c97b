"""What all connections of one server share: methods, bounds, constants, and counters."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ratelimitd.transport.h2 import frames
from ratelimitd.transport.h2.bounds import Bounds
from ratelimitd.transport.h2.headers import HeadReader
from ratelimitd.transport.h2.meter import to_limits


@dataclass(slots=True)
class Counters:
    """What happened on all connections of a server; plain numbers that only grow."""

    calls: int = 0
    answers_dropped: int = 0
    block_hits: int = 0
    block_misses: int = 0
    peer_resets: int = 0
    our_resets: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    connection_errors: dict[str, int] = field(default_factory=dict)
    over_bound: dict[str, int] = field(default_factory=dict)

    def refuse(self, reason: str) -> None:
        """Count a request that was refused; `reason` is one of a few."""
        self.refused[reason] = self.refused.get(reason, 0) + 1


class Profile:
    """Shared by the connections of a server: `methods` is path to handle."""

    __slots__ = ("bounds", "counters", "greeting", "heads", "largest_plain", "limits")

    def __init__(self, methods: Mapping[bytes, object], bounds: Bounds) -> None:
        """Serve `methods` within `bounds`."""
        assert bounds.connection_window >= frames.DEFAULT_WINDOW, "it can only be raised"
        self.bounds = bounds
        self.heads = HeadReader(methods)
        self.limits = to_limits(bounds)
        self.counters = Counters()
        # The largest DATA frame that holds a whole message: its prefix and the message.
        self.largest_plain = min(frames.DEFAULT_FRAME_SIZE, bounds.message_bytes + 5)
        # The window of a stream stays the default, so that it holds before and after the peer
        # acknowledged the settings.
        self.greeting = frames.settings(
            {
                frames.MAX_CONCURRENT_STREAMS: bounds.concurrent_streams,
                frames.MAX_HEADER_LIST_SIZE: bounds.header_list_bytes,
            }
        )
        if bounds.connection_window > frames.DEFAULT_WINDOW:
            self.greeting += frames.window_update(
                0, bounds.connection_window - frames.DEFAULT_WINDOW
            )
