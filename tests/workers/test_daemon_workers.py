"""The whole daemon with two workers, called by grpcio clients."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ratelimitd._proto.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from ratelimitd.telemetry.mapped import read_mapped
from ratelimitd.telemetry.snapshot import from_bytes
from tests.support.children import wait_for
from tests.support.daemon import Daemon, running_daemon
from tests.support.servers import Server, make_server, valkey9

__all__ = ["make_server", "valkey9"]

POLICY = """\
domain: api
descriptors:
  - key: path
    value: /login
    rate_limit: {unit: year, requests_per_unit: 50}
  - key: open
    rate_limit: {unit: year, requests_per_unit: 1000000}
"""
HIT = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
FLAGS = ("--workers", "2", "--data-plane", "h2")
TIMEOUT_S = 20
MAX_RSS_BYTES = 60 * 1024 * 1024
# Of what two workers do.
LEAST_SHARE = 0.45
CALLS_EACH = 25


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    directory = tmp_path / "policy"
    directory.mkdir()
    (directory / "api.yaml").write_text(POLICY)
    return directory


@pytest.fixture
def store_server(valkey9: Server) -> Server:
    valkey9.execute("FLUSHALL")
    return valkey9


@pytest.fixture
def daemon(policy: Path, store_server: Server, tmp_path: Path) -> Iterator[Daemon]:
    data_dir = ("--data-dir", str(tmp_path / "data"))
    with running_daemon(
        policy, store_server.url, tmp_path / "daemon", flags=(*FLAGS, *data_dir)
    ) as daemon:
        yield daemon
    assert daemon.worker_pids() == [], "a worker was left behind"
    assert list((tmp_path / "data").iterdir()) == []


@pytest.fixture
def channels(daemon: Daemon) -> Iterator[list[grpc.Channel]]:
    """Give eight clients with a connection each."""
    options = (
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 500),
    )
    with ExitStack() as stack:
        opened = [
            stack.enter_context(grpc.insecure_channel(daemon.grpc_address, options))
            for _ in range(8)
        ]
        for channel in opened:
            grpc.channel_ready_future(channel).result(TIMEOUT_S)
        yield opened


def hit(channel: grpc.Channel, key: str, value: str) -> RateLimitResponse:
    request = RateLimitRequest(domain="api")
    request.descriptors.add().entries.add(key=key, value=value)
    method: grpc.UnaryUnaryMultiCallable[RateLimitRequest, RateLimitResponse] = channel.unary_unary(
        HIT,
        request_serializer=RateLimitRequest.SerializeToString,
        response_deserializer=RateLimitResponse.FromString,
    )
    return method(request, timeout=TIMEOUT_S)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def metric(daemon: Daemon, start: str) -> dict[str, float]:
    """Return the series whose lines begin with `start`."""
    lines = [line for line in daemon.metrics().splitlines() if line.startswith(start)]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def spread(daemon: Daemon) -> list[float]:
    """Return how many gRPC connections each worker has, as metrics say."""
    found = metric(daemon, 'ratelimitd_worker_connections{listener="grpc"')
    return sorted(found.values())


def test_two_workers_admit_exactly_the_limit(daemon: Daemon, channels: list[grpc.Channel]) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda index: hit(channels[index % 8], "path", "/login"), range(120))
        )

    codes = Counter(answer.overall_code for answer in answers)
    assert codes == {RateLimitResponse.OK: 50, RateLimitResponse.OVER_LIMIT: 70}


def test_load_is_spread_and_metrics_add_up(daemon: Daemon, channels: list[grpc.Channel]) -> None:
    for index in range(80):
        hit(channels[index % 8], "open", "x")
    calls = "ratelimitd_calls_total"
    wait_for(lambda: sum(metric(daemon, calls).values()) == 80, "the sum of all calls")
    wait_for(lambda: spread(daemon) == [4, 4], "four and four")

    # Each worker has its half of the calls: their clients call in turn.
    assert sum(metric(daemon, "ratelimitd_decisions_total").values()) == 80
    assert (
        metric(daemon, "ratelimitd_policy_loads_total")[
            'ratelimitd_policy_loads_total{result="success"}'
        ]
        == 1
    )
    # A page is the same whoever answers, and never less than before.
    seen = [sum(metric(daemon, calls).values()) for _ in range(20)]
    assert seen == sorted(seen)


def test_killed_worker_under_load_costs_its_connections_only(
    daemon: Daemon, channels: list[grpc.Channel], store_server: Server
) -> None:
    # given load on all connections
    wait_for(lambda: spread(daemon) == [4, 4], "four and four")
    stop = threading.Event()

    def load(channel: grpc.Channel) -> tuple[int, list[grpc.RpcError]]:
        answered, failures = 0, []
        while not stop.is_set():
            try:
                hit(channel, "open", "x")
                answered += 1
            except grpc.RpcError as error:
                failures.append(error)
                time.sleep(0.05)
        return answered, failures

    victim = daemon.worker_pids()[0]
    with ThreadPoolExecutor(8) as pool:
        loads = [pool.submit(load, channel) for channel in channels]
        wait_for(lambda: sum(metric(daemon, "ratelimitd_calls_total").values()) > 100, "load")

        # when a worker is killed
        os.kill(victim, signal.SIGKILL)
        wait_for(
            lambda: (
                metric(daemon, "ratelimitd_worker_restarts_total")
                == {"ratelimitd_worker_restarts_total": 1}
            ),
            "its end",
        )
        # then it is replaced, and all connections are even again
        wait_for(lambda: spread(daemon) == [4, 4], "four and four again", timeout_s=30)
        stop.set()
        results = [load.result() for load in loads]

    assert victim not in daemon.worker_pids()
    assert len(daemon.worker_pids()) == 2
    failures = [error for _, errors in results for error in errors]
    assert {error.code() for error in failures} <= {grpc.StatusCode.UNAVAILABLE}
    # Half of the clients were not touched: asking them to move fails no call.
    assert sum(1 for _, errors in results if not errors) >= 4
    # What was answered was counted, and what was lost on the way at most.
    answered = sum(count for count, _ in results)
    counter = metric(daemon, "ratelimitd_decisions_total")
    assert sum(counter.values()) <= answered + len(failures)


def test_calls_of_eight_clients_are_shared_evenly_also_after_a_kill(
    daemon: Daemon, channels: list[grpc.Channel], tmp_path: Path
) -> None:
    wait_for(lambda: spread(daemon) == [4, 4], "four and four")
    assert min(shares_of_calls(channels, tmp_path / "data")) >= LEAST_SHARE

    # when a worker is killed, and its clients come back
    os.kill(daemon.worker_pids()[0], signal.SIGKILL)

    def is_even_again() -> bool:
        for channel in channels:
            with suppress(grpc.RpcError):
                hit(channel, "open", "x")
        return spread(daemon) == [4, 4] and len(daemon.worker_pids()) == 2

    wait_for(is_even_again, "four and four again", timeout_s=30)

    # then the new one has its share
    assert min(shares_of_calls(channels, tmp_path / "data")) >= LEAST_SHARE


def shares_of_calls(channels: list[grpc.Channel], data_dir: Path) -> list[float]:
    """Let all clients make as many calls; return which part of them each worker answered."""
    before = logins_by_worker(data_dir)
    for _ in range(CALLS_EACH):
        for channel in channels:
            hit(channel, "path", "/login")

    def answered() -> list[int]:
        return [calls - before.get(name, 0) for name, calls in logins_by_worker(data_dir).items()]

    # Workers write down what they did once a second.
    total = CALLS_EACH * len(channels)
    wait_for(lambda: sum(answered()) == total, "all calls to be counted")
    return [count / total for count in answered()]


def logins_by_worker(data_dir: Path) -> dict[str, int]:
    """Return how many calls for /login each worker that runs has answered, from its own file."""
    found = {}
    for path in data_dir.glob("*/worker-*.metrics"):
        written = read_mapped(path)
        assert written is not None
        rules = from_bytes(written).telemetry.rules.snapshot()
        found[path.name] = sum(each.hits for each in rules if "/login" in each.name)
    return found


def test_changed_policy_reaches_all_workers(
    daemon: Daemon, channels: list[grpc.Channel], policy: Path
) -> None:
    (policy / "api.yaml").write_text(POLICY.replace("/login", "/logout"))
    os.kill(daemon.child.pid, signal.SIGHUP)

    def matched() -> list[bool]:
        answers = [hit(channel, "path", "/logout") for channel in channels]
        return [answer.statuses[0].HasField("current_limit") for answer in answers]

    wait_for(lambda: all(matched()), "the new limit, in all workers")

    (policy / "api.yaml").write_text("domain: [")

    def pages() -> set[str]:
        return {httpx.get(f"{daemon.http_url}/healthz").text for _ in range(6)}

    wait_for(lambda: all("invalid, serving" in page for page in pages()), "all to tell of errors")
    assert all(matched())


def test_sigterm_finishes_calls_in_flight_and_ends_with_exit_0(
    daemon: Daemon, channels: list[grpc.Channel], store_server: Server
) -> None:
    with ThreadPoolExecutor(16) as pool:
        calls = [pool.submit(hit, channels[index % 8], "open", str(index)) for index in range(400)]
        calls[50].result()
        code = daemon.child.stop()
        failures = [error for call in calls if (error := call.exception()) is not None]

    assert code == 0
    for error in failures:
        assert isinstance(error, grpc.Call)
        assert error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    counters = store_server.execute("KEYS", "*open=*")
    assert isinstance(counters, list)
    assert len(counters) == len(calls) - len(failures), "a call failed and was charged"
    assert "Traceback" not in daemon.child.output()
    assert "were killed" not in daemon.child.output()


def test_health_check_is_answered_by_workers(channels: list[grpc.Channel]) -> None:
    stub = health_pb2_grpc.HealthStub(channels[0])
    for service in ("", "ratelimit"):
        request = health_pb2.HealthCheckRequest(service=service)
        assert stub.Check(request, timeout=TIMEOUT_S).status == 1
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="other"), timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_json_and_grpc_share_their_limits(daemon: Daemon, channels: list[grpc.Channel]) -> None:
    body = {"domain": "api", "descriptors": [{"entries": [{"key": "path", "value": "/login"}]}]}
    for index in range(49):
        hit(channels[index % 8], "path", "/login")

    replies = [httpx.post(f"{daemon.http_url}/json", json=body).status_code for _ in range(3)]

    assert replies == [200, 429, 429]


def test_second_daemon_on_the_port_fails_at_its_start(
    daemon: Daemon, policy: Path, store_server: Server, tmp_path: Path
) -> None:
    flags = (*FLAGS, "--grpc", daemon.grpc_address)
    with (
        pytest.raises(AssertionError, match=r"cannot listen on .*: address already in use"),
        running_daemon(policy, store_server.url, tmp_path / "second", flags=flags),
    ):
        pass
    assert len(daemon.worker_pids()) == 2


def test_workers_end_when_the_daemon_is_killed(
    policy: Path, store_server: Server, tmp_path: Path
) -> None:
    with running_daemon(policy, store_server.url, tmp_path / "daemon", flags=FLAGS) as daemon:
        pids = daemon.worker_pids()
        daemon.child.kill()
        wait_for(lambda: not any(is_alive(pid) for pid in pids), "the workers to end")
    assert len(pids) == 2


def test_workers_share_an_embedded_store_and_unix_sockets(policy: Path, tmp_path: Path) -> None:
    directory = tmp_path / "daemon"
    sock = f"unix:/tmp/rl-workers-{os.getpid()}"
    flags = (*FLAGS, "--grpc", sock)
    with running_daemon(policy, "embedded", directory, flags=flags):
        codes = Counter[int]()
        for _ in range(4):
            with grpc.insecure_channel(sock) as channel:
                codes.update(hit(channel, "path", "/login").overall_code for _ in range(15))

    assert codes == {RateLimitResponse.OK: 50, RateLimitResponse.OVER_LIMIT: 10}
    assert not Path(sock.removeprefix("unix:")).exists()


def test_worker_is_small_with_a_thousand_rules(
    policy: Path, store_server: Server, tmp_path: Path
) -> None:
    rule = "  - {{key: path, value: /{}, rate_limit: {{unit: minute, requests_per_unit: 9}}}}\n"
    rules = "".join(rule.format(number) for number in range(1000))
    (policy / "api.yaml").write_text(f"domain: api\ndescriptors:\n{rules}")

    with running_daemon(policy, store_server.url, tmp_path / "daemon", flags=FLAGS) as daemon:
        with grpc.insecure_channel(daemon.grpc_address) as channel:
            for number in range(200):
                hit(channel, "path", f"/{number}")
        sizes = []
        for pid in daemon.worker_pids():
            status = Path(f"/proc/{pid}/status").read_text()
            (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
            sizes.append(int(line.split()[1]) * 1024)
            mapped = Path(f"/proc/{pid}/maps").read_text()
            assert "/uvloop/" in mapped
            assert not [name for name in ("/grpc/", "/watchfiles/") if name in mapped]

    assert len(sizes) == 2
    assert max(sizes) <= MAX_RSS_BYTES
