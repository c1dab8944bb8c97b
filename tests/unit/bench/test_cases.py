import itertools

import pytest

from bench.cases import BARE, CASES, GRPCIO, MAIN, ServerSpec, select
from bench.clients import split
from bench.daemons import Abilities, read_help
from bench.h2load import read_output
from bench.load.spec import LoadSpec
from bench.pins import Pins, plan_pins

SPEC = LoadSpec(address="127.0.0.1:1", seconds=1, seed=2, connections=8, in_flight=64, rate=900)


def test_cases_have_names_of_their_own() -> None:
    names = [case.name for case in [*CASES]] + [case.name for case in BARE]
    assert len(names) == len(set(names))


def test_cases_come_after_the_case_whose_peak_they_use() -> None:
    names = [case.name for case in CASES]
    for case in CASES:
        assert not case.peak_of or names.index(case.peak_of) < names.index(case.name)


def test_cases_of_one_daemon_stand_together() -> None:
    # Each change is a daemon that is started anew.
    servers = [case.server for case in CASES]
    changes = sum(one != other for one, other in itertools.pairwise(servers))
    assert changes == len(set(servers)) - 1


def test_select_takes_names_and_patterns() -> None:
    bare, cases = select(f"{MAIN}, descriptors_*,bare_one")
    assert [case.name for case in bare] == ["bare_one"]
    assert [case.name for case in cases] == [MAIN, "descriptors_3", "descriptors_10"]
    assert select("") == (list(BARE), list(CASES))


def test_select_names_what_there_is() -> None:
    with pytest.raises(SystemExit, match=f"no such case.*{MAIN}"):
        select("nothing_like_it")


@pytest.mark.parametrize("processes", [1, 2, 3, 8, 20])
def test_split_load_adds_up(processes: int) -> None:
    specs = split(SPEC, processes)
    assert len(specs) == min(processes, 8)
    assert sum(spec.connections for spec in specs) == 8
    assert sum(spec.in_flight for spec in specs) == 64
    assert sum(spec.rate for spec in specs) == pytest.approx(900)
    assert len({spec.seed for spec in specs}) == len(specs)


def cores(*numbers: int) -> frozenset[int]:
    return frozenset(numbers)


@pytest.mark.parametrize(
    ("count", "workers", "nodes", "pins"),
    [
        (1, 1, 1, Pins()),
        (2, 1, 1, Pins(cores(0), cores(1), cores(1))),
        (2, 2, 1, Pins()),
        (3, 1, 1, Pins(cores(0), cores(1), cores(2))),
        (3, 2, 1, Pins()),
        (4, 2, 1, Pins(cores(0, 1), cores(2), cores(3))),
        (8, 1, 3, Pins(cores(0), cores(1, 2, 3), cores(4, 5, 6, 7))),
    ],
)
def test_pins_set_the_parts_apart(count: int, workers: int, nodes: int, pins: Pins) -> None:
    assert plan_pins(range(count), workers=workers, nodes=nodes) == pins


def test_pins_say_where_everything_runs() -> None:
    assert Pins().to_text() == "not pinned, too few cores to set the parts apart"
    apart = Pins(cores(0), cores(1), cores(2, 3))
    assert apart.to_text() == "server on core 0, store on 1, load on 2, 3"
    assert plan_pins([0, 1], workers=1).to_text() == "server on core 0, store and load on 1"


def test_abilities_are_what_the_help_says() -> None:
    now = "│ --workers   N   Processes that answer; 1 for now. │"
    then = "│ --workers   N   Processes that answer. │\n│ --data-plane  h2|grpcio │"
    assert read_help(now) == Abilities(has_data_plane=False, has_workers=False)
    assert read_help(then) == Abilities(has_data_plane=True, has_workers=True)


def test_missing_abilities_skip_a_server() -> None:
    nothing = Abilities(has_data_plane=False, has_workers=False)
    everything = Abilities(has_data_plane=True, has_workers=True)
    for server in (ServerSpec(data_plane=GRPCIO), ServerSpec(workers=2)):
        assert nothing.missing_for(server).startswith("skipped: no --")
        assert everything.missing_for(server) == ""
    assert nothing.missing_for(ServerSpec()) == ""


def test_h2load_output_is_read() -> None:
    text = """
finished in 2.00s, 1500.50 req/s, 80.10KB/s
requests: 3001 total, 3065 started, 3001 done, 2999 succeeded, 1 failed, 1 errored, 0 timeout
"""
    result = read_output(text)
    assert (result.answered, result.seconds) == (3001, 2.0)
    assert result.errors == {"h2load failed": 2}


def test_h2load_output_of_another_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="something else"):
        read_output("could not connect")
