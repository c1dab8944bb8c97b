"""What is put around a service for every transport: a deadline, and a count."""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from google.protobuf.message import Message

from ratelimitd.services.context import CallContext
from ratelimitd.telemetry.counters import Telemetry

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)
Serve = Callable[[Q, CallContext], Awaitable[R]]


def observed(serve: Serve[Q, R], name: str, telemetry: Telemetry) -> Serve[Q, R]:
    """Return `serve`, its calls counted under `name`, for a transport that counts nothing."""

    async def serve_observed(message: Q, context: CallContext) -> R:
        start_s = time.monotonic()
        code = "ERROR"
        try:
            answer = await serve(message, context)
            code = "OK"
        finally:
            telemetry.observe_call(name, code, time.monotonic() - start_s)
        return answer

    return serve_observed


def with_deadline(serve: Serve[Q, R], default_s: float) -> Serve[Q, R]:
    """Return `serve` with a deadline for calls that come without one."""

    async def serve_with_deadline(message: Q, context: CallContext) -> R:
        if context.timeout_s is None:
            context = context._replace(timeout_s=default_s)
        return await serve(message, context)

    return serve_with_deadline
