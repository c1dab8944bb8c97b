"""Whole load processes against a real gRPC server in this process."""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import pytest

from bench.clients import running_clients, split
from bench.load.spec import CHECK_PATH, Draw, LoadResult, LoadSpec
from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2

OK = rls_pb2.RateLimitResponse(overall_code=rls_pb2.RateLimitResponse.OK)
OVER = rls_pb2.RateLimitResponse(overall_code=rls_pb2.RateLimitResponse.OVER_LIMIT)
SPEC = LoadSpec(
    address="", seconds=0.4, seed=1, connections=2, in_flight=8, keys=10, draw=Draw.UNIFORM
)


class Service(grpc.GenericRpcHandler):
    """Refuses odd users, fails for user 4, and remembers who asked with which header."""

    def __init__(self) -> None:
        self.traces: list[str] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()

    def service(
        self, details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        if details.method != CHECK_PATH:
            return None
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        metadata = dict(context.invocation_metadata())
        self.traces += [str(metadata["traceparent"])] if "traceparent" in metadata else []
        user = int(rls_pb2.RateLimitRequest.FromString(body).descriptors[0].entries[0].value)
        with self._lock:
            self._at_once -= 1
        if user == 4:
            context.abort(grpc.StatusCode.UNAVAILABLE, "user 4 is away")
        return (OVER if user % 2 else OK).SerializeToString()


@contextlib.contextmanager
def serving() -> Iterator[tuple[Service, LoadSpec, grpc.Server]]:
    service = Service()
    server = grpc.server(ThreadPoolExecutor(4), handlers=[service])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield service, replace(SPEC, address=f"127.0.0.1:{port}"), server
    server.stop(0).wait()


def run(spec: LoadSpec, processes: int = 1) -> LoadResult:
    with running_clients(split(spec, processes), None) as clients:
        return clients.run()


def test_closed_loop_counts_answers_refusals_and_errors() -> None:
    with serving() as (service, spec, _):
        result = run(spec)
    failed = result.errors["status 14"]
    total = result.answered + failed
    assert set(result.errors) == {"status 14"}
    assert result.first_error == "user 4 is away"
    # Every tenth call is of user 4 and five of ten are refused, but for the last round.
    assert failed == pytest.approx(total / 10, abs=2)
    assert result.over_limit == pytest.approx(total / 2, abs=6)
    assert result.latency.total() == result.answered
    assert service.most_at_once <= spec.in_flight


def test_open_loop_sends_what_the_schedule_says() -> None:
    with serving() as (_, spec, _):
        result = run(replace(spec, rate=200.0, seconds=1.0), processes=2)
    total = result.answered + sum(result.errors.values())
    assert total == pytest.approx(200, abs=70)
    assert result.lag.total() == total


def test_every_traced_call_has_a_trace_of_its_own() -> None:
    with serving() as (service, spec, _):
        result = run(replace(spec, traced=True))
    assert result.answered
    assert len(service.traces) == len(set(service.traces))
    assert len(service.traces) == result.answered + result.errors["status 14"]


def test_spread_calls_go_over_all_connections() -> None:
    with serving() as (_, spec, _):
        result = run(replace(spec, connections=40, spreads=True, weights=(1, 5)))
    assert result.answered > 40


def test_load_ends_at_its_count_of_calls() -> None:
    with serving() as (_, spec, _):
        result = run(replace(spec, max_calls=50, seconds=5.0))
    assert 50 <= result.answered + sum(result.errors.values()) < 50 + spec.in_flight


def test_load_goes_to_loopback_only(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="did not connect"):
        run(replace(SPEC, address="192.0.2.1:80"))
    assert "loopback only" in capfd.readouterr().err


def test_server_that_goes_away_costs_calls_and_not_the_load() -> None:
    with serving() as (_, spec, server):
        specs = [replace(spec, seconds=1.0)]
        with running_clients(specs, None) as clients:
            stopper = threading.Timer(0.3, lambda: server.stop(0))
            stopper.start()
            result = clients.run()
            stopper.join()
    assert result.answered
    assert result.seconds < 8
    assert sum(result.errors.values())
