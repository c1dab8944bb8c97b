"""A replica with another clock takes over: a step costs or gives each counter one window at most.

The state is replicated by the server itself, and the scripts run on both; only their clocks are
given, so that the second is ahead or behind by as much as it takes.
"""

from collections.abc import Iterator

import pytest

from ratelimitd.decisions.plan import Plan
from tests.support.plans import check_of, gcra_of, limit_of, places_of, plan_of, sliding_of
from tests.support.scripted import ScriptedStore
from tests.support.servers import start_server

US_PER_S = 1_000_000
NOW_US = 1_790_000_000_123_456
WINDOW_US = 60 * US_PER_S
DAY_US = 86_400 * US_PER_S
WAIT_MS = 10_000

# A limit of 5 in a minute, and the longest wait that a state ahead of the clock may cost.
LIMITS = {
    "fixed_window": (limit_of(5, counts_denied=False), WINDOW_US),
    # Both of its windows count.
    "sliding_window": (sliding_of(5), 2 * WINDOW_US),
    # A bucket and as much debt.
    "gcra": (gcra_of(5, WINDOW_US, burst=5, max_debt=5), 2 * WINDOW_US),
    "concurrency": (places_of(5, slot_ttl_us=WINDOW_US), WINDOW_US),
}


STEPS_US = (-DAY_US, -10 * US_PER_S, 0, 10 * US_PER_S, DAY_US)


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedStore]:
    """Give a replica that took over when each limit was used up, for each step of the clock."""
    options = ("--repl-diskless-sync-delay", "0")
    primary, replica = (
        start_server("valkey9", tmp_path_factory.mktemp("node"), has_tcp=True, options=options)
        for _ in range(2)
    )
    try:
        first, second = primary.client(), replica.client()
        second.replicaof("127.0.0.1", primary.port)
        store = ScriptedStore(first)
        for algorithm in LIMITS:
            for step_us in STEPS_US:
                assert admitted(store, algorithm, step_us, NOW_US) == 5
        assert first.wait(1, WAIT_MS) == 1
        second.replicaof("NO", "ONE")
        primary.kill()
        yield ScriptedStore(second)
    finally:
        primary.stop()
        replica.stop()


def plan(algorithm: str, step_us: int) -> Plan:
    limit, _ = LIMITS[algorithm]
    return plan_of(check_of(limit, f"{algorithm}{step_us}"))


def admitted(store: ScriptedStore, algorithm: str, step_us: int, now_us: int) -> int:
    """Ask more often than the limit allows."""
    asked = [plan(algorithm, step_us)]
    return sum(not store.check(asked, now_us)[0].is_refused for _ in range(20))


@pytest.mark.parametrize("step_us", STEPS_US, ids=lambda us: f"{us / US_PER_S:+g}s")
@pytest.mark.parametrize("algorithm", LIMITS)
def test_failover_to_another_clock_costs_or_gives_one_window_at_most(
    promoted: ScriptedStore, algorithm: str, step_us: int
) -> None:
    # given a limit that was used up
    _, longest_us = LIMITS[algorithm]
    now_us = NOW_US + step_us
    # when
    given = admitted(promoted, algorithm, step_us, now_us)
    # then a clock behind gives nothing, and one ahead what its own time would have given
    if step_us <= 0:
        assert given == 0
    elif step_us == DAY_US:
        assert given == 5
    else:
        assert given <= 1
    # then it costs a wait that is bounded and told, and no longer than that
    asked = [plan(algorithm, step_us)]
    (refused,) = promoted.check(asked, now_us)
    wait_us = refused.results[0].retry_after_us
    assert refused.is_refused
    assert 0 < wait_us <= longest_us
    assert promoted.check(asked, now_us + wait_us - 1)[0].is_refused
    assert admitted(promoted, algorithm, step_us, now_us + wait_us) >= 1
