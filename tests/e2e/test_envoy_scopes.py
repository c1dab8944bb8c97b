"""Limits of a key, its tier and everybody in one rule; who changes tier; places in flight."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from time import monotonic

import grpc
import httpx
import pytest
from typer.testing import CliRunner

from ratelimitd._proto.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from ratelimitd.ctl import app
from tests.support.authz import running_authz
from tests.support.children import wait_for
from tests.support.daemon import Daemon, running_daemon
from tests.support.grpc_client import METHOD, rate_limit_request
from tests.support.proxied import Proxied, write_policy
from tests.support.recipes import running_recipe
from tests.support.servers import Server

CLIENTS = 16
WORKERS = ("--workers", "2", "--data-plane", "h2")
# What the design promises for a change of a subject or a block, on every worker.
AT_ONCE_S = 1.0

FREE, PRO, NONE = ("f1", "f2", "f3", "f4"), ("p1", "p2"), ("n1", "n2")
TIERS = dict.fromkeys(FREE, "free") | dict.fromkeys(PRO, "pro") | dict.fromkeys(NONE, "")
KEY_LIMITS = {"free": 5, "pro": 20, "": 3}
TIER_LIMITS = {"free": 12, "pro": 30, "": 100}
EVERYBODY = 45

SCOPES = """
domain: tiers
subjects: {key: api_key, tier: tier, trust_tier_entry: true}
descriptors:
  - key: api_key
    limits:
      - name: per-key
        unit: year
        algorithm: ALGORITHM
        requests_per_unit: {free: 5, pro: 20, default: 3}
      - name: per-tier
        scope: tier
        unit: year
        requests_per_unit: {free: 12, pro: 30, default: 100}
      - {name: everybody, scope: global, unit: year, requests_per_unit: 45}
"""

REGISTERED = """
domain: shop
secret_keys: []
subjects: {key: user}
descriptors:
  - key: user
    rate_limit: {name: per-user, unit: year, requests_per_unit: {pro: 6, default: 3}}
