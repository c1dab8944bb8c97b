"""The whole daemon, asked in raw frames, for what no library's client sends in one write."""

import socket
from pathlib import Path

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, TrailersReceived

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from tests.services.conftest import message_of
from tests.support.daemon import Daemon, running_daemon
from tests.support.servers import Server
from tests.transport.h2 import peer

POLICY = """
domain: api
descriptors:
  - {key: a, rate_limit: {unit: year, requests_per_unit: 9}}
"""
PATH = b"/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
TIMEOUT_S = 20


def ask_in_one_write(daemon: Daemon, timeouts: list[bytes | None]) -> list[peer.Answer]:
    """Send a call for each grpc-timeout, all in one write, and return the answers."""
    client = H2Connection(H2Configuration(header_encoding=None))
    client.initiate_connection()
    body = peer.message(message_of("a=1").SerializeToString())
    answers: dict[int, peer.Answer] = {}
    for timeout in timeouts:
        stream_id = client.get_next_available_stream_id()
        client.send_headers(stream_id, peer.changed(path=PATH, grpc_timeout=timeout))
        client.send_data(stream_id, body, end_stream=True)
        answers[stream_id] = peer.Answer()
    with socket.create_connection(("127.0.0.1", daemon.grpc_port), TIMEOUT_S) as connection:
        connection.sendall(client.data_to_send())
        while not all(answer.is_ended for answer in answers.values()):
            received = connection.recv(65_536)
            assert received, "the daemon answers every call before it closes"
            for event in client.receive_data(received):
                match event:
                    case ResponseReceived():
                        answers[event.stream_id].headers = dict(event.headers)
                    case TrailersReceived():
                        answers[event.stream_id].trailers = dict(event.headers)
                    case DataReceived():
                        answers[event.stream_id].body += event.data
                    case StreamEnded():
                        answers[event.stream_id].is_ended = True
    return list(answers.values())


def test_calls_that_have_hardly_any_time_leave_those_beside_them_alone(
    valkey9: Server, tmp_path: Path
) -> None:
    # given
    valkey9.execute("FLUSHALL")
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "api.yaml").write_text(POLICY)
    with running_daemon(tmp_path / "policy", valkey9.url, tmp_path / "daemon") as daemon:
        ask_in_one_write(daemon, [None])
        # when two of them have less than a millisecond, less the time of the way back
        first, *hasty, last = ask_in_one_write(daemon, [None, b"2300u", b"2300u", None])
    # then
    for answer in (first, last):
        assert answer.status == b"0"
        response = rls_pb2.RateLimitResponse.FromString(answer.body[5:])
        assert response.overall_code == rls_pb2.RateLimitResponse.OK
    assert [(answer.status, answer.message) for answer in hasty] == [
        (b"14", b"store queue: the deadline has passed")
    ] * 2
    assert "Traceback" not in daemon.child.output()
