"""The HTTP port answers as the reference server does, and survives what it is sent."""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from ratelimitd.errors import ConfigError
from ratelimitd.policy.model import Policy
from ratelimitd.services.health import HealthState
from ratelimitd.services.policy_holder import PolicyHolder
from ratelimitd.transport import http, http_server
from ratelimitd.transport.http import HttpPages, http_app, metrics_app
from ratelimitd.transport.http_server import HttpServer, start_http
from ratelimitd.transport.listen import TcpAddress, UnixAddress
from tests.transport.support import ANY_PORT, EchoService

SNAKE = {
    "domain": "d",
    "hits_addend": 2,
    "descriptors": [{"entries": [{"key": "k", "value": "v"}], "hits_addend": "3"}],
}
CAMEL = {
    "domain": "d",
    "hitsAddend": 2,
    "descriptors": [{"entries": [{"key": "k", "value": "v"}], "hitsAddend": "3"}],
}


@pytest.fixture
def health() -> HealthState:
    return HealthState(holder=PolicyHolder(policy=Policy("revision", {})), is_store_up=True)


@pytest.fixture
def service() -> EchoService:
    return EchoService()


@pytest.fixture
async def server(health: HealthState, service: EchoService) -> AsyncIterator[HttpServer]:
    pages = HttpPages(
        should_rate_limit=service.should_rate_limit,
        health=health,
        metrics=lambda accept: (b"metric 1\n", f"text/plain; got={accept}"),
        policy=lambda: (b'{"revision": ', b'"x"}'),
        rlconfig=lambda: (b"d.k: unit=SECOND\n",),
    )
    server = await start_http(http_app(pages), ANY_PORT, "--http")
    yield server
    await server.stop(1)


@pytest.fixture
async def client(server: HttpServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{server.address}", timeout=20) as client:
        yield client


@pytest.mark.parametrize("body", [SNAKE, CAMEL])
async def test_json_reads_both_spellings(
    client: httpx.AsyncClient, service: EchoService, body: dict[str, object]
) -> None:
    reply = await client.post("/json", json=body, headers={"traceparent": "00-a-b-01"})

    assert reply.status_code == 200
    assert reply.json() == {"overallCode": "OK", "statuses": [{"code": "OK", "limitRemaining": 1}]}
    assert service.contexts[0].trace_parent == "00-a-b-01"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
async def test_json_takes_any_method(client: httpx.AsyncClient, method: str) -> None:
    reply = await client.request(method, "/json", json={"domain": "over"})

    assert reply.status_code == 429
    assert reply.json()["overallCode"] == "OVER_LIMIT"


@pytest.mark.parametrize(
    ("domain", "reason"),
    [
        ("invalid", "domain: is empty"),
        ("store", "the store does not answer"),
        ("not_ready", "no policy is loaded"),
    ],
)
async def test_json_answers_400_to_what_was_not_decided(
    client: httpx.AsyncClient, domain: str, reason: str
) -> None:
    reply = await client.post("/json", json={"domain": domain})

    assert (reply.status_code, reply.text) == (400, f"Bad Request\n{reason}\n")


async def test_json_answers_500_to_unknown_and_to_a_defect(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = await client.post("/json", json={"domain": "unknown"})
    defect = await client.post("/json", json={"domain": "bug"})

    assert unknown.status_code == 500
    assert defect.status_code == 500
    assert defect.text.startswith("Internal Server Error\ninternal error ")
    assert "secret" not in defect.text
    assert defect.text.split()[-1] in caplog.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"domain": 1}',
        b'{"domain": "d", "nothing": 1}',
        b'{"hitsAddend": -1}',
        b'{"hitsAddend": 4294967296}',
        b'{"domain": "a", "domain": "b"}',
        b"[" * 50_000,
        b'{"descriptors": [' * 3_000,
    ],
)
async def test_json_answers_400_with_a_reason_to_a_bad_body(
    client: httpx.AsyncClient, service: EchoService, body: bytes
) -> None:
    reply = await client.post("/json", content=body)

    title, reason, *rest = reply.text.splitlines()
    assert reply.status_code == 400
    assert title == "Bad Request"
    assert reason.startswith("the body is not a RateLimitRequest in JSON: ")
    assert len(reason) < 400
    assert not rest
    assert service.contexts == []


