from ratelimitd.decisions.subject import AmountOverride, Subject
from ratelimitd.services.subject_cache import UNKNOWN, SubjectCache

PRO = Subject("pro")


def test_what_is_used_stays_and_what_is_not_is_dropped() -> None:
    # given
    cache = SubjectCache(max_records=4)
    cache.keep("used", PRO, 0)
    cache.keep("other", None, 0)
    # when
    for number in range(20):
        cache.keep(f"new{number}", None, 0)
        assert cache.get("used") is PRO
    # then
    assert cache.get("other") is UNKNOWN
    assert cache.get("new19") is None
    assert len(cache) <= 4


def test_dropped_record_is_unknown_and_told_if_it_was_held() -> None:
    # given
    cache = SubjectCache(max_records=4)
    for name in "abc":
        cache.keep(name, None, 0)
    # then one of the old generation, one of the young, one of none
    assert cache.drop(["a", "c", "x"]) == {"a", "c"}
    assert cache.get("a") is cache.get("c") is UNKNOWN
    assert cache.get("b") is None


def test_record_that_was_read_twice_is_dropped_whole() -> None:
    # given one that is in the old generation, and read again
    cache = SubjectCache(max_records=4)
    for name in "abc":
        cache.keep(name, None, 0)
    cache.keep("a", PRO, 0)
    # when
    cache.drop(["a"])
    # then
    assert cache.get("a") is UNKNOWN


def test_record_changes_when_a_part_expires() -> None:
    # given
    cache = SubjectCache(max_records=4)
    subject = Subject("pro", 50, (AmountOverride("a", 1, 20), AmountOverride("b", 2)))
    cache.keep("s", subject, 10)
    cache.keep("t", PRO, 10)
    # then
    assert cache.expire(19) == set()
    assert cache.get("s") is subject
    assert cache.expire(20) == {"s"}
    assert cache.get("s") == Subject("pro", 50, (AmountOverride("b", 2),))
    assert cache.expire(49) == set()
    assert cache.expire(50) == {"s"}
    assert cache.get("s") == Subject(overrides=(AmountOverride("b", 2),))
    assert cache.expire(10**18) == set()
    assert cache.get("t") is PRO


def test_record_that_has_expired_is_never_seen() -> None:
    # given
    cache = SubjectCache()
    # when
    cache.keep("s", Subject("pro", 5), 5)
    # then
    assert cache.get("s") == Subject()
    assert cache.expire(10**18) == set()


def test_times_of_dropped_records_do_not_pile_up() -> None:
    # given
    cache = SubjectCache(max_records=4)
    # when
    for number in range(1000):
        cache.keep(str(number), Subject("pro", 1000 + number), 0)
    # then
    assert len(cache) <= 4
    assert len(cache._changes_us) <= 8  # noqa: SLF001 - what must be bounded
    assert cache.expire(10**6) <= {str(number) for number in range(996, 1000)}
