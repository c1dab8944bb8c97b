"""Socket files come and go with their servers, and never with another's."""

from pathlib import Path

import httpx

from ratelimitd.transport.http import metrics_app
from ratelimitd.transport.http_server import start_http
from ratelimitd.transport.listen import UnixAddress


async def test_stopping_server_leaves_the_socket_of_its_successor(tmp_path: Path) -> None:
    # given
    address = UnixAddress(str(tmp_path / "http.sock"))
    app = metrics_app("/m", lambda _: (b"metric 1\n", "text/plain"))
    old = await start_http(app, address, "--http")
    # when
    Path(address.path).unlink()  # noqa: ASYNC240 - nothing else runs
    new = await start_http(app, address, "--http")
    await old.stop(1)
    # then
    transport = httpx.AsyncHTTPTransport(uds=address.path)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        assert (await client.get("/m")).text == "metric 1\n"
    await new.stop(1)
