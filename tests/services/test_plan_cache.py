from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import Plan
from ratelimitd.services.plan_cache import MAX_REQUEST_BYTES, MAX_SEEN, PlanCache
from ratelimitd.services.ready_plan import Outline, ReadyPlan
from tests.support.plans import check_of, limit_of, plan_of


class Maker:
    """Makes plans and remembers for what."""

    def __init__(self) -> None:
        self.made: list[bytes] = []

    def __call__(self, body: bytes) -> ReadyPlan:
        self.made.append(body)
        plan = plan_of(check_of(limit_of(1), body.hex()))
        outline = Outline(plan, DecisionOptions())
        return ReadyPlan(outline, outline.shape, (plan.checks[0].key,), body, plan, self)

    def whole_plan(self, ready: ReadyPlan) -> Plan:
        raise AssertionError("every plan is whole")

    def is_current(self, ready: ReadyPlan) -> bool:
        raise AssertionError("no plan has subjects")


def test_plan_is_kept_at_its_second_sight() -> None:
    # given
    maker = Maker()
    cache = PlanCache(maker)
    # when
    plans = [cache.get(b"a") for _ in range(4)]
    # then
    assert maker.made == [b"a", b"a"]
    assert plans[1] is plans[2] is plans[3]
    assert (cache.hits, cache.misses) == (2, 2)


def test_values_that_come_once_push_out_nothing() -> None:
    # given
    maker = Maker()
    cache = PlanCache(maker, max_bytes=20_000)
    cache.get(b"kept")
    cache.get(b"kept")
    # when
    for number in range(1000):
        cache.get(b"once %d" % number)
    # then
    assert len(cache) == 1
    cache.get(b"kept")
    assert maker.made.count(b"kept") == 2


def test_cache_is_bounded_and_keeps_what_is_used() -> None:
    # given room for a few plans
    maker = Maker()
    cache = PlanCache(maker, max_bytes=30_000)
    # when one is used between all the others
    for number in range(200):
        for _ in range(2):
            cache.get(b"%d" % number)
        cache.get(b"used")
    # then
    assert len(cache) < 15
    assert maker.made.count(b"used") == 2


def test_large_requests_are_not_kept() -> None:
    # given
    maker = Maker()
    cache = PlanCache(maker)
    # when
    for _ in range(3):
        cache.get(b"x" * (MAX_REQUEST_BYTES + 1))
    # then
    assert len(maker.made) == 3
    assert len(cache) == 0


def test_sights_are_bounded_too() -> None:
    # given
    cache = PlanCache(Maker())
    # when
    for number in range(2 * MAX_SEEN):
        cache.get(b"%d" % number)
    # then
    assert len(cache._seen) == MAX_SEEN  # noqa: SLF001 - the bound


def test_clear_forgets_plans_and_sights() -> None:
    # given
    maker = Maker()
    cache = PlanCache(maker)
    cache.get(b"a")
    cache.get(b"a")
    # when
    cache.clear()
    cache.get(b"a")
    # then
    assert len(cache) == 0
    assert len(maker.made) == 3


def test_plan_is_kept_only_once_its_subject_was_asked_for() -> None:
    # given requests of somebody whom nobody knows yet, and knows at last
    maker = Maker()
    missing: tuple[str, ...] = ("api|user=a",)

    def make(body: bytes) -> ReadyPlan:
        return maker(body)._replace(missing=missing)

    cache = PlanCache(make)
    for _ in range(3):
        cache.get(b"a")
    assert len(cache) == 0
    # when
    missing = ()
    for _ in range(3):
        cache.get(b"a")
    # then
    assert len(maker.made) == 5
    # when its subject is forgotten
    missing = ("api|user=a",)
    cache.renew(b"a")
    # then
    assert len(cache) == 0
