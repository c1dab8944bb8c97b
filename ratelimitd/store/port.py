"""What a store is, whatever stands behind it: a list of plans in, a list of replies out."""

from collections.abc import Callable, Sequence
from typing import Protocol

from ratelimitd.decisions.plan import Plan, Reply
from ratelimitd.errors import StoreError, StoreReplyLost
from ratelimitd.store.wire import PackedPlan

Answer = Reply | StoreError
OnReplies = Callable[[Sequence[Answer]], None]


class Store(Protocol):
    """Decides plans atomically: one list is one serial history, and one script call.

    An error is StoreUnavailable when nothing was sent and StoreReplyLost when the answer did not
    come. Every plan has at least one check.
    """

    def send(self, plans: Sequence[PackedPlan], done: OnReplies) -> None:
        """Decide and charge `plans` in order; `done` gets a reply or an error for each, once."""
        ...

    async def peek(self, plans: Sequence[Plan], *, timeout_s: float) -> list[Reply]:
        """Decide `plans` one by one as if each came alone now; nothing is charged.

        Raises the first error of any of them.
        """
        ...

    async def close(self) -> None:
        """Wait for what goes on behind the answers; the time is bounded."""
        ...


def unreadable_reply() -> StoreReplyLost:
    """Return what a reply means that is not a script's: it ran, and nobody knows how it ended."""
    return StoreReplyLost("store: its reply cannot be read; see the log")


def all_or_raise(answers: Sequence[Answer]) -> list[Reply]:
    """Return the replies, or raise the first error."""
    replies: list[Reply] = []
    for answer in answers:
        if isinstance(answer, StoreError):
            raise answer
        replies.append(answer)
    return replies
