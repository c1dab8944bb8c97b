"""A real Envoy with tracing asks two workers under load, and everything that may happen happens.

A policy reload, both workers killed, the store killed and started again: no limit admits more than
itself, errors have one of two reasons, and afterwards all is well. The store keeps its data, each
write before its reply: what a restart may lose otherwise is what it had not written, so a limit
could admit that much again.
"""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from threading import Event

import httpx
import pytest

from tests.support.children import wait_for
from tests.support.proxied import Proxied, proxied, write_policy
from tests.support.servers import Server, start_server

LOADERS = 8
LOAD_S = 30.0
# So that all loaders together make some hundred requests a second.
PAUSE_S = 0.02
MOST_REQUESTS_EACH = 3_000
PATIENCE_S = 30.0
# Requests that pass between two incidents.
BETWEEN = 300

EARLY, LATE, RAISED_FROM, RAISED_TO, EACH_SECOND = 100, 600, 80, 200, 10
OK, LIMITED, FAILED = 200, 429, 503
PATHS = ("/early", "/second", "/late", "/raised", "/second", "/open")
FLAGS = ("--workers", "2", "--data-plane", "h2")

# A new traceparent with every request, also in the call to the daemon; nobody collects the spans.
TRACING = """stat_prefix: ingress
                tracing:
                  provider:
                    name: envoy.tracers.opentelemetry
                    typed_config:
                      "@type": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig
                      grpc_service: {envoy_grpc: {cluster_name: collector}, timeout: 0.25s}
                      service_name: storm
"""
COLLECTOR = """  clusters:
    - name: collector
      type: STATIC
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http2_protocol_options: {}}
      load_assignment:
        cluster_name: collector
        endpoints:
          - lb_endpoints:
              - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}
"""
EDITS = {"stat_prefix: ingress\n": TRACING, "  clusters:\n": COLLECTOR}


def policy_text(raised: int) -> str:
    rule = "  - {{key: path, value: {}, rate_limit: {{unit: {}, requests_per_unit: {}}}}}\n"
    limits = [
        ("/early", "year", EARLY),
        ("/late", "year", LATE),
        ("/raised", "year", raised),
        ("/second", "second", EACH_SECOND),
        ("/fresh", "year", 5),
        ("/open", "year", 1_000_000),
    ]
    return "domain: api\ndescriptors:\n" + "".join(rule.format(*limit) for limit in limits)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, and when it was sent and answered."""

    path: str
    code: int
    sent_s: float
    answered_s: float


@dataclass
class Load:
    """Clients that ask until they are told to stop."""

    url: str
    is_over: Event = field(default_factory=Event)
    asked: list[Asked] = field(default_factory=list)
    running: list[Future[None]] = field(default_factory=list)

    def ask(self, client: httpx.Client, path: str) -> int:
        sent_s = time.time()
        code = client.get(path).status_code
        self.asked.append(Asked(path, code, sent_s, time.time()))
        return code

    def run_one(self, first: int) -> None:
        paths = cycle(PATHS[first % len(PATHS) :] + PATHS[: first % len(PATHS)])
        with httpx.Client(base_url=self.url, timeout=20) as client:
            for _ in range(MOST_REQUESTS_EACH):
                self.ask(client, next(paths))
                if self.is_over.wait(PAUSE_S):
                    return

    def codes(self, path: str = "") -> Counter[int]:
        return Counter(each.code for each in self.asked.copy() if path in {"", each.path})

    def wait_for_more(self, count: int = BETWEEN) -> None:
        """Wait for answers that came after now; a loader that failed fails the test."""
        wanted = len(self.asked) + count
        wait_for(lambda: self.is_failing() or len(self.asked) >= wanted, "load", PATIENCE_S)

    def is_failing(self) -> bool:
        for each in self.running:
            if each.done():
                each.result()
        return False


@contextmanager
def loaded(url: str) -> Iterator[Load]:
    """Ask from LOADERS clients at once until the block ends."""
    load = Load(url)
    with ThreadPoolExecutor(LOADERS) as pool:
        load.running += [pool.submit(load.run_one, first) for first in range(LOADERS)]
        try:
            yield load
        finally:
            load.is_over.set()
    assert not load.is_failing()


@pytest.fixture
def lasting(tmp_path: Path) -> Iterator[Server]:
    """Give a store that has written down what it answers."""
    options = ("--appendonly", "yes", "--appendfsync", "always")
    server = start_server("valkey9", tmp_path / "store", options=options)
    yield server
    server.stop()


@pytest.mark.timeout(240)
def test_storm_admits_no_more_than_the_limits(lasting: Server, tmp_path: Path) -> None:
    policy = write_policy(tmp_path / "policy", policy_text(RAISED_FROM))
    flags = (*FLAGS, "--data-dir", str(tmp_path / "data"))
    config = "failure-mode-deny.yaml"
    with proxied(config, policy, lasting.url, tmp_path, flags=flags, edits=EDITS) as run:
        with loaded(run.envoy.url) as load:
            end_s = time.monotonic() + LOAD_S
            load.wait_for_more()
            reload_policy(run, load, policy)
            kill_workers(run, load)
            restart_store(run, load, lasting)
            wait_for(lambda: load.is_failing() or time.monotonic() > end_s, "the end", LOAD_S)
        assert_limits_held(run, load)
        assert_all_is_well(run, load)


def reload_policy(run: Proxied, load: Load, policy: Path) -> None:
    """Raise a limit that is used up: nobody meets an error, and it admits the difference."""
    wait_for(lambda: load.codes("/raised")[LIMITED] > LOADERS, "refusals", PATIENCE_S)
    assert load.codes("/raised")[OK] == RAISED_FROM

    write_policy(policy, policy_text(RAISED_TO))

    wait_for(lambda: load.codes("/raised")[OK] > RAISED_FROM, "the new limit", PATIENCE_S)
    load.wait_for_more()
    assert load.codes()[FAILED] == 0
    assert failed_calls(run) == {}


def kill_workers(run: Proxied, load: Load) -> None:
    """Kill one worker, and then the other: that costs calls in flight on their connections."""
    victims = run.daemon.worker_pids()
    assert len(victims) == 2
    for number, victim in enumerate(victims, start=1):
        os.kill(victim, signal.SIGKILL)

        def is_whole_again(victim: int = victim) -> bool:
            connections = counted(run, 'worker_connections{listener="grpc"').values()
            pids = run.daemon.worker_pids()
            is_even = len(connections) == 2 and max(connections) - min(connections) <= 1
            return is_even and len(pids) == 2 and victim not in pids

        wait_for(is_whole_again, "two workers with as many connections", PATIENCE_S)
        load.wait_for_more()
        # Each loader had one call in flight at most.
        assert load.codes()[FAILED] <= LOADERS * number
    assert failed_calls(run) == {}


def restart_store(run: Proxied, load: Load, store: Server) -> None:
    """Kill the store and start it again: calls fail meanwhile, with the daemon's own word."""
    lost = load.codes()[FAILED]

    store.kill()
    wait_for(lambda: load.codes()[FAILED] > lost + LOADERS, "errors", PATIENCE_S)
    store.start()

    def is_answering() -> bool:
        before = load.codes()
        load.wait_for_more(LOADERS * len(PATHS))
        return load.codes()[FAILED] == before[FAILED]

    wait_for(is_answering, "answers from the store", PATIENCE_S)