async def test_json_bounds_the_body_with_and_without_a_length(client: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 65_536

    for content in (b" " * (http.MAX_BODY_BYTES + 1), endless()):
        reply = await client.post("/json", content=content)
        assert reply.status_code == 400
        assert f"more than {http.MAX_BODY_BYTES} bytes" in reply.text


async def test_body_that_does_not_come_is_given_up(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "BODY_TIMEOUT_S", 0.05)
    reply = await exchange(server, b"POST /json HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")

    assert reply.startswith(b"HTTP/1.1 400 ")
    assert b"the body did not come" in reply


async def test_head_that_does_not_come_is_given_up(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "HEAD_TIMEOUT_S", 0.05)

    assert await exchange(server, b"GET /healthz HTTP/1.1\r\nhost:") == b""
    assert await exchange(server, b"") == b""


async def test_head_that_does_not_end_is_given_up(server: HttpServer) -> None:
    lines = b"x-filler: %s\r\n" % (b"y" * 1000)
    reply = await exchange(server, b"GET /healthz HTTP/1.1\r\n" + lines * 200)

    assert reply.startswith(b"HTTP/1.1 400 ")


async def test_bytes_that_are_no_http_are_400_and_the_server_goes_on(
    server: HttpServer, client: httpx.AsyncClient
) -> None:
    assert (await exchange(server, b"\x00\xff\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
    assert (await client.get("/healthcheck")).status_code == 200


async def test_health_is_200_ok_or_500_with_the_reason(
    client: httpx.AsyncClient, health: HealthState
) -> None:
    healthy = await client.get("/healthcheck")
    health.is_draining = True
    draining = await client.get("/healthcheck")

    assert (healthy.status_code, healthy.text) == (200, "OK")
    assert (draining.status_code, draining.text) == (500, "draining: the daemon is stopping")


async def test_healthz_tells_the_details_too(
    client: httpx.AsyncClient, health: HealthState
) -> None:
    health.holder.load_error = "api.yaml:1:1: wrong"

    reply = await client.get("/healthz")

    assert reply.status_code == 200
    first, *details = reply.text.splitlines()
    assert first == "OK"
    assert "policy: invalid, serving revision" in details


async def test_pages_show_metrics_policy_and_rlconfig(client: httpx.AsyncClient) -> None:
    metrics = await client.get("/metrics", headers={"accept": "openmetrics"})
    policy = await client.get("/policy")
    rlconfig = await client.get("/rlconfig")

    assert (metrics.text, metrics.headers["content-type"]) == (
        "metric 1\n",
        "text/plain; got=openmetrics",
    )
    assert json.loads(policy.text) == {"revision": "x"}
    assert policy.headers["content-type"] == "application/json"
    assert rlconfig.text == "d.k: unit=SECOND\n"
    assert (await client.get("/nothing")).status_code == 404
    assert (await client.post("/policy")).status_code == 405


async def test_metrics_port_serves_its_page_alone() -> None:
    app = metrics_app("/m", lambda _: (b"metric 1\n", "text/plain"))
    server = await start_http(app, ANY_PORT, "--metrics")
    async with httpx.AsyncClient(base_url=f"http://{server.address}") as client:
        assert (await client.get("/m")).text == "metric 1\n"
        assert (await client.get("/policy")).status_code == 404
    await server.stop(1)


async def test_scrapes_at_the_same_time_are_rendered_once() -> None:
    go_on = threading.Event()
    rendered: list[str] = []
    at_once = [0, 0]

    def render(accept: str) -> tuple[bytes, str]:
        at_once[0] += 1
        at_once[1] = max(at_once)
        rendered.append(accept)
        assert go_on.wait(20)
        at_once[0] -= 1
        return b"metric 1\n", "text/plain"

    server = await start_http(metrics_app("/m", render), ANY_PORT, "--metrics")
    async with httpx.AsyncClient(base_url=f"http://{server.address}", timeout=20) as client:
        same = [asyncio.create_task(client.get("/m")) for _ in range(10)]
        other = asyncio.create_task(client.get("/m", headers={"accept": "text/x"}))
        await asyncio.wait([*same, other], timeout=0.5)
        go_on.set()
        replies = await asyncio.gather(*same, other)
        later = await client.get("/m")
    await server.stop(1)

    assert {reply.text for reply in (*replies, later)} == {"metric 1\n"}
    assert sorted(rendered) == ["*/*", "*/*", "text/x"]
    assert at_once[1] == 1


async def test_unix_socket_serves_replaces_a_stale_file_and_is_removed(tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "http.sock"))
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(address.path)
    app = metrics_app("/m", lambda _: (b"metric 1\n", "text/plain"))

    server = await start_http(app, address, "--http")
    transport = httpx.AsyncHTTPTransport(uds=address.path)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        assert (await client.get("/m")).text == "metric 1\n"
    with pytest.raises(ConfigError, match="address already in use"):
        await start_http(app, address, "--http")
    await server.stop(1)

    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240 - nothing else runs


async def test_file_that_is_no_socket_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("keep me")

    with pytest.raises(ConfigError, match="not a socket"):
        await start_http(metrics_app("/", lambda _: (b"", "")), UnixAddress(str(path)), "--http")

    assert path.read_text() == "keep me"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (TcpAddress("192.0.2.1", 1), "cannot assign requested address"),
        (TcpAddress("no-such-host.invalid", 1), "cannot look up the host"),
        (UnixAddress("/nowhere/x.sock"), "no such file or directory"),
    ],
)
async def test_address_that_cannot_be_bound_is_one_line(
    address: TcpAddress | UnixAddress, reason: str
) -> None:
    with pytest.raises(ConfigError, match=f"^--http: .*{reason}[^\n]*$"):
        await start_http(metrics_app("/", lambda _: (b"", "")), address, "--http")


async def exchange(server: HttpServer, data: bytes) -> bytes:
    """Send `data` on a connection of its own and return all that comes until its end."""
    assert isinstance(server.address, TcpAddress)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.address.port)
    reply = b""
    writer.write(data)
    with contextlib.suppress(ConnectionError):
        while b"\r\n\r\n" not in reply:
            chunk = await asyncio.wait_for(reader.read(65_536), 20)
            if not chunk:
                break
            reply += chunk
    writer.close()
    return reply
