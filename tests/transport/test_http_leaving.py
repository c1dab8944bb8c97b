"""Callers that leave half way, and defects that come in numbers, fill no log."""

import asyncio
import logging

import httpx
import pytest

from ratelimitd.defects import LINES_PER_SECOND
from ratelimitd.services.health import HealthState
from ratelimitd.services.policy_holder import PolicyHolder
from ratelimitd.transport.http import MAX_BODY_BYTES, HttpPages, http_app
from ratelimitd.transport.http_server import HttpServer, start_http
from ratelimitd.transport.listen import TcpAddress
from tests.transport.support import ANY_PORT, EchoService

MANY = 4 * LINES_PER_SECOND


async def start(left: asyncio.Event) -> HttpServer:
    pages = HttpPages(
        should_rate_limit=EchoService().should_rate_limit,
        health=HealthState(holder=PolicyHolder()),
        on_disconnect=left.set,
        metrics=lambda _: (b"", ""),
        policy=lambda: (b"",),
        rlconfig=lambda: (b"",),
    )
    return await start_http(http_app(pages), ANY_PORT, "--http")


async def test_caller_that_leaves_half_way_is_counted_and_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # given
    left = asyncio.Event()
    server = await start(left)
    assert isinstance(server.address, TcpAddress)
    # when
    _, writer = await asyncio.open_connection(server.address.host, server.address.port)
    writer.write(b"POST /json HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    # then
    await asyncio.wait_for(left.wait(), 10)
    await server.stop(1)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_json_has_the_bound_of_a_grpc_request() -> None:
    server = await start(asyncio.Event())
    async with httpx.AsyncClient(base_url=f"http://{server.address}") as client:
        filled = b'{"domain": "d"' + b" " * (MAX_BODY_BYTES - 15) + b"}"
        fits = await client.post("/json", content=filled)
        too_large = await client.post("/json", content=filled + b" ")
    await server.stop(1)

    assert fits.status_code == 200
    assert too_large.status_code == 400
    assert "more than 65536 bytes" in too_large.text


async def test_defects_of_many_calls_are_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    # given
    server = await start(asyncio.Event())
    # when
    async with httpx.AsyncClient(base_url=f"http://{server.address}") as client:
        posts = (client.post("/json", json={"domain": "bug"}) for _ in range(MANY))
        answers = await asyncio.gather(*posts)
    await server.stop(1)
    # then
    assert {answer.status_code for answer in answers} == {500}
    lines = [each for each in caplog.records if each.name == "ratelimitd.transport.http"]
    assert LINES_PER_SECOND <= len(lines) < MANY
