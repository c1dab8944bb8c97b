"""What HTTP/2 alone costs for a unary call, without sockets: our connection, and the h2 library.

`python -m bench.parsers`. Reads of a few calls each, as a gateway sends them, are parsed and
answered with a static message; with `traced` every call has a traceparent of its own. The best of
some rounds, in microseconds of CPU for a call.
"""

import time
from collections.abc import Callable, Iterator
from itertools import cycle

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded

from bench.load.blocks import Blocks, request_headers
from bench.load.bodies import make_bodies
from bench.load.peer import Peer
from bench.load.spec import CHECK_PATH, LoadSpec
from ratelimitd.transport.h2.bounds import Bounds
from ratelimitd.transport.h2.connection import Connection
from ratelimitd.transport.h2.profile import Profile

ROUNDS = 7
READS = 500
CALLS_PER_READ = 4
ANSWER = b"\x08\x01\x12\x0f\x08\x01\x12\x07\x08\x80\x94\xeb\xdc\x03\x10\x03\x18\x05"

# Takes what was read, returns what is to be written.
Step = Callable[[bytes], bytes]


def main() -> None:
    """Measure both, and print."""
    for traced in (False, True):
        name = "traced" if traced else "plain"
        ours = min(_round(_ours(), traced=traced) for _ in range(ROUNDS))
        library = min(_round(_library(), traced=traced) for _ in range(ROUNDS))
        print(f"{name:7} ours {ours:6.1f} us, h2 {library:6.1f} us, {library / ours:.1f}x")


def _round(step: Step, *, traced: bool) -> float:
    """Return the CPU of one round's calls, in microseconds for each; the client's is left out."""
    peer = Peer()
    headers = request_headers(CHECK_PATH, is_tls=False, is_traced=traced)
    blocks = Blocks(headers, table_bytes=4096, seed="parsers")
    bodies = _bodies()
    peer.receive(step(peer.take_output()))
    peer.receive(step(peer.take_output()))
    used_ns = 0
    for _ in range(READS):
        peer.start(blocks, bodies, range(CALLS_PER_READ))
        data = peer.take_output()
        start_ns = time.process_time_ns()
        out = step(data)
        used_ns += time.process_time_ns() - start_ns
        assert len(peer.receive(out)) == CALLS_PER_READ, "every call is answered"
    return used_ns / (READS * CALLS_PER_READ) / 1000


def _bodies() -> Iterator[bytes]:
    return cycle(make_bodies(LoadSpec(address="", seconds=1, seed=1, keys=1_000)))


def _ours() -> Step:
    connection = Connection(Profile({CHECK_PATH.encode(): object()}, Bounds()))

    def step(data: bytes) -> bytes:
        calls = connection.receive(data)
        connection.answer_all([(stream_id, ANSWER) for stream_id, _, _ in calls])
        return connection.take_output()

    return step


def _library() -> Step:
    connection = H2Connection(H2Configuration(client_side=False, header_encoding=None))
    connection.initiate_connection()
    head = [(b":status", b"200"), (b"content-type", b"application/grpc")]
    trailers = [(b"grpc-status", b"0")]
    framed = b"\0" + len(ANSWER).to_bytes(4, "big") + ANSWER

    def step(data: bytes) -> bytes:
        ended: list[int] = []
        for event in connection.receive_data(data):
            if isinstance(event, DataReceived):
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamEnded):
                ended.append(event.stream_id)
        for stream_id in ended:
            connection.send_headers(stream_id, head)
            connection.send_data(stream_id, framed)
            connection.send_headers(stream_id, trailers, end_stream=True)
        return connection.data_to_send()

    return step


if __name__ == "__main__":
    main()