def assert_limits_held(run: Proxied, load: Load) -> None:
    """Look at every limit, and at what every error was."""
    codes = load.codes()
    assert codes.keys() <= {OK, LIMITED, FAILED}
    # What Envoy calls an error is what its clients saw, and all but calls that died with a worker
    # are answers of the daemon that the store is away.
    assert run.outcomes().get("error", 0) == codes[FAILED]
    failed = failed_calls(run)
    assert failed.keys() == {"UNAVAILABLE"}
    assert 0 <= codes[FAILED] - failed["UNAVAILABLE"] <= 2 * LOADERS

    with httpx.Client(base_url=run.envoy.url, timeout=20) as client:
        for path, limit in (("/early", EARLY), ("/late", LATE)):
            for _ in range(limit):
                if load.ask(client, path) == LIMITED:
                    break
            admitted, errors = load.codes(path)[OK], load.codes(path)[FAILED]
            # A call that failed may have been counted before, but none twice.
            assert limit - errors <= admitted <= limit, path
    # Refusals before the reload may be counted too, so fewer than the difference may be left.
    assert RAISED_FROM < load.codes("/raised")[OK] <= RAISED_TO
    assert load.codes("/second")[LIMITED] > 0
    assert load.codes("/open")[LIMITED] == 0
    assert most_in_a_window(load) <= EACH_SECOND


def most_in_a_window(load: Load) -> int:
    """Return the most that were admitted in one second of the store's clock, for sure.

    The store decides between a request and its answer, so only what lies within one second counts.
    """
    seconds = Counter[int]()
    for each in load.asked:
        if (each.path, each.code) == ("/second", OK) and int(each.sent_s) == int(each.answered_s):
            seconds[int(each.sent_s)] += 1
    return max(seconds.values())


def assert_all_is_well(run: Proxied, load: Load) -> None:
    """Look at everything that the storm could have left behind."""
    assert run.codes("/fresh", 6) == [OK] * 5 + [LIMITED]
    assert run.daemon.is_healthy()
    assert len(run.daemon.worker_pids()) == 2
    assert counted(run, "worker_restarts_total") == {"": 2}
    assert counted(run, 'store_breaker_state{state="open"') == {"}": 0}
    wait_for(lambda: set(counted(run, "worker_queue_depth").values()) == {0}, "empty queues")
    assert "Traceback" not in run.daemon.child.output()
    # Each call had a block of its own: the traceparent made it so.
    blocks = counted(run, "h2_header_blocks_total{result=")
    assert blocks['"miss"}'] > 100 * blocks.get('"hit"}', 0)


def failed_calls(run: Proxied) -> dict[str, float]:
    """Return how many calls the daemon has answered with an error, by their status."""
    found = counted(run, 'calls_total{code="')
    calls = {name.partition('"')[0]: value for name, value in found.items() if "Should" in name}
    return {code: value for code, value in calls.items() if code != "OK" and value}


def counted(run: Proxied, start: str) -> dict[str, float]:
    """Return the daemon's series whose lines begin with `start`, by the rest of their names."""
    lines = [line.rpartition(" ") for line in run.daemon.metrics().splitlines()]
    start = f"ratelimitd_{start}"
    return {
        name.removeprefix(start): float(value) for name, _, value in lines if name.startswith(start)
    }
