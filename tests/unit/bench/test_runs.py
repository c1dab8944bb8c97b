from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from bench.load.spec import (
    Body,
    Draw,
    LoadSpec,
    StoreSpec,
    merged,
    result_from_json,
    spec_from_json,
    spec_to_json,
)
from bench.ratios import make_ratios
from bench.runs import Run, best, median, peak
from tests.unit.bench.results import bare_of, result_of, run_of


def test_run_divides_cpu_by_the_calls_that_were_answered() -> None:
    run = run_of("a", server_us=12, store_us=3, result=result_of(40_000))
    assert run.server_us == pytest.approx(12)
    assert run.store_us == pytest.approx(3)
    assert run.decisions_per_s == 40_000


def test_best_closed_run_is_the_cheapest() -> None:
    runs = [
        run_of("a", 1, server_us=12),
        run_of("a", 2, server_us=10),
        run_of("a", 3, server_us=11),
    ]
    assert best(runs).number == 2


def test_best_open_run_has_the_lowest_p99() -> None:
    runs = [
        run_of("a", number, rate=100, result=result_of(latency_ms=latency_ms))
        for number, latency_ms in ((1, 5.0), (2, 4.0), (3, 6.0))
    ]
    assert best(runs).number == 2


def test_run_with_errors_is_best_only_among_such() -> None:
    bad = run_of("a", 1, server_us=1, result=result_of(errors={"no answer": 1}))
    assert best([bad, run_of("a", 2)]).number == 2
    assert best([bad]).number == 1


def test_busiest_part_is_what_limits_a_run() -> None:
    result = result_of(80_000, cpu_s=0.9)
    assert run_of("a", server_us=12, store_us=1, result=result).limited_by() == "server"
    assert run_of("a", server_us=5, store_us=1, result=result).limited_by() == "load"
    shared = replace(
        run_of("a", server_us=5, store_us=6, result=replace(result, client_cpu_s=0.4)),
        cores=(frozenset({0}), frozenset({1}), frozenset({1})),
    )
    assert shared.limited_by() == "store + load"
    idle = replace(result, client_cpu_s=0.1)
    assert run_of("a", server_us=5, store_us=1, result=idle).limited_by() == "-"


def test_median_and_peak() -> None:
    assert median([5, 1, 3]) == 3
    assert median([4, 1, 3, 2]) == 2
    assert peak([run_of("a", result=result_of(10)), run_of("a", result=result_of(30))]) == 30


def runs_of(**server_us: float) -> Mapping[str, Sequence[Run]]:
    return {name: [run_of(name, server_us=value)] for name, value in server_us.items()}


def test_ratios_compare_cases_and_know_their_bounds() -> None:
    # When
    runs = runs_of(fixed_window=14, descriptors_3=28, workers_2=15.4, grpcio=280)
    ratios = {ratio.text: ratio for ratio in make_ratios(runs, {})}

    # Then
    figures = list(ratios.values())
    assert [ratio.value for ratio in figures] == pytest.approx([14, 19, 20, 2, 1.1])
    assert [ratio.holds for ratio in figures] == [True, True, True, False, True]


def test_ratios_of_latency_take_the_median_of_all_runs() -> None:
    runs = [run_of("open_50", result=result_of(latency_ms=ms), rate=1) for ms in (1, 9, 2, 8, 3)]
    p99, p999 = make_ratios({"open_50": runs}, {})
    assert p99.value == pytest.approx(3, rel=0.02)
    assert p99.holds
    assert p999.bound == 20


def test_ratio_of_one_in_flight_is_against_the_bare_store() -> None:
    runs = {"in_flight_1": [run_of("in_flight_1", result=result_of(latency_ms=0.4))]}
    (ratio,) = make_ratios(runs, {"bare_one": [bare_of("bare_one", 0.1)]})
    assert ratio.value == pytest.approx(4, rel=0.03)
    assert not ratio.holds


def test_ratio_of_memory_is_per_connection() -> None:
    runs = {"fleet_50": [run_of("fleet_50", rate=1, connection_bytes=10 * 1024)]}
    assert [ratio.value for ratio in make_ratios(runs, {})][-1] == 10


def test_specs_survive_json() -> None:
    load = LoadSpec(
        address="127.0.0.1:1",
        seconds=1.5,
        seed=3,
        weights=(1, 5),
        body=Body.DENIED,
        draw=Draw.UNIFORM,
    )
    store = StoreSpec(socket="/s", seconds=1, seed=1, batch=2, pipelined=3, keys=4)
    assert spec_from_json(spec_to_json(load)) == load
    assert spec_from_json(spec_to_json(store)) == store


def test_results_survive_json_and_add_up() -> None:
    one = result_of(10, latency_ms=1, errors={"GOAWAY": 1})
    other = result_of(20, latency_ms=9, errors={"GOAWAY": 2, "not sent": 5})
    both = merged([result_from_json(one.to_json()), result_from_json(other.to_json())])
    assert both.answered == 30
    assert both.errors == {"GOAWAY": 3, "not sent": 5}
    assert both.latency.total() == 2
    assert both.latency.max_ns == 9_000_000
