from bench.load.histogram import Histogram
from bench.load.spec import LoadResult
from bench.soak import KEYS, Sample, Soak

MIB = 2**20
GOOD = LoadResult(
    answered=1, over_limit=0, seconds=1, client_cpu_s=1, latency=Histogram(), lag=Histogram()
)


def soak_of(*mebibytes: tuple[float, float], pids: tuple[int, int] = (7, 8)) -> Soak:
    return Soak(
        [
            Sample(30.0 * index, dict(zip(pids, (int(size * MIB) for size in sizes), strict=True)))
            for index, sizes in enumerate(mebibytes)
        ]
    )


def test_soak_is_good_when_memory_is_flat_after_the_first_quarter() -> None:
    soak = soak_of((40, 41), (50, 51), (52, 52), (52, 51), (52, 52), (52, 53), (52, 52), (52, 52))

    assert soak.growth_bytes() == MIB // 2
    assert soak.faults(GOOD, KEYS) == []


def test_soak_finds_the_worker_that_grows() -> None:
    soak = soak_of(*((50.0, 40.0 + index) for index in range(8)))

    assert soak.growth_bytes() == 4 * MIB
    assert soak.faults(GOOD, KEYS) == ["a worker grew by 4.00 MiB after the first quarter"]


def test_soak_finds_a_worker_that_is_large_or_gone() -> None:
    large = soak_of(*[(50, 61)] * 8)
    assert large.faults(GOOD, KEYS) == ["a worker has 61.0 MiB"]
    replaced = soak_of(*[(50, 50)] * 8)
    replaced.samples += soak_of((50, 50), pids=(7, 9)).samples
    assert replaced.faults(GOOD, KEYS) == ["a worker ended and was replaced"]


def test_soak_finds_calls_that_failed_and_keys_that_were_not_asked_for() -> None:
    failed = LoadResult(
        answered=1,
        over_limit=0,
        seconds=1,
        client_cpu_s=1,
        latency=Histogram(),
        lag=Histogram(),
        errors={"status 14": 2},
        first_error="away",
    )
    assert soak_of(*[(50, 50)] * 8).faults(failed, 999) == [
        "calls failed: {'status 14': 2} away",
        "only 999 keys were asked for; make --minutes or --rate larger",
    ]


def test_soak_needs_a_sample_for_each_quarter() -> None:
    assert "too few samples" in soak_of(*[(50, 50)] * 3).faults(GOOD, KEYS)[0]
