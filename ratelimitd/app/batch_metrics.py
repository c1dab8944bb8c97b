"""Times what is sent to the store, one batch at a time."""

from collections.abc import Callable, Sequence

from ratelimitd.errors import StoreError, StoreUnavailable
from ratelimitd.store.batcher import Send
from ratelimitd.store.port import Answer, OnReplies
from ratelimitd.store.wire import PackedPlan
from ratelimitd.telemetry.counters import Telemetry

UNAVAILABLE = "unavailable"
REPLY_LOST = "reply_lost"
# A request that found the queue full; the others are batches.
OVERLOADED = "overloaded"


def measured(send: Send, telemetry: Telemetry, now_s: Callable[[], float]) -> Send:
    """Return `send` with its batches counted; `now_s` is a monotonic clock.

    A batch that was never sent is counted as an error only: refusing at once, because the breaker
    is open, says nothing about how long the store takes.
    """

    def send_measured(plans: Sequence[PackedPlan], done: OnReplies) -> None:
        start_s = now_s()

        def done_measured(answers: Sequence[Answer]) -> None:
            errors = [answer for answer in answers if isinstance(answer, StoreError)]
            kind = _kind(errors)
            if kind == UNAVAILABLE and len(errors) == len(plans):
                telemetry.store_error(UNAVAILABLE)
            else:
                checks = sum([plan.check_count for plan in plans])
                telemetry.observe_store_call(now_s() - start_s, checks, len(plans), kind)
            done(answers)

        send(plans, done_measured)

    return send_measured


def _kind(errors: Sequence[StoreError]) -> str | None:
    """Return the worst of the errors in a batch of which a part was decided."""
    if not errors:
        return None
    is_unsent = all(isinstance(error, StoreUnavailable) for error in errors)
    return UNAVAILABLE if is_unsent else REPLY_LOST
