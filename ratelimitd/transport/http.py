"""The HTTP port: Envoy's service as JSON, health, metrics, and the policy in force to read.

Rules:
- /json answers as the reference server: 200 for OK, 429 for OVER_LIMIT, 400 for whatever could
  not be decided, 500 for what should not happen. The body of a 400 says why in its second line.
- Every body is bounded in bytes and in time; no page depends on the store's answer in time.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from google.protobuf.json_format import MessageToJson, Parse, ParseError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd._proto.pool import POOL
from ratelimitd.defects import DefectLog
from ratelimitd.errors import InvalidRequest
from ratelimitd.services.context import CallContext
from ratelimitd.services.health import HealthState
from ratelimitd.transport.errors import new_error_id, to_answer, to_internal

_log = logging.getLogger(__name__)

# As much as a gRPC request may have; a request within its bounds is far smaller, also in JSON.
MAX_BODY_BYTES = 64 * 1024
# A body that has not come by then is not coming.
BODY_TIMEOUT_S = 5.0
MAX_NESTING = 32

_NOT_READABLE = "the body is not a RateLimitRequest in JSON"

_LIKE = '{"domain": "d", "descriptors": [{"entries": [{"key": "k", "value": "v"}]}]}'

ShouldRateLimit = Callable[
    [rls_pb2.RateLimitRequest, CallContext], Awaitable[rls_pb2.RateLimitResponse]
]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpPages:
    """What the HTTP port shows.

    `on_disconnect` is told of a caller that left before its request was here.
    `metrics` takes the Accept header, returns a body and its type, and runs in a thread, once at
    a time. The policy's pages are ready made, in pieces.
    """

    should_rate_limit: ShouldRateLimit
    health: HealthState
    on_disconnect: Callable[[], None] = lambda: None
    metrics: Callable[[str], tuple[bytes, str]]
    policy: Callable[[], Sequence[bytes]]
    rlconfig: Callable[[], Sequence[bytes]]


def http_app(pages: HttpPages) -> Starlette:
    """Return the pages as an ASGI application."""

    async def healthcheck(_: Request) -> Response:
        problems = pages.health.problems()
        return PlainTextResponse("\n".join(problems) or "OK", 500 if problems else 200)

    async def healthz(_: Request) -> Response:
        problems = pages.health.problems()
        details = (f"{name}: {told}" for name, told in pages.health.details().items())
        lines = (*(problems or ("OK",)), *details)
        return PlainTextResponse("\n".join(lines) + "\n", 500 if problems else 200)

    async def policy(_: Request) -> Response:
        return _in_pieces(pages.policy(), "application/json")

    async def rlconfig(_: Request) -> Response:
        return _in_pieces(pages.rlconfig(), "text/plain")

    return Starlette(
        routes=[
            Route("/json", _JsonPage(pages.should_rate_limit, pages.on_disconnect)),
            Route("/healthz", healthz),
            Route("/healthcheck", healthcheck),
            _metrics_route("/metrics", pages.metrics),
            Route("/policy", policy),
            Route("/rlconfig", rlconfig),
        ]
    )


def metrics_app(path: str, metrics: Callable[[str], tuple[bytes, str]]) -> Starlette:
    """Return an application with the metrics alone, at `path`."""
    return Starlette(routes=[_metrics_route(path, metrics)])


def _in_pieces(pieces: Sequence[bytes], media_type: str) -> Response:
    """Return a page that is written as fast as its reader takes it, and never copied whole."""

    async def each() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
            # A reader as fast as we are would have the loop to itself.
            await asyncio.sleep(0)

    size = str(sum(map(len, pieces)))
    return StreamingResponse(each(), headers={"content-length": size}, media_type=media_type)


def _metrics_route(path: str, metrics: Callable[[str], tuple[bytes, str]]) -> Route:
    one_at_a_time = asyncio.Lock()
    running: dict[str, asyncio.Task[tuple[bytes, str]]] = {}

    async def render(accept: str) -> tuple[bytes, str]:
        # In a thread, because thousands of rules take longer to write than a request may wait.
        async with one_at_a_time:
            return await run_in_threadpool(metrics, accept)

    async def page(request: Request) -> Response:
        # Who comes while the same page is being written gets that one: impatient scrapers must
        # not add up.
        accept = request.headers.get("accept", "")
        task = running.get(accept)
        if task is None:
            task = running[accept] = asyncio.create_task(render(accept))
            task.add_done_callback(lambda _: running.pop(accept))
        body, content_type = await asyncio.shield(task)
        return Response(body, headers={"content-type": content_type})

    return Route(path, page)


class _JsonPage:
    """POST /json, and with any other method too, as the reference server has it."""

    def __init__(
        self, should_rate_limit: ShouldRateLimit, on_disconnect: Callable[[], None]
    ) -> None:
        self._should_rate_limit = should_rate_limit
        self._on_disconnect = on_disconnect
        self._defects = DefectLog(_log)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._answer(Request(scope, receive))
        except ClientDisconnect:
            # Nobody is there to be answered, and nothing was asked.
            self._on_disconnect()
            return
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        try:
            message = _parse(await _read_body(request))
            context = CallContext(trace_parent=request.headers.get("traceparent"))
            answer = await self._should_rate_limit(message, context)
        except ClientDisconnect:
            raise
        except Exception as error:  # noqa: BLE001 - the edge: whatever a service raises is answered
            return _to_error_response(error, self._defects)
        return Response(
            MessageToJson(answer, indent=None, descriptor_pool=POOL),
            _HTTP_CODES.get(answer.overall_code, 500),
            media_type="application/json",
        )


_HTTP_CODES = {
    rls_pb2.RateLimitResponse.OK: 200,
    rls_pb2.RateLimitResponse.OVER_LIMIT: 429,
}


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise InvalidRequest(f"the body has more than {MAX_BODY_BYTES} bytes")
    except TimeoutError as error:
        raise InvalidRequest(f"the body did not come within {BODY_TIMEOUT_S:g} s") from error
    return bytes(body)


def _parse(body: bytes) -> rls_pb2.RateLimitRequest:
    if not body.lstrip().startswith(b"{"):
        what = "is empty" if not body.strip() else "does not start with a brace"
        raise InvalidRequest(f"{_NOT_READABLE}: it {what}; send {_LIKE}")
    try:
        return Parse(
            body,
            rls_pb2.RateLimitRequest(),
            descriptor_pool=POOL,
            max_recursion_depth=MAX_NESTING,
        )
    except (ParseError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"{_NOT_READABLE}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]


def _to_error_response(error: Exception, defects: DefectLog) -> Response:
    answer = to_answer(error)
    if answer is None:
        error_id = new_error_id()
        answer = to_internal(error_id)
        defects.record(error, "/json failed, error id %s", error_id)
    title = "Bad Request" if answer.http == 400 else "Internal Server Error"  # noqa: PLR2004 - the table has these two
    return PlainTextResponse(f"{title}\n{answer.message}\n", answer.http)
