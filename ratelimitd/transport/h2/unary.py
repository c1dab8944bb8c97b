"""Unary methods on the HTTP/2 server: calls are handed over by the read, counted, answered once.

Rules:
- A method takes the calls of one read, and answers each when it likes, from the loop. The hot one
  does so itself; a plain async service gets a task for each call.
- Errors become statuses by transport/errors.py; one that nobody foresaw is INTERNAL with an id.
- The answer to a call that nobody waits for any more is dropped by the connection, and the call
  counted as CANCELLED.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from ratelimitd.defects import DefectLog
from ratelimitd.services.context import CallContext
from ratelimitd.services.gate import Peer
from ratelimitd.services.parse import decode
from ratelimitd.transport.errors import new_error_id, to_answer, to_internal
from ratelimitd.transport.h2.connection import Call
from ratelimitd.transport.h2.headers import Head

_log = logging.getLogger(__name__)

# What a call is counted as when its caller has left before the answer.
CANCELLED = "CANCELLED"

ObserveCall = Callable[[str, str, float, int], None]
Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


class AnswersCalls(Protocol):
    """A connection's shell, as far as answers need it."""

    def answer_all(self, answers: Sequence[tuple[int, bytes]]) -> int:
        """Answer calls; return for how many nobody waits."""
        ...

    def fail(self, stream_id: int, status: int, message: str) -> bool:
        """Answer a call with a gRPC status that is not OK; return whether somebody waits."""
        ...


class Replies:
    """Where a method answers the calls of one read, and where they are counted."""

    __slots__ = ("_defects", "_link", "_name", "_observe", "_start_s", "caller")

    def __init__(
        self,
        link: AnswersCalls,
        name: str,
        observe: ObserveCall,
        defects: DefectLog,
        caller: Peer | None,
    ) -> None:
        """Answer `caller` on `link`, count in `observe` by `name`, tell `defects` of ours."""
        self.caller = caller
        self._defects = defects
        self._link = link
        self._name = name
        self._observe = observe
        self._start_s = time.monotonic()

    def answer_all(self, answers: Sequence[tuple[int, bytes]]) -> None:
        """Answer calls with their encoded responses."""
        dropped = self._link.answer_all(answers)
        seconds = time.monotonic() - self._start_s
        if dropped:
            self._observe(self._name, CANCELLED, seconds, dropped)
        if dropped != len(answers):
            self._observe(self._name, "OK", seconds, len(answers) - dropped)

    def fail(self, stream_id: int, error: Exception) -> None:
        """Answer a call with an error."""
        told = to_answer(error)
        if told is None:
            error_id = new_error_id()
            told = to_internal(error_id)
            self._defects.record(error, "%s failed, error id %s", self._name, error_id)
        is_awaited = self._link.fail(stream_id, told.status, told.message)
        code = told.status.name if is_awaited else CANCELLED
        self._observe(self._name, code, time.monotonic() - self._start_s, 1)


@dataclass(frozen=True, slots=True)
class Method:
    """What serves one path, all calls of a read at once; `name` is its label in metrics."""

    name: str
    serve: Callable[[Sequence[Call], Replies], None]


class Calls:
    """The `on_calls` of a server whose methods are `Method`s."""

    def __init__(self, observe_call: ObserveCall) -> None:
        """Count in `observe_call`."""
        self._observe = observe_call
        self._defects = DefectLog(_log)

    def __call__(
        self, link: AnswersCalls, calls: Sequence[Call], caller: Peer | None = None
    ) -> None:
        """Hand over the calls of one read, to each method its own."""
        method = calls[0][1].method
        for _, head, _ in calls:
            if head.method is not method:
                break
        else:
            self._serve(link, method, calls, caller)
            return
        by_method: dict[int, list[Call]] = {}
        for call in calls:
            by_method.setdefault(id(call[1].method), []).append(call)
        for own in by_method.values():
            self._serve(link, own[0][1].method, own, caller)

    def _serve(
        self, link: AnswersCalls, method: object, calls: Sequence[Call], caller: Peer | None
    ) -> None:
        assert isinstance(method, Method), "only methods are mounted"
        method.serve(calls, Replies(link, method.name, self._observe, self._defects, caller))


def from_service(
    name: str,
    request: type[Q],
    serve: Callable[[Q, CallContext], Awaitable[R]],
    default_deadline_s: float,
) -> Method:
    """Mount a plain async service; a task for each call, which its deadline bounds."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(stream_id: int, head: Head, body: bytes, replies: Replies) -> None:
        timeout_s = default_deadline_s if head.timeout_s is None else head.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                context = CallContext(timeout_s, head.trace_parent, replies.caller)
                message = await serve(decode(request, body), context)
            replies.answer_all([(stream_id, message.SerializeToString())])
        except Exception as error:  # noqa: BLE001 - the edge: whatever a service raises is answered
            replies.fail(stream_id, error)

    def start(calls: Sequence[Call], replies: Replies) -> None:
        loop = asyncio.get_running_loop()
        for stream_id, head, body in calls:
            task = loop.create_task(run(stream_id, head, body, replies))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    return Method(name, start)
