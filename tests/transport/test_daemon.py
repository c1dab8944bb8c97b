"""The whole daemon as a child process: starts that fail, and a life from start to drain."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ratelimitd._proto.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from tests.support.children import free_ports, wait_for
from tests.support.daemon import Daemon, clean_environment, daemon_command, running_daemon
from tests.support.servers import MakeServer, Server, make_server, valkey9

__all__ = ["make_server", "valkey9"]

POLICY = """\
domain: api
descriptors:
  - key: path
    value: /login
    rate_limit: {unit: year, requests_per_unit: 5}
  - key: open
    rate_limit: {unit: year, requests_per_unit: 5, on_store_failure: allow}
"""
HIT = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
TIMEOUT_S = 20


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    directory = tmp_path / "policy"
    directory.mkdir()
    (directory / "api.yaml").write_text(POLICY)
    return directory


@pytest.fixture
def store_server(valkey9: Server) -> Server:
    """Give one server, emptied; the store's own tests try every kind."""
    valkey9.execute("FLUSHALL")
    return valkey9


@pytest.fixture
def daemon(policy: Path, store_server: Server, tmp_path: Path) -> Iterator[Daemon]:
    with running_daemon(policy, store_server.url, tmp_path / "daemon") as daemon:
        yield daemon


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the daemon's command line until it ends."""
    return subprocess.run(
        daemon_command(*arguments),
        env=clean_environment(env),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def serve(policy: Path, *arguments: str, store: str = "redis://127.0.0.1:1") -> list[str]:
    """Return the arguments of a daemon whose ports are the system's choice."""
    ports = ("--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    return ["serve", "--policy", str(policy), "--store", store, *ports, *arguments]


def hit(
    channel: grpc.Channel, *descriptors: tuple[str, str], domain: str = "api"
) -> RateLimitResponse:
    """Spend one hit for each of `descriptors`."""
    request = RateLimitRequest(domain=domain)
    for key, value in descriptors:
        request.descriptors.add().entries.add(key=key, value=value)
    method: grpc.UnaryUnaryMultiCallable[RateLimitRequest, RateLimitResponse] = channel.unary_unary(
        HIT,
        request_serializer=RateLimitRequest.SerializeToString,
        response_deserializer=RateLimitResponse.FromString,
    )
    return method(request, timeout=TIMEOUT_S)


def grpc_health(daemon: Daemon, service: str = "") -> int:
    """Return the status that a gRPC health check of `service` gets."""
    with grpc.insecure_channel(daemon.grpc_address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=service)
        return int(stub.Check(request, timeout=TIMEOUT_S).status)


def complaints(ended: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what the command itself said, without the log's lines."""
    assert "Traceback" not in ended.stderr
    return [line for line in ended.stderr.splitlines() if line.startswith("ratelimitd: ")]


@pytest.mark.usefixtures("data_plane")
@pytest.mark.parametrize("flag", ["--grpc", "--http", "--admin", "--metrics"])
def test_port_in_use_is_exit_1_and_one_line(policy: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"

        ended = run(*serve(policy, flag, address))

    assert ended.returncode == 1
    assert complaints(ended) == [
        f"ratelimitd: {flag}: cannot listen on {address}: address already in use"
    ]


def test_policy_with_errors_is_exit_1_with_all_of_them(policy: Path) -> None:
    (policy / "bad.yaml").write_text("domain: b\ndescriptors:\n  - value: x\n")
    (policy / "worse.yaml").write_text("domain: [")

    ended = run(*serve(policy))

    lines = complaints(ended)
    assert ended.returncode == 1
    assert {line.split(":")[1] for line in lines} == {" bad.yaml", " worse.yaml"}


def test_missing_policy_directory_is_exit_1(tmp_path: Path) -> None:
    ended = run(*serve(tmp_path / "nowhere"))

    assert ended.returncode == 1
    (line,) = complaints(ended)
    assert "does not exist; name a directory of policy files" in line


def test_data_directory_that_cannot_be_made_is_exit_1(policy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    ended = run(*serve(policy, "--data-dir", str(tmp_path / "file" / "data"), store="embedded"))

    assert ended.returncode == 1
    (line,) = complaints(ended)
    assert str(tmp_path / "file") in line


@pytest.mark.usefixtures("data_plane")
def test_tls_file_that_is_missing_is_exit_1(policy: Path) -> None:
    ended = run(*serve(policy, "--grpc-tls-cert", "/no/cert", "--grpc-tls-key", "/no/key"))

    assert ended.returncode == 1
    assert complaints(ended) == ["ratelimitd: TLS: cannot read /no/cert: No such file or directory"]


def test_daemon_answers_by_the_server_that_was_chosen(data_plane: str, daemon: Daemon) -> None:
    with grpc.insecure_channel(daemon.grpc_address) as channel:
        hit(channel, ("path", "/login"))

        series = "\nratelimitd_h2_connections_accepted_total "
        if data_plane == "h2":
            wait_for(lambda: f"{series}1.0" in daemon.metrics(), "the connection to be counted")
        else:
            assert series not in daemon.metrics()


@pytest.mark.usefixtures("data_plane")
def test_requests_are_limited_over_grpc_and_http_together(daemon: Daemon) -> None:
    body = {"domain": "api", "descriptors": [{"entries": [{"key": "path", "value": "/login"}]}]}

    with grpc.insecure_channel(daemon.grpc_address) as channel:
        codes = [hit(channel, ("path", "/login")).overall_code for _ in range(4)]
    replies = [httpx.post(f"{daemon.http_url}/json", json=body).status_code for _ in range(2)]

    assert codes == [RateLimitResponse.OK] * 4
    assert replies == [200, 429]


@pytest.mark.usefixtures("data_plane")
def test_ctl_hits_peeks_and_explains(daemon: Daemon) -> None:
    ask = ("--domain", "api", "--descriptor", "path=/login")

    peeked = ctl("peek", *ask, "--json", "--address", daemon.admin_address)
    codes = [ctl("hit", *ask, "--address", daemon.grpc_address).returncode for _ in range(2)]
    spent = ctl("hit", *ask, "--hits", "4", "--address", daemon.grpc_address)
    over = ctl("peek", *ask, "--address", daemon.admin_address)
    explained = ctl("explain", *ask, "--address", daemon.admin_address)
    wrong_port = ctl("peek", *ask, "--address", daemon.grpc_address)

    assert json.loads(peeked.stdout)["statuses"][0]["limitRemaining"] == 4
    assert codes == [0, 0]
    assert (spent.returncode, over.returncode) == (3, 3)
    assert "OVER_LIMIT" in over.stdout
    assert "api.path_/login" in explained.stdout
    assert wrong_port.returncode == 1
    assert wrong_port.stderr == (
        f"ratelimitctl: {daemon.grpc_address} does not know this call: hit asks the gRPC "
        "port (8081), the other commands the admin port (8082)\n"
    )


@pytest.mark.usefixtures("data_plane")
def test_changed_policy_is_served_and_a_bad_one_is_not(daemon: Daemon, policy: Path) -> None:
    before = httpx.get(f"{daemon.http_url}/policy").json()

    (policy / "api.yaml").write_text("domain: api\ndescriptors:\n  - value: x\n")
    wait_for(lambda: "invalid, serving" in health_page(daemon), "the bad policy to be noticed")

    bad = httpx.get(f"{daemon.http_url}/policy").json()
    assert bad["revision"] == before["revision"]
    assert bad["load_errors"][0].startswith("api.yaml:3:")
    assert "the last good one stays in force" in daemon.child.output()
    assert grpc_health(daemon) == health_pb2.HealthCheckResponse.SERVING

    (policy / "api.yaml").write_text(POLICY.replace("/login", "/logout"))
    wait_for(lambda: "invalid" not in health_page(daemon), "the good policy to be served")

    good = httpx.get(f"{daemon.http_url}/policy").json()
    assert good["revision"] != before["revision"]
    assert "load_errors" not in good
    assert "/logout" in httpx.get(f"{daemon.http_url}/rlconfig").text


def test_sighup_loads_the_policy_again(daemon: Daemon, policy: Path) -> None:
    (policy / "api.yaml").write_text(POLICY.replace("/login", "/logout"))
    os.kill(daemon.child.pid, signal.SIGHUP)

    wait_for(lambda: "/logout" in httpx.get(f"{daemon.http_url}/rlconfig").text, "the new policy")


@pytest.mark.usefixtures("data_plane")
def test_start_without_policy_serves_errors_until_it_is_right(
    policy: Path, store_server: Server, tmp_path: Path
) -> None:
    (policy / "api.yaml").write_text("domain: [")
    env = {"FORCE_START_WITHOUT_INITIAL_CONFIG": "true"}
    with (
        running_daemon(policy, store_server.url, tmp_path / "daemon", env=env) as daemon,
        grpc.insecure_channel(daemon.grpc_address) as channel,
    ):
        assert "policy: invalid, none loaded" in health_page(daemon)
        assert "the policy has errors, none is in force" in daemon.child.output()
        with pytest.raises(grpc.RpcError) as caught:
            hit(channel, ("path", "/login"))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "no policy is loaded" in (caught.value.details() or "")

        (policy / "api.yaml").write_text(POLICY)
        wait_for(lambda: "policy: ok" in health_page(daemon), "the policy to be right")

        assert hit(channel, ("path", "/login")).overall_code == RateLimitResponse.OK


@pytest.mark.usefixtures("data_plane")
def test_dead_store_leaves_the_daemon_serving_by_its_failure_policies(
    policy: Path, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    store = f"redis://:hunter2@127.0.0.1:{port}"
    with (
        running_daemon(policy, store, tmp_path / "daemon") as daemon,
        grpc.insecure_channel(daemon.grpc_address) as channel,
    ):
        assert grpc_health(daemon) == health_pb2.HealthCheckResponse.SERVING
        assert "store: unreachable" in health_page(daemon)
        with pytest.raises(grpc.RpcError) as caught:
            hit(channel, ("path", "/login"))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert hit(channel, ("open", "x")).overall_code == RateLimitResponse.OK
        assert hit(channel, ("other", "x")).overall_code == RateLimitResponse.OK

    output = daemon.child.output()
    assert "the store does not answer" in output
    assert "hunter2" not in output
    # One reason is one warning, whoever finds it.
    (warning,) = (line for line in output.splitlines() if " warning " in line)
    assert "calls are not sent to the store any more" in warning


@pytest.mark.usefixtures("data_plane")
def test_dead_store_is_unhealthy_if_asked_for(
    policy: Path, make_server: MakeServer, tmp_path: Path
) -> None:
    store = make_server("valkey9")
    env = {"REDIS_HEALTH_CHECK_ACTIVE_CONNECTION": "true"}
    with running_daemon(policy, store.url, tmp_path / "daemon", env=env) as daemon:
        assert grpc_health(daemon, "ratelimit") == health_pb2.HealthCheckResponse.SERVING

        store.kill()
        wait_for(lambda: not daemon.is_healthy(), "health to notice")
        assert grpc_health(daemon, "ratelimit") == health_pb2.HealthCheckResponse.NOT_SERVING

        store.start()
        wait_for(daemon.is_healthy, "health to recover")
        assert grpc_health(daemon, "ratelimit") == health_pb2.HealthCheckResponse.SERVING


def test_wrong_store_password_is_a_line_and_the_daemon_stays(
    policy: Path, make_server: MakeServer, tmp_path: Path
) -> None:
    store = make_server("valkey9", password="right-password")
    url = store.url.replace("unix://", "unix://:wrong-password@")
    with running_daemon(policy, url, tmp_path / "daemon") as daemon:
        assert "store: unreachable" in health_page(daemon)

    lines = [line for line in daemon.child.output().splitlines() if "store does not answer" in line]
    assert len(lines) == 1
    assert "password" in lines[0]
    assert "wrong-password" not in daemon.child.output()


@pytest.mark.usefixtures("data_plane")
def test_sigterm_finishes_calls_in_flight_and_ends_with_exit_0(
    daemon: Daemon, store_server: Server
) -> None:
    with (
        grpc.insecure_channel(daemon.grpc_address) as channel,
        ThreadPoolExecutor(8) as pool,
    ):
        calls = [pool.submit(hit, channel, ("open", str(index))) for index in range(300)]
        calls[0].result()
        code = daemon.child.stop()
        failures = [error for call in calls if (error := call.exception()) is not None]

    assert code == 0
    # What was not read yet is refused, unread: UNAVAILABLE, or CANCELLED on its way to us.
    refusals = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    for error in failures:
        assert isinstance(error, grpc.Call)
        assert error.code() in refusals
    counters = store_server.execute("KEYS", "*open=*")
    assert isinstance(counters, list)
    assert len(counters) == len(calls) - len(failures), "a call failed and was charged"
    assert "Traceback" not in daemon.child.output()
    assert "stopped" in daemon.child.output()


@pytest.mark.usefixtures("data_plane")
def test_unix_sockets_serve_all_three_ports(
    policy: Path, store_server: Server, tmp_path: Path
) -> None:
    short = Path("/tmp") / f"rl-{os.getpid()}"
    short.mkdir(mode=0o700)
    flags = []
    for name in ("grpc", "http", "admin"):
        flags += [f"--{name}", f"unix:{short}/{name}"]
    ask = ("--domain", "api", "--descriptor", "path=/login")
    child = subprocess.Popen(
        daemon_command(*("serve", "--policy", str(policy), "--store", store_server.url), *flags),
        env=clean_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for((short / "grpc").exists, "the socket")
        wait_for(lambda: ctl("hit", *ask, "--address", f"unix:{short}/grpc").returncode == 0, "hit")
        assert ctl("peek", *ask, "--address", f"unix:{short}/admin").returncode == 0
        with httpx.Client(transport=httpx.HTTPTransport(uds=f"{short}/http")) as client:
            assert client.get("http://x/healthcheck").text == "OK"
    finally:
        child.terminate()
        _, errors = child.communicate(timeout=20)
    assert child.returncode == 0, errors
    assert list(short.iterdir()) == []
    short.rmdir()


def ctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ratelimitctl until it ends."""
    command: Sequence[str] = [sys.executable, "-m", "ratelimitd.ctl", *arguments]
    return subprocess.run(
        command, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
    )


def health_page(daemon: Daemon) -> str:
    """Return the text of /healthz."""
    return httpx.get(f"{daemon.http_url}/healthz").text