"""


@pytest.mark.parametrize("algorithm", ["fixed_window", "gcra", "sliding_window"])
def test_each_limit_of_a_rule_admits_exactly_itself(
    store: Server, tmp_path: Path, algorithm: str
) -> None:
    # given
    with running_scopes(store, tmp_path, algorithm) as run:
        # when: one limit after the other is the one that refuses
        free = at_once(run, FREE * 12)
        first = at_once(run, ("p1",) * 32)
        second = at_once(run, ("p2",) * 32)
        rest = at_once(run, NONE * 16)
        late = at_once(run, (*FREE, *PRO, *NONE))

        # then
        assert sum(free.values()) == TIER_LIMITS["free"]
        assert max(free.values()) <= KEY_LIMITS["free"]
        assert first["p1"] == KEY_LIMITS["pro"]
        assert second["p2"] == TIER_LIMITS["pro"] - KEY_LIMITS["pro"]
        assert sum(rest.values()) == EVERYBODY - TIER_LIMITS["free"] - TIER_LIMITS["pro"]
        assert late == {}
        if algorithm == "fixed_window":
            assert counts(store) == expected_counts(free + first + second + rest)


def test_limits_of_a_rule_hold_when_all_tiers_come_at_once(store: Server, tmp_path: Path) -> None:
    # given
    with running_scopes(store, tmp_path, "fixed_window") as run:
        # when: 96 requests, of which the limits of keys and tiers would let 48 pass
        admitted = at_once(run, (*FREE, *PRO * 8, *NONE * 2) * 4)

        # then: none is exceeded, and a refusal by one of them is charged to none
        assert sum(admitted.values()) == EVERYBODY
        for tier, limit in TIER_LIMITS.items():
            of_tier = {key: admitted[key] for key, its in TIERS.items() if its == tier}
            assert sum(of_tier.values()) <= limit
            assert max(of_tier.values()) <= KEY_LIMITS[tier]
        assert counts(store) == expected_counts(admitted)


def test_upgrade_acts_at_once_and_keeps_what_was_used(
    daemon: Daemon, channels: list[grpc.Channel]
) -> None:
    # given: a user that has used all, on connections to both workers
    assert [hit(channel, "ann").overall_code for channel in channels] == [1] * 3 + [2] * 5
    assert all(standing(channel, "ann") == (3, 0) for channel in channels)

    # when
    ctl(daemon, "subject", "set", "shop", "user=ann", "--tier", "pro", "--reason", "bought it")

    # then
    at_once_on_all(lambda: [standing(channel, "ann") == (6, 3) for channel in channels])
    assert [hit(channel, "ann").overall_code for channel in channels] == [1] * 3 + [2] * 5
    assert all(standing(channel, "bob") == (3, 3) for channel in channels)


def test_block_refuses_at_once_on_all_workers_until_it_ends(
    daemon: Daemon, channels: list[grpc.Channel]
) -> None:
    # given
    assert all(standing(channel, "eve") == (3, 3) for channel in channels)

    # when / then
    ctl(daemon, "block", "shop", "user=eve", "--for", "10m", "--reason", "attack")
    at_once_on_all(lambda: [code(channel, "eve") == 2 for channel in channels])
    assert all(code(channel, "bob") == 1 for channel in channels)

    # when / then: nothing was spent meanwhile
    ctl(daemon, "unblock", "shop", "user=eve")
    at_once_on_all(lambda: [standing(channel, "eve") == (3, 3) for channel in channels])


def test_places_are_never_more_than_the_limit_and_none_is_lost(
    store: Server, tmp_path: Path
) -> None:
    # given: three places for a key
    edits = {"requests_per_unit: 2": "requests_per_unit: 3"}
    with (
        running_recipe("concurrency", store.url, tmp_path, edits=edits, flags=WORKERS) as run,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        # when: round after round three are in flight and the others are refused
        for _ in range(4):
            assert round_of_refusals(run, pool, places=3) == {200: 3, 429: CLIENTS - 3}
            wait_for(lambda: places_taken(store) == 0, "all places free")
        # when: everybody comes and goes as they like
        mixed = Counter(chain(*pool.map(lambda _: run.codes("/", 10, x_api_key="a"), range(16))))

        # then: refusals give back nothing, and everything else gives back its own place
        assert mixed.keys() == {200, 429}
        assert run.backend.peak == 3
        wait_for(lambda: places_taken(store) == 0, "all places free")
        assert round_of_refusals(run, pool, places=3) == {200: 3, 429: CLIENTS - 3}


@pytest.fixture
def daemon(store: Server, tmp_path: Path) -> Iterator[Daemon]:
    """Give two workers with the policy REGISTERED."""
    policy = write_policy(tmp_path / "policy", REGISTERED)
    with running_daemon(policy, store.url, tmp_path, flags=WORKERS) as daemon:
        yield daemon


@pytest.fixture
def channels(daemon: Daemon) -> Iterator[list[grpc.Channel]]:
    """Give eight connections, four to each worker."""
    with ExitStack() as stack:
        opened = [
            stack.enter_context(
                grpc.insecure_channel(daemon.grpc_address, [("grpc.use_local_subchannel_pool", 1)])
            )
            for _ in range(8)
        ]
        for channel in opened:
            grpc.channel_ready_future(channel).result(20)
        wait_for(lambda: connections(daemon) == [4, 4], "four connections each")
        yield opened


@contextmanager
def running_scopes(store: Server, directory: Path, algorithm: str) -> Iterator[Proxied]:
    """Run the recipe of tiers with the policy SCOPES on two workers."""
    policy = SCOPES.replace("ALGORITHM", algorithm)
    with (
        running_authz(TIERS) as port,
        running_recipe(
            "tiers", store.url, directory, policy=policy, flags=WORKERS, authz_port=port
        ) as run,
    ):
        yield run


def at_once(run: Proxied, keys: tuple[str, ...]) -> Counter[str]:
    """Send a request for each of `keys` from CLIENTS clients; count the admitted of each key."""

    def ask(number: int) -> list[str]:
        with httpx.Client(base_url=run.envoy.url, timeout=20) as client:
            codes = {
                at: client.get("/", headers={"x-api-key": keys[at]}).status_code
                for at in range(number, len(keys), CLIENTS)
            }
        assert set(codes.values()) <= {200, 429}
        return [keys[at] for at, code in codes.items() if code == 200]

    with ThreadPoolExecutor(CLIENTS) as pool:
        return Counter(chain(*pool.map(ask, range(CLIENTS))))


def counts(store: Server) -> list[int]:
    """Return what all counters of fixed windows hold, sorted."""
    keys = store.execute("KEYS", "rl:*")
    assert isinstance(keys, list)
    values = [store.execute("GET", key) for key in keys if store.execute("TYPE", key) == b"string"]
    windows = [value.split(b":") for value in values if isinstance(value, bytes) and b":" in value]
    return sorted(int(parts[1]) for parts in windows if all(part.isdigit() for part in parts))


def expected_counts(admitted: Counter[str]) -> list[int]:
    """Return what the counters of keys, tiers and everybody hold after so many were admitted."""
    tiers = Counter[str]()
    for key, count in admitted.items():
        tiers[TIERS[key]] += count
    return sorted([*admitted.values(), *tiers.values(), sum(admitted.values())])


def round_of_refusals(run: Proxied, pool: ThreadPoolExecutor, places: int) -> Counter[int]:
    """Hold what passes at the backend until all others were refused; count the codes."""
    run.backend.gate.clear()
    asked = [pool.submit(run.codes, "/", 1, x_api_key="a") for _ in range(CLIENTS)]
    wait_for(lambda: sum(one.done() for one in asked) == CLIENTS - places, "all others are refused")
    assert run.backend.in_flight == places
    run.backend.gate.set()
    return Counter(one.result(20)[0] for one in asked)


def places_taken(store: Server) -> int:
    """Return how many places are taken; all sorted sets belong to the one limit."""
    keys = store.execute("KEYS", "rl:*")
    assert isinstance(keys, list)
    return sum(
        int(str(store.execute("ZCARD", key)))
        for key in keys
        if store.execute("TYPE", key) == b"zset"
    )


def ctl(daemon: Daemon, *arguments: str) -> None:
    """Run ratelimitctl, which must succeed."""
    done = CliRunner().invoke(app, [*arguments, "--address", daemon.admin_address])
    assert done.exit_code == 0, done.output


def at_once_on_all(look: Callable[[], list[bool]]) -> None:
    """Wait until all that `look` sees is true, no longer than the design promises."""
    started_s = monotonic()
    wait_for(lambda: all(look()), "the change on all connections")
    assert monotonic() - started_s <= AT_ONCE_S


def connections(daemon: Daemon) -> list[float]:
    """Return how many connections each worker has."""
    start = 'ratelimitd_worker_connections{listener="grpc"'
    lines = [line for line in daemon.metrics().splitlines() if line.startswith(start)]
    return sorted(float(line.rpartition(" ")[2]) for line in lines)


def hit(channel: grpc.Channel, user: str, *, is_question: bool = False) -> RateLimitResponse:
    """Ask for one user; a question spends nothing."""
    method: grpc.UnaryUnaryMultiCallable[RateLimitRequest, RateLimitResponse] = channel.unary_unary(
        METHOD,
        request_serializer=RateLimitRequest.SerializeToString,
        response_deserializer=RateLimitResponse.FromString,
    )
    request = rate_limit_request("shop", f"user={user}")
    if is_question:
        request.descriptors[0].hits_addend.value = 0
    return method(request, timeout=20)


def standing(channel: grpc.Channel, user: str) -> tuple[int, int]:
    """Return a user's limit and what is left of it."""
    (status,) = hit(channel, user, is_question=True).statuses
    return status.current_limit.requests_per_unit, status.limit_remaining


def code(channel: grpc.Channel, user: str) -> int:
    """Return what a question about a user is answered: 1 is OK, 2 OVER_LIMIT."""
    return hit(channel, user, is_question=True).overall_code
