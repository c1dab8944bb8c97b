"""Calls as a transport hands them over, and where they are answered."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ratelimitd.services.context import CallContext
from ratelimitd.services.gate import Peer


class Head(Protocol):
    """What a transport knows of a call; `timeout_s` is None without a deadline."""

    @property
    def timeout_s(self) -> float | None:
        """Return how long the caller waits."""
        ...

    @property
    def trace_parent(self) -> str | None:
        """Return the caller's trace."""
        ...


# The transport's number of a call, what it knows of it, and the encoded request.
Call = tuple[int, Head, bytes]


class Replies(Protocol):
    """Where the calls of one read are answered; `caller` made them, None where nobody asks."""

    @property
    def caller(self) -> Peer | None:
        """Return who calls."""
        ...

    def answer_all(self, answers: Sequence[tuple[int, bytes]], /) -> None:
        """Answer calls with their encoded responses."""
        ...

    def fail(self, number: int, error: Exception, /) -> None:
        """Answer a call with an error, by the transport's table."""
        ...


class Later(NamedTuple):
    """What is known of a call that waited already."""

    head: Head
    late_s: float
    default_s: float

    @property
    def timeout_s(self) -> float | None:
        """Return how much longer the caller waits."""
        timeout_s = self.head.timeout_s
        return (self.default_s if timeout_s is None else timeout_s) - self.late_s

    @property
    def trace_parent(self) -> str | None:
        """Return the caller's trace."""
        return self.head.trace_parent


def to_context(head: Head, default_s: float) -> CallContext:
    """Return what a service is told of a call."""
    timeout_s = default_s if head.timeout_s is None else head.timeout_s
    return CallContext(timeout_s, head.trace_parent)
