"""What a caller may send on purpose: values without end, tiers of its own, impossible costs.

It gets the answer that is stated, the store and the daemon stay small, and nothing goes wrong.

The first test sends 100,000 values. Ten times as many take some minutes:

    ATTACKER_VALUES=1000000 python -m pytest tests/e2e/test_attackers.py -k values_without_end
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from random import Random

import pytest

from ratelimitd._proto.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from tests.support.daemon import Daemon, running_daemon
from tests.support.grpc_client import ShouldRateLimit, connected, rate_limit_request
from tests.support.proxied import write_policy
from tests.support.servers import Server

MOST_VALUES = 10_000_000
VALUES = min(int(os.environ.get("ATTACKER_VALUES") or 100_000), MOST_VALUES)
# Of new values in a second.
BIRTHS = 50
EACH_REQUEST = 50
SENDERS = 8
# Less than 60 bytes for each value after the first quarter: no trace of one is kept.
MAX_GROWTH_BYTES = 4 * 1024 * 1024
# The births, the overflow, the secret, and what the registry keeps.
OTHER_KEYS = 8

OK, OVER_LIMIT = RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT
LARGEST_32, LARGEST_64 = 2**32 - 1, 2**64 - 1
# The rules of POLICY under `costs`: each by its algorithm, refusals charged or not.
COUNTED = ("fixed", "sliding", "gcra")
UNCOUNTED = tuple(f"{name}_free" for name in COUNTED)

POLICY = f"""
domain: open
secret_keys: []
subjects: {{key: user, tier: tier}}
descriptors:
  - key: value
    rate_limit:
      {{unit: year, requests_per_unit: 1000000000, max_new_keys_per_second: {BIRTHS}}}
  - key: few
    rate_limit:
      {{unit: year, requests_per_unit: 3, max_new_keys_per_second: 1}}
  - key: user
    rate_limit: {{name: per-user, unit: year, requests_per_unit: {{pro: 1000, default: 3}}}}
  - key: place
    rate_limit: {{algorithm: concurrency, slot: holder, requests_per_unit: 3}}
---
domain: trusting
subjects: {{key: user, tier: tier, trust_tier_entry: true}}
secret_keys: []
descriptors:
  - key: user
    limits:
      - {{name: per-user, unit: year, requests_per_unit: {{pro: 5, default: 3}}}}
      - {{name: per-tier, scope: tier, unit: year, requests_per_unit: {{pro: 50, default: 30}}}}
---
domain: costs
descriptors:
  - key: fixed
    rate_limit: {{unit: year, requests_per_unit: 10}}
  - key: sliding
    rate_limit:
      {{unit: year, requests_per_unit: 10, algorithm: sliding_window, count_denied: true}}
  - key: gcra
    rate_limit:
      {{unit: year, requests_per_unit: 10, algorithm: gcra, max_debt: 5, count_denied: true}}
  - key: fixed_free
    rate_limit: {{unit: year, requests_per_unit: 10, count_denied: false}}
  - key: sliding_free
    rate_limit: {{unit: year, requests_per_unit: 10, algorithm: sliding_window}}
  - key: gcra_free
    rate_limit: {{unit: year, requests_per_unit: 10, algorithm: gcra}}
  - key: place
    rate_limit: {{algorithm: concurrency, slot: holder, requests_per_unit: 3}}
  - key: nameless
    rate_limit: {{algorithm: concurrency, requests_per_unit: 3}}
