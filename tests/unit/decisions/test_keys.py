from collections import Counter

from hypothesis import assume, given
from hypothesis import strategies as st

from ratelimitd.decisions.keys import (
    MAX_BODY_BYTES,
    PARTITION_TAGS,
    SLOTS,
    KeyPart,
    PartKind,
    counter_key,
    fingerprint,
    partition_of,
    slot_of,
)
from ratelimitd.policy.model import WINDOW_US, Algorithm, Unit

texts = st.one_of(
    st.text(alphabet=st.sampled_from("ab_|=~#%!:{}é \n\x00"), max_size=6),
    st.sampled_from(["a" * 100, "a" * 99 + "1:b", "%" * 100]),
)
parts = st.builds(
    KeyPart,
    key=texts,
    kind=st.sampled_from([PartKind.VALUE, PartKind.PATTERN, PartKind.SECRET]),
    text=texts,
)
windows = st.sampled_from([WINDOW_US[Unit.MINUTE], WINDOW_US[Unit.HOUR]])
identities = st.fixed_dictionaries(
    {
        "prefix": texts,
        "domain": texts,
        "algorithm": st.just(Algorithm.FIXED_WINDOW),
        "window_us": windows,
        "parts": st.lists(parts, max_size=4),
    }
)


@given(identities, identities)
def test_different_counters_never_share_a_key(one: dict, other: dict) -> None:  # type: ignore[type-arg]
    assume(one != other)
    assert counter_key(**one) != counter_key(**other)


def test_joined_names_that_collide_upstream_do_not_here() -> None:
    # given
    def key(*entries: tuple[str, str]) -> bytes:
        return counter_key(
            prefix="",
            domain="d",
            algorithm=Algorithm.FIXED_WINDOW,
            window_us=60_000_000,
            parts=[KeyPart(name, PartKind.VALUE, value) for name, value in entries],
        )

    # then
    assert key(("a", "1_b_2")) != key(("a", "1"), ("b", "2"))
    assert key(("a_1", "2")) != key(("a", "1_2"))


def test_key_is_readable_and_names_its_partition() -> None:
    # when
    key = counter_key(
        prefix="",
        domain="api",
        algorithm=Algorithm.FIXED_WINDOW,
        window_us=60_000_000,
        parts=[KeyPart("path", PartKind.VALUE, "/export all")],
    )
    # then
    assert key.startswith(b"rl:1:{")
    assert key.endswith(b"}f60:api|path=/export%20all")
    assert partition_of(key).decode() in PARTITION_TAGS


@given(st.integers(0, 300))
def test_key_length_is_bounded_whatever_the_values(length: int) -> None:
    # when
    key = counter_key(
        prefix="",
        domain="api",
        algorithm=Algorithm.FIXED_WINDOW,
        window_us=60_000_000,
        parts=[KeyPart("k", PartKind.VALUE, "é" * length)],
    )
    # then
    assert len(key) <= MAX_BODY_BYTES + len(b"rl:1:{00}")


def test_partitions_lie_evenly_over_a_clusters_slots() -> None:
    # when
    ranges = Counter(slot_of(tag.encode()) * len(PARTITION_TAGS) // SLOTS for tag in PARTITION_TAGS)
    # then
    assert len(PARTITION_TAGS) == 64
    assert ranges == dict.fromkeys(range(64), 1)


def test_fingerprint_depends_on_secret_and_value() -> None:
    # when
    prints = {fingerprint(secret, value) for secret in (b"a", b"b") for value in ("x", "y")}
    # then
    assert len(prints) == 4
    assert all(len(one) == 32 for one in prints)
