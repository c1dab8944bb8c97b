"""Times what is sent to the store, one batch at a time."""

from collections.abc import Awaitable, Callable, Sequence

from ratelimitd.decisions.plan import Plan, Reply
from ratelimitd.errors import StoreError, StoreUnavailable
from ratelimitd.telemetry.counters import Telemetry

Send = Callable[[Sequence[Plan]], Awaitable[Sequence[Reply | StoreError]]]

UNAVAILABLE = "unavailable"
REPLY_LOST = "reply_lost"


def measured(send: Send, telemetry: Telemetry, now_s: Callable[[], float]) -> Send:
    """Return `send` with its batches counted; `now_s` is a monotonic clock.

    A batch that was never sent is counted as an error only: refusing at once, because the breaker
    is open, says nothing about how long the store takes.
    """

    async def send_measured(plans: Sequence[Plan]) -> Sequence[Reply | StoreError]:
        start_s = now_s()
        try:
            answers = await send(plans)
        except StoreUnavailable:
            telemetry.store_error(UNAVAILABLE)
            raise
        except Exception:
            _observe(telemetry, now_s() - start_s, plans, REPLY_LOST)
            raise
        errors = [answer for answer in answers if isinstance(answer, StoreError)]
        _observe(telemetry, now_s() - start_s, plans, _kind(errors))
        return answers

    return send_measured


def _observe(
    telemetry: Telemetry, seconds: float, plans: Sequence[Plan], error_kind: str | None
) -> None:
    """Count one batch that was sent."""
    checks = sum(len(plan.checks) for plan in plans)
    telemetry.observe_store_call(seconds, checks, len(plans), error_kind)


def _kind(errors: Sequence[StoreError]) -> str | None:
    """Return the worst of the errors in a batch of which a part was decided."""
    if not errors:
        return None
    is_unsent = all(isinstance(error, StoreUnavailable) for error in errors)
    return UNAVAILABLE if is_unsent else REPLY_LOST
