"""What a peer did wrong: to its whole connection, or to one stream."""

from ratelimitd.transport.h2.frames import ErrorCode


class PeerError(Exception):
    """A connection error: GOAWAY with `code`. `bound` names the field of Bounds it ran over."""

    def __init__(self, code: ErrorCode, reason: str, bound: str = "") -> None:
        """Keep what GOAWAY and the counters tell."""
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.bound = bound


class StreamError(Exception):
    """A stream error: RST_STREAM with `code`; the connection goes on."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        """Keep what RST_STREAM and the counters tell."""
        super().__init__(reason)
        self.code = code
        self.reason = reason


def over_bound(bound: str) -> PeerError:
    """Return the error of a peer that ran over the field `bound` of Bounds."""
    return PeerError(ErrorCode.ENHANCE_YOUR_CALM, f"over the bound {bound}", bound)