"""


@pytest.mark.timeout(180 + VALUES // 500)
async def test_values_without_end_share_a_counter(store: Server, tmp_path: Path) -> None:
    # given
    async with attacked(store, tmp_path) as (daemon, ask):
        random = Random(1)
        warm, cold = VALUES // 4, VALUES - VALUES // 4
        started_s = store_second(store)
        await send_values(ask, random, warm)
        warm_bytes = rss_bytes(daemon)

        # when
        await send_values(ask, random, cold)

        # then: so many new counters as the seconds allow, and the other values are marked
        seconds = store_second(store) - started_s + 2
        marked = counted(daemon, "overflowed_values_total")
        assert 0 < VALUES - marked <= BIRTHS * seconds
        assert marked + BIRTHS * seconds >= VALUES
        assert store_keys(store) <= BIRTHS * seconds + OTHER_KEYS
        assert store_keys(store) >= VALUES - marked
        assert rss_bytes(daemon) - warm_bytes <= MAX_GROWTH_BYTES


async def test_values_beyond_the_bound_are_limited_together(store: Server, tmp_path: Path) -> None:
    # given
    async with attacked(store, tmp_path) as (daemon, ask):
        # when: far more values than seconds, each of which asks once
        codes = [
            (await ask(rate_limit_request("open", f"few=v{number}"))).overall_code
            for number in range(60)
        ]

        # then: one for each second, and three for all the rest
        admitted = codes.count(OK)
        marked = counted(daemon, "overflowed_values_total")
        assert admitted == 60 - marked + 3
        assert codes.count(OVER_LIMIT) == marked - 3
        assert marked > 3


async def test_descriptors_that_match_nothing_leave_nothing(store: Server, tmp_path: Path) -> None:
    # given
    async with attacked(store, tmp_path) as (daemon, ask):
        random = Random(2)
        before = store_keys(store)
        series = len(daemon.metrics().splitlines())

        # when
        requests = [
            rate_limit_request(domain, *[f"{word(random)}={word(random)}" for _ in range(40)])
            for domain in ("open", "trusting", "costs")
            for _ in range(100)
        ]
        strange = [rate_limit_request(word(random), "value=x") for _ in range(1_000)]
        answers = [await ask(request) for request in (*requests, *strange)]

        # then
        assert {answer.overall_code for answer in answers} == {OK}
        assert not any(
            status.HasField("current_limit") for answer in answers for status in answer.statuses
        )
        assert store_keys(store) == before
        assert counted(daemon, "unmatched_total") == 3 * 100 * 40
        assert counted(daemon, "domain_not_found_total") == 1_000
        # A domain's own line, and no line for what a caller made up.
        assert len(daemon.metrics().splitlines()) - series <= 40


@pytest.mark.usefixtures("data_plane")
async def test_forged_tier_changes_nothing(store: Server, tmp_path: Path) -> None:
    # given: a policy that does not trust the entry
    async with attacked(store, tmp_path) as (daemon, ask):
        # when
        tiers = ["pro", "", "default", "pro", "*", "x" * 4_000]
        answers = [await ask(rate_limit_request("open", f"user=eve,tier={tier}")) for tier in tiers]

        # then: the number of those without a tier, and one counter whatever the entry says
        assert [answer.overall_code for answer in answers] == [OK] * 3 + [OVER_LIMIT] * 3
        assert {limit_of(answer) for answer in answers} == {3}
        twice = await ask(rate_limit_request("open", "tier=pro,user=eve,tier=pro"))
        assert (twice.overall_code, limit_of(twice)) == (OVER_LIMIT, 3)
        assert counted(daemon, "unknown_tiers_total") == 0


@pytest.mark.usefixtures("data_plane")
async def test_unknown_tiers_share_the_default(store: Server, tmp_path: Path) -> None:
    # given: a policy that trusts the entry, and a gateway that lets anything through
    async with attacked(store, tmp_path) as (daemon, ask):
        series = len(daemon.metrics().splitlines())

        # when: each user of a tier of its own
        random = Random(3)
        codes = [
            (
                await ask(rate_limit_request("trusting", f"user=u{n},tier={word(random)}"))
            ).overall_code
            for n in range(200)
        ]

        # then: the tier "default" has 30 for all of them, counted as such
        assert codes == [OK] * 30 + [OVER_LIMIT] * 170
        # Two limits with tiers each time.
        assert counted(daemon, "unknown_tiers_total") == 400
        assert len(daemon.metrics().splitlines()) - series <= 40


@pytest.mark.usefixtures("data_plane")
async def test_places_cannot_be_made_up(store: Server, tmp_path: Path) -> None:
    # given: three places are taken
    async with attacked(store, tmp_path) as (_, ask):
        taken = [rate_limit_request("open", f"place=a,holder=h{n}") for n in range(3)]
        assert [(await ask(one)).overall_code for one in taken] == [OK] * 3

        # when: names and costs of an attacker's choice are given back
        random = Random(4)
        for cost in (1, LARGEST_32, LARGEST_64):
            for _ in range(20):
                request = rate_limit_request("open", f"place=a,holder={word(random)}")
                assert (await ask(refund(request, cost))).overall_code == OK

        # then: no place was freed, but by the name of who has it
        more = rate_limit_request("open", "place=a,holder=more")
        assert (await ask(more)).overall_code == OVER_LIMIT
        # As Envoy does it, also after a refusal.
        await ask(refund(more, 1))
        assert (await ask(more)).overall_code == OVER_LIMIT
        await ask(refund(taken[0], LARGEST_64))
        assert (await ask(more)).overall_code == OK


@pytest.mark.usefixtures("data_plane")
@pytest.mark.parametrize("name", UNCOUNTED)
async def test_impossible_cost_is_refused_and_not_charged(
    store: Server, tmp_path: Path, name: str
) -> None:
    # given
    async with attacked(store, tmp_path) as (_, ask):
        # when: for the request, and for the descriptor
        answers = [await ask(costly(name, cost)) for cost in (LARGEST_32, LARGEST_64) * 3]

        # then
        assert {answer.overall_code for answer in answers} == {OVER_LIMIT}
        assert await left(ask, name) == (OK, 10)
        # Nor can anybody be given more than there was.
        assert (await ask(refund(costly(name, 4), LARGEST_64))).overall_code == OK
        assert await left(ask, name) == (OK, 10)
        assert [(await ask(costly(name, 1))).overall_code for _ in range(11)] == [OK] * 10 + [
            OVER_LIMIT
        ]


@pytest.mark.usefixtures("data_plane")
@pytest.mark.parametrize("name", COUNTED)
async def test_impossible_cost_is_charged_no_further_than_numbers_go(
    store: Server, tmp_path: Path, name: str
) -> None:
    # given: a rule that charges what it refuses
    async with attacked(store, tmp_path) as (daemon, ask):
        # when
        answers = [await ask(costly(name, cost)) for cost in (LARGEST_32, LARGEST_64) * 3]

        # then: nothing is left, and one refund of as much gives all of it back
        assert {answer.overall_code for answer in answers} == {OVER_LIMIT}
        assert await left(ask, name) == (OVER_LIMIT, 0)
        assert (await ask(refund(costly(name, 1), LARGEST_64))).overall_code == OK
        assert await left(ask, name) == (OK, 10)
        assert counted(daemon, "store_unreadable_state") == 0


@pytest.mark.usefixtures("data_plane")
async def test_impossible_number_of_places(store: Server, tmp_path: Path) -> None:
    # given
    async with attacked(store, tmp_path) as (_, ask):
        # when / then: without names a cost is so many places; with one it is one place
        for cost in (4, LARGEST_32, LARGEST_64):
            assert (await ask(costly("nameless", cost))).overall_code == OVER_LIMIT
        assert await left(ask, "nameless") == (OK, 3)
        assert (await ask(costly("nameless", 3))).overall_code == OK
        assert (await ask(refund(costly("nameless", 1), LARGEST_64))).overall_code == OK
        assert await left(ask, "nameless") == (OK, 3)


@contextmanager
def running_policy(store: Server, directory: Path) -> Iterator[Daemon]:
    """Serve POLICY, a file for each domain."""
    for number, text in enumerate(POLICY.split("---\n")):
        policy = write_policy(directory / "policy", text, f"{number}.yaml")
    with running_daemon(policy, store.url, directory) as daemon:
        yield daemon


@asynccontextmanager
async def attacked(store: Server, directory: Path) -> AsyncIterator[tuple[Daemon, ShouldRateLimit]]:
    """Give the daemon and a client; whatever was asked, no call may have failed."""
    with running_policy(store, directory) as daemon:
        async with connected(daemon.grpc_address, timeout_s=60) as ask:
            yield daemon, ask
        failed = [
            line
            for line in daemon.metrics().splitlines()
            if line.startswith("ratelimitd_calls_total") and 'code="OK"' not in line
        ]
        assert [line for line in failed if not line.endswith(" 0.0")] == []
        assert "Traceback" not in daemon.child.output()
        assert " error " not in daemon.child.output()


async def send_values(ask: ShouldRateLimit, random: Random, count: int) -> None:
    """Ask about `count` values that nobody asked about before; all are admitted."""
    waiting = iter(range(0, count, EACH_REQUEST))

    async def send() -> None:
        for first in waiting:
            number = min(EACH_REQUEST, count - first)
            values = [f"value={random.randbytes(12).hex()}" for _ in range(number)]
            answer = await ask(rate_limit_request("open", *values))
            assert answer.overall_code == OK

    await asyncio.gather(*[send() for _ in range(SENDERS)])


def word(random: Random) -> str:
    """Return a text that nobody used before."""
    return random.randbytes(8).hex()


def costly(name: str, cost: int) -> RateLimitRequest:
    """Return a request to a rule of `costs`: the cost is its own, or beyond 32 bits its entry's."""
    request = rate_limit_request("costs", f"{name}=a", hits=min(cost, LARGEST_32))
    if cost > LARGEST_32:
        request.descriptors[0].hits_addend.value = cost
    return request


