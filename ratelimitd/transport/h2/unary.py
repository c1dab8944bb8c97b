"""Unary methods on the HTTP/2 server: each call is handed over, counted, and answered once.

Rules:
- A method takes bytes and a context and answers when it likes, by a callback, from the loop. The
  hot one does so itself; a plain async service gets a task for each call.
- Errors become statuses by transport/errors.py; one that nobody foresaw is INTERNAL with an id.
- The answer to a call that nobody waits for any more is dropped by the connection, and counted.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from ratelimitd.services.context import CallContext
from ratelimitd.services.parse import decode
from ratelimitd.transport.errors import new_error_id, to_answer, to_internal
from ratelimitd.transport.h2.headers import Head

_log = logging.getLogger(__name__)

Answer = Callable[[bytes | Exception], None]
ObserveCall = Callable[[str, str, float], None]
Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


@dataclass(frozen=True, slots=True)
class Method:
    """What serves one path; `name` is its label in metrics."""

    name: str
    serve: Callable[[bytes, CallContext, Answer], None]


class AnswersCalls(Protocol):
    """A connection's shell, as far as answers need it."""

    def answer(self, stream_id: int, message: bytes) -> None:
        """Answer a call."""
        ...

    def fail(self, stream_id: int, status: int, message: str) -> None:
        """Answer a call with a gRPC status that is not OK."""
        ...


class Calls:
    """The `on_calls` of a server whose methods are `Method`s."""

    def __init__(self, observe_call: ObserveCall, default_deadline_s: float) -> None:
        """Count in `observe_call`; a call without a deadline gets the default one."""
        self._observe = observe_call
        self._default_s = default_deadline_s

    def __call__(self, link: AnswersCalls, calls: list[tuple[int, Head, bytes]]) -> None:
        """Hand over all calls of one read."""
        start_s = time.monotonic()
        for stream_id, head, body in calls:
            method = head.method
            assert isinstance(method, Method), "only methods are mounted"
            timeout_s = self._default_s if head.timeout_s is None else head.timeout_s
            answer = partial(self._answer, link, stream_id, method.name, start_s)
            method.serve(body, CallContext(timeout_s, head.trace_parent), answer)

    def _answer(
        self,
        link: AnswersCalls,
        stream_id: int,
        name: str,
        start_s: float,
        result: bytes | Exception,
    ) -> None:
        if isinstance(result, bytes):
            link.answer(stream_id, result)
            self._observe(name, "OK", time.monotonic() - start_s)
            return
        told = to_answer(result)
        if told is None:
            error_id = new_error_id()
            told = to_internal(error_id)
            _log.error("%s failed, error id %s", name, error_id, exc_info=result)
        link.fail(stream_id, told.status, told.message)
        self._observe(name, told.status.name, time.monotonic() - start_s)


def from_service(
    name: str, request: type[Q], serve: Callable[[Q, CallContext], Awaitable[R]]
) -> Method:
    """Mount a plain async service; a task for each call, which its deadline bounds."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(body: bytes, context: CallContext, answer: Answer) -> None:
        try:
            async with asyncio.timeout(context.timeout_s):
                message = await serve(decode(request, body), context)
            answer(message.SerializeToString())
        except Exception as error:  # noqa: BLE001 - the edge: whatever a service raises is answered
            answer(error)

    def start(body: bytes, context: CallContext, answer: Answer) -> None:
        task = asyncio.get_running_loop().create_task(run(body, context, answer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    return Method(name, start)
