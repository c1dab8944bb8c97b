from hypothesis import example, given
from hypothesis import strategies as st

from bench.load.histogram import MAX_NS, Histogram, bucket_of, from_json, merged, upper_ns

values = st.lists(st.integers(0, MAX_NS), min_size=1, max_size=200)
shares = st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999, 1.0])


def histogram_of(numbers: list[int]) -> Histogram:
    histogram = Histogram()
    for number in numbers:
        histogram.record(number)
    return histogram


@given(numbers=values, share=shares)
@example(numbers=list(range(1, 101)), share=0.99)
def test_percentile_is_that_of_the_sorted_list(numbers: list[int], share: float) -> None:
    # The rank is counted in thousandths, so that nothing is rounded here.
    rank = max(1, -(-round(share * 1000) * len(numbers) // 1000))
    exact = sorted(numbers)[rank - 1]
    assert exact <= histogram_of(numbers).percentile_ns(share) <= exact * (1 + 1 / 64)


@given(number=st.integers(0, MAX_NS))
@example(number=127)
@example(number=128)
@example(number=MAX_NS)
def test_buckets_follow_each_other_without_gaps(number: int) -> None:
    bucket = bucket_of(number)
    assert number <= upper_ns(bucket)
    assert bucket == 0 or upper_ns(bucket - 1) < number


def test_values_out_of_range_are_counted_at_its_ends() -> None:
    histogram = histogram_of([-5, MAX_NS * 2])
    assert histogram.total() == 2
    assert histogram.percentile_ns(0.5) == 0


def test_percentile_of_nothing_is_zero() -> None:
    assert Histogram().percentile_ns(0.99) == 0


def test_largest_value_is_exact() -> None:
    assert histogram_of([1, 1_000_003]).percentile_ns(1.0) == 1_000_003


@given(left=values, right=values)
def test_merged_histograms_are_the_histogram_of_all(left: list[int], right: list[int]) -> None:
    assert merged([histogram_of(left), histogram_of(right)]) == histogram_of(left + right)


@given(numbers=values)
def test_histogram_survives_json(numbers: list[int]) -> None:
    assert from_json(histogram_of(numbers).to_json()) == histogram_of(numbers)