def refund(request: RateLimitRequest, cost: int) -> RateLimitRequest:
    """Return what gives back `cost` of what `request` took."""
    back = RateLimitRequest()
    back.CopyFrom(request)
    back.descriptors[0].hits_addend.value = cost
    back.descriptors[0].is_negative_hits = True
    return back


async def left(ask: ShouldRateLimit, name: str) -> tuple[int, int]:
    """Return what a question to a rule of `costs` is answered, and what is left."""
    request = rate_limit_request("costs", f"{name}=a")
    request.descriptors[0].hits_addend.value = 0
    (status,) = (await ask(request)).statuses
    return status.code, status.limit_remaining


def limit_of(answer: RateLimitResponse) -> int:
    """Return the number that the caller is told."""
    return answer.statuses[0].current_limit.requests_per_unit


def counted(daemon: Daemon, name: str) -> float:
    """Return the sum of the daemon's series whose names begin so."""
    lines = [line.rpartition(" ") for line in daemon.metrics().splitlines()]
    return sum(float(value) for key, _, value in lines if key.startswith(f"ratelimitd_{name}"))


def rss_bytes(daemon: Daemon) -> int:
    """Return what the daemon has in memory."""
    status = Path(f"/proc/{daemon.child.pid}/status").read_text("ascii")
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


def store_keys(store: Server) -> int:
    """Return how many keys the store has."""
    found = store.execute("DBSIZE")
    assert isinstance(found, int)
    return found


def store_second(store: Server) -> int:
    """Return the store's clock in whole seconds."""
    answer = store.execute("TIME")
    assert isinstance(answer, (list, tuple))
    return int(answer[0])
