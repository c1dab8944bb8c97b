from dataclasses import replace

import pytest

from ratelimitd.decisions.deny_cache import ENTRY_BYTES, MAX_AGE_US, DenyCache
from ratelimitd.decisions.plan import Check, Plan
from ratelimitd.policy.model import Algorithm
from tests.model.limits import ModelStore
from tests.support.plans import check_of, limit_of, plan_of

NOW_US = 1_790_000_000_000_000
SENT_US = 5_000_000
LIMIT = limit_of(2)


def filled(*checks: Check, used: int = 2, size: int = 10, now_us: int = NOW_US) -> DenyCache:
    """Return a cache that saw `checks` asked together after `used` hits on each counter."""
    model, cache = ModelStore(), DenyCache(size * ENTRY_BYTES)
    for check in {check.key: check for check in checks}.values():
        model.check([plan_of(Check(check.key, check.limit, used))], now_us)
    plan = plan_of(*checks)
    cache.remember(plan, model.check([plan], now_us)[0], SENT_US)
    return cache


def is_refused(cache: DenyCache, plan: Plan, at_us: int = SENT_US) -> bool:
    reply = cache.answer(plan, at_us)
    assert reply is None or reply.is_refused
    return reply is not None


def test_refusal_is_remembered_for_at_most_a_second() -> None:
    # given
    cache = filled(check_of(LIMIT))
    plan = plan_of(check_of(LIMIT))
    # then
    assert is_refused(cache, plan, SENT_US + MAX_AGE_US - 1)
    assert not is_refused(cache, plan, SENT_US + MAX_AGE_US)


def test_refusal_ends_with_its_window() -> None:
    # given the window ends 500 ms later
    end_us = NOW_US - NOW_US % LIMIT.window_us + LIMIT.window_us
    cache = filled(check_of(LIMIT), now_us=end_us - 500_000)
    plan = plan_of(check_of(LIMIT))
    # then
    assert is_refused(cache, plan, SENT_US + 499_999)
    assert not is_refused(cache, plan, SENT_US + 500_000)


def test_reset_is_told_as_time_goes_by() -> None:
    # given
    cache = filled(check_of(LIMIT))
    # when
    first = cache.answer(plan_of(check_of(LIMIT)), SENT_US)
    later = cache.answer(plan_of(check_of(LIMIT)), SENT_US + 250_000)
    # then
    assert first is not None
    assert later is not None
    assert first.results[0].reset_us - later.results[0].reset_us == 250_000
    assert first.results[0].retry_after_us - later.results[0].retry_after_us == 250_000


@pytest.mark.parametrize(
    "check",
    [
        check_of(LIMIT, cost=0),
        check_of(LIMIT, cost=-1),
        check_of(LIMIT, "other"),
        check_of(limit_of(3)),
        check_of(limit_of(2, is_shadow=True)),
        check_of(limit_of(2, is_quota=True)),
    ],
    ids=["question", "refund", "other value", "other amount", "shadow", "quota"],
)
def test_cache_never_refuses_what_the_store_might_admit(check: Check) -> None:
    assert not is_refused(filled(check_of(LIMIT)), plan_of(check))


def test_smaller_cost_is_asked_of_the_store() -> None:
    # given a cost of 5 that never fits
    cache = filled(check_of(LIMIT, cost=5), used=0)
    # then
    assert is_refused(cache, plan_of(check_of(LIMIT, cost=6)))
    assert not is_refused(cache, plan_of(check_of(LIMIT, cost=4)))


@pytest.mark.parametrize(
    "limit", [limit_of(2, is_shadow=True), limit_of(2, is_quota=True)], ids=["shadow", "quota"]
)
def test_cache_is_not_filled_by_limits_that_do_not_refuse_alone(limit: object) -> None:
    assert len(filled(check_of(limit))) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("counts_denied", [True, False])
@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_cache_is_filled_where_no_charge_is_missed_and_no_place_comes_free(
    algorithm: Algorithm, counts_denied: bool
) -> None:
    # given
    limit = replace(
        limit_of(2, counts_denied=counts_denied), algorithm=algorithm, slot_ttl_us=60_000_000
    )
    # when
    cache = filled(check_of(limit))
    # then
    is_fixed = algorithm is Algorithm.FIXED_WINDOW
    may_be_kept = is_fixed or (algorithm is not Algorithm.CONCURRENCY and not counts_denied)
    assert len(cache) == int(may_be_kept)


def test_refusal_by_a_sum_within_one_request_is_not_remembered() -> None:
    # given a counter with one left, and a request that asks it twice
    limit = limit_of(2, counts_denied=False)
    cache = filled(check_of(limit), check_of(limit), used=1)
    # then one alone may still be admitted
    assert not is_refused(cache, plan_of(check_of(limit)))


def test_request_with_another_limit_reaches_the_store() -> None:
    # given
    cache = filled(check_of(LIMIT))
    # then
    assert not is_refused(cache, plan_of(check_of(LIMIT), check_of(LIMIT, "other")))
    assert is_refused(cache, plan_of(check_of(LIMIT), check_of(LIMIT)))


def test_cache_of_another_policy_is_not_asked() -> None:
    # given
    cache = filled(check_of(LIMIT))
    plan = plan_of(check_of(LIMIT))
    other = Plan(plan.request, "f" * 16, plan.descriptors, plan.checks)
    # then
    assert not is_refused(cache, other)


def test_cache_is_bounded_and_forgets_the_oldest() -> None:
    # given
    cache = filled(*(check_of(LIMIT, value) for value in "abcd"), size=3)
    # then
    assert len(cache) == 3
    assert not is_refused(cache, plan_of(check_of(LIMIT, "a")))
    assert is_refused(cache, plan_of(check_of(LIMIT, "d")))


def test_cache_of_size_zero_remembers_nothing() -> None:
    assert len(filled(check_of(LIMIT), size=0)) == 0


def test_plan_without_checks_is_not_answered() -> None:
    assert not is_refused(filled(check_of(LIMIT)), plan_of())


def test_limit_that_did_not_refuse_is_not_remembered() -> None:
    # given a request of two limits, of which one is at its end and the other over
    model, cache = ModelStore(), DenyCache(10 * ENTRY_BYTES)
    last = check_of(LIMIT, "last")
    over = check_of(LIMIT, "over")
    model.check([plan_of(last), plan_of(over), plan_of(over)], NOW_US)
    plan = plan_of(last, over)
    # when
    cache.remember(plan, model.check([plan], NOW_US)[0], SENT_US)
    # then the store says so itself
    assert not is_refused(cache, plan_of(last))
    assert is_refused(cache, plan_of(over))
