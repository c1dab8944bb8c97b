"""Record what gRPC's libraries send: `.venv/bin/python -m tests.transport.h2.capture`.

Writes data/LIBRARY-VERSION.bin anew, the bytes of one connection to a server that echoes. Each is
CALLS calls with the same message: some with metadata of text or bytes, the last ones at once.
"""

import asyncio
import json
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

import grpc

from ratelimitd.transport.h2.connection import Call as Received
from ratelimitd.transport.h2.link import Link
from ratelimitd.transport.h2.server import Server
from ratelimitd.transport.listen import TcpAddress
from ratelimitd.transport.sockets import bind, bound_address
from tests.support.grpc_client import METHOD, rate_limit_request
from tests.transport.clients.by_grpcio import ask_by_threads
from tests.transport.clients.plan import Call, Client, to_ok
from tests.transport.clients.programs import SOURCES, build_go, install_js

DATA = Path(__file__).parent / "data"
MESSAGE = rate_limit_request("api", "path=/login,remote_address=10.0.0.1").SerializeToString()
PLAN = (
    *(Call(f"plain {index}", METHOD, MESSAGE) for index in range(20)),
    *(Call(f"text {index}", METHOD, MESSAGE, text_bytes=7 * index + 1) for index in range(10)),
    *(Call(f"bytes {index}", METHOD, MESSAGE, binary_bytes=5 * index + 1) for index in range(10)),
    Call("at once", METHOD, MESSAGE, repeats=20),
)
CALLS = sum(call.repeats for call in PLAN)


async def record(client: Client) -> bytes:
    """Return what the client sends on its only connection."""
    sent: list[bytearray] = []
    server = Server({METHOD.encode(): "echo"}, _echo)
    listener = bind(TcpAddress("127.0.0.1", 0), "--grpc")
    address = bound_address(TcpAddress("127.0.0.1", 0), listener)
    assert isinstance(address, TcpAddress)
    await server.listen(listener)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent.append(bytearray())
        to_reader, to_writer = await asyncio.open_connection(address.host, address.port)
        await asyncio.gather(_pump(reader, to_writer, sent[-1]), _pump(to_reader, writer, None))

    proxy = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    seen = await asyncio.to_thread(client, f"127.0.0.1:{port}", PLAN)
    proxy.close()
    await server.stop(1)
    assert sum(seen.values(), Counter()) == {to_ok(MESSAGE): CALLS}
    (only,) = sent
    return bytes(only)


def main() -> None:
    """Write all captures."""
    with tempfile.TemporaryDirectory() as directory:
        grpc_go = re.search(
            r"google.golang.org/grpc v([\d.]+)", (SOURCES / "go/go.mod").read_text()
        )
        assert grpc_go is not None
        package = json.loads((SOURCES / "js/package.json").read_text())
        clients = {
            f"grpc-go-{grpc_go[1]}": build_go(Path(directory)),
            f"grpc-js-{package['dependencies']['@grpc/grpc-js']}": install_js(
                Path(directory) / "js"
            ),
            f"grpc-core-{grpc.__version__}": ask_by_threads,
        }
        for name, client in clients.items():
            captured = asyncio.run(record(client))
            (DATA / f"{name}.bin").write_bytes(captured)
            sys.stdout.write(f"{name}.bin: {len(captured)} bytes\n")


def _echo(link: Link, calls: list[Received]) -> None:
    link.answer_all([(stream_id, body) for stream_id, _, body in calls])


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray | None
) -> None:
    while data := await reader.read(65536):
        if kept is not None:
            kept += data
        writer.write(data)
        await writer.drain()
    writer.close()


if __name__ == "__main__":
    main()
