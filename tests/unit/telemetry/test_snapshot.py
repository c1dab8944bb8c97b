"""Counters of several processes: written, read back, added, and never counted twice."""

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.decisions.verdict import RuleOutcome
from ratelimitd.telemetry import mapped, snapshot
from ratelimitd.telemetry.counters import (
    BreakerState,
    LogSeries,
    PolicySeries,
    StoreSeries,
    Telemetry,
    WorkerSeries,
)
from ratelimitd.telemetry.exposition import BuildInfo, Exposition
from ratelimitd.telemetry.mapped import MappedFile, read_mapped
from ratelimitd.telemetry.processes import (
    CONTROL,
    MAX_FOLDED,
    EndedWorkers,
    Publisher,
    Pulse,
    read_all,
    worker_file,
)
from ratelimitd.telemetry.series import RuleSeries
from ratelimitd.telemetry.snapshot import Snapshot, add, fold, from_bytes, to_bytes
from tests.unit.telemetry.samples import count, parse, policy, value, verdict


def busy_telemetry(hits: int = 1) -> Telemetry:
    """Return counters of which none is zero."""
    telemetry = Telemetry()
    telemetry.policy_loaded(policy("ip", "user"), now_s=1_700_000_000.0)
    telemetry.policy_load_failed()
    for _ in range(hits):
        telemetry.observe_verdict(
            verdict(
                count("ip", RuleOutcome.REFUSED, over=2, near=3, within=4, shadow=5, refunded=6),
                count("user", cached=1),
            )
        )
    telemetry.observe_call("ShouldRateLimit", "OK", 0.004)
    telemetry.observe_store_call(0.003, 5, 4, "reply_lost")
    telemetry.set_breaker(BreakerState.OPEN)
    telemetry.set_queue_depth(7)
    telemetry.late_answer(2)
    telemetry.unreadable_state(3)
    telemetry.give_backs(2, 1)
    telemetry.store_info(used_memory_bytes=1, max_memory_bytes=2, evicted_keys=3, keys=4)
    telemetry.domain_not_found = 8
    telemetry.global_shadow = 9
    telemetry.rules.overflowed = 10
    telemetry.worker_restarts = 11
    telemetry.unmatched = {"api": 12}
    telemetry.refused_callers = {"domain": 13}
    telemetry.transport = {"closed": {"lost": 5}}
    for number, name in enumerate(LogSeries.__slots__, start=13):
        setattr(telemetry.logs, name, number)
    worker = telemetry.workers[1] = WorkerSeries()
    for number, name in enumerate(WorkerSeries.__slots__, start=20):
        setattr(worker, name, number)
    return telemetry


def scrape(telemetry: Telemetry) -> bytes:
    """Return the families of ours as text, without those of the process."""
    text = Exposition(telemetry, BuildInfo("1")).render()[0].decode()
    return "".join(
        line for line in text.splitlines(keepends=True) if not line.startswith("process_")
    ).encode()


def test_snapshot_carries_everything_that_a_scrape_shows() -> None:
    telemetry = busy_telemetry()

    back = from_bytes(to_bytes(Snapshot(telemetry, frozenset({3}))))

    assert scrape(back.telemetry) == scrape(telemetry)
    assert back.folded == {3}


def test_snapshot_knows_every_field_that_is_counted() -> None:
    # A new field belongs into the lists of snapshot.py, or it is lost with several workers.
    rule = {"domain", "name", "rule", "outcomes", *snapshot.RULE_COUNTS}
    store = {"breaker", "errors", *snapshot.STORE_HISTOGRAMS, *snapshot.STORE_COUNTS}
    whole = {"rules", "unmatched", "methods", "store", "policy", "logs", "workers", "transport"}
    whole |= {"refused_callers"}

    assert set(RuleSeries.__slots__) == rule
    assert set(StoreSeries.__slots__) == store | set(snapshot.STORE_INFO)
    assert set(PolicySeries.__slots__) == set(snapshot.POLICY_VALUES)
    assert set(LogSeries.__slots__) == set(snapshot.LOG_COUNTS)
    assert vars(Telemetry()).keys() == whole | set(snapshot.TOTALS)


def test_sum_of_processes_adds_counters_and_keeps_the_controls_view() -> None:
    total, part = busy_telemetry(1), busy_telemetry(2)
    part.workers = {2: part.workers[1]}
    part.policy.successes = 99

    add(total, part)

    shown = parse(scrape(total))
    outcome = {"domain": "api", "rule": "ip", "outcome": "refused"}
    assert value(shown, "ratelimitd_decisions_total", **outcome) == 3
    assert value(shown, "ratelimitd_near_limit_total", domain="api", rule="ip") == 3
    assert value(shown, "ratelimitd_refunded_hits_total", domain="api", rule="ip") == 18
    assert value(shown, "ratelimitd_call_seconds_count", method="ShouldRateLimit") == 2
    assert value(shown, "ratelimitd_store_seconds_sum") == 0.006
    assert value(shown, "ratelimitd_store_errors_total", kind="reply_lost") == 2
    assert value(shown, "ratelimitd_store_queued_checks") == 14
    assert value(shown, "ratelimitd_unmatched_total", domain="api") == 24
    assert value(shown, "ratelimitd_deny_cache_hits_total") == 3
    assert value(shown, "ratelimitd_worker_restarts_total") == 22
    assert value(shown, "ratelimitd_h2_connections_closed_total", reason="lost") == 10
    assert value(shown, "ratelimitd_callers_refused_total", reason="domain") == 26
    assert value(shown, "ratelimitd_log_lines_dropped_total", reason="queue_full") == 26
    assert value(shown, "ratelimitd_worker_queue_depth", worker="1") == value(
        shown, "ratelimitd_worker_queue_depth", worker="2"
    )
    assert value(shown, "ratelimitd_policy_loads_total", result="success") == 1
    assert value(shown, "ratelimitd_store_keys") == 4


def test_breaker_is_open_if_that_of_any_process_is() -> None:
    total, part = Telemetry(), Telemetry()
    part.set_breaker(BreakerState.OPEN)

    add(total, part)

    assert total.store.breaker is BreakerState.OPEN


def test_gauges_end_with_their_process() -> None:
    total = Telemetry()

    fold(total, busy_telemetry())

    assert total.workers == {}
    assert total.store.queued_checks == 0
    assert total.store.breaker is BreakerState.CLOSED
    assert total.store.breaker_opened == 1


def test_scrape_counts_each_worker_once_while_it_ends(tmp_path: Path) -> None:
    # given a control process and two workers
    Publisher(tmp_path / CONTROL, Telemetry()).close()
    for number in (1, 2):
        Publisher(tmp_path / worker_file(number), busy_telemetry()).close()
    ended = EndedWorkers(tmp_path)
    left = (tmp_path / worker_file(1)).read_bytes()

    def refused() -> int:
        return read_all(tmp_path).rules.rows["api", "ip"].outcomes["refused"]

    assert refused() == 2

    # when one ends, a scrape sees the same before its file is gone and after
    ended.fold(1)
    assert refused() == 2
    (tmp_path / worker_file(1)).write_bytes(left)
    assert refused() == 2

    # then also when the same has happened many times
    (tmp_path / worker_file(1)).unlink()
    for number in range(3, 3 + MAX_FOLDED):
        Publisher(tmp_path / worker_file(number), busy_telemetry()).close()
        ended.fold(number)
    assert refused() == 2 + MAX_FOLDED


def test_worker_that_left_no_file_is_folded_without_one(tmp_path: Path) -> None:
    EndedWorkers(tmp_path).fold(5)

    assert scrape(read_all(tmp_path)) == scrape(Telemetry())


def test_publisher_writes_what_was_counted_since(tmp_path: Path) -> None:
    telemetry = Telemetry()
    publisher = Publisher(tmp_path / worker_file(1), telemetry)
    telemetry.global_shadow = 5

    assert read_all(tmp_path).global_shadow == 0
    publisher.publish()
    assert read_all(tmp_path).global_shadow == 5
    telemetry.global_shadow = 6
    publisher.close()
    assert read_all(tmp_path).global_shadow == 6


def test_pulse_tells_the_share_of_a_core_since_the_last_beat() -> None:
    telemetry = Telemetry()
    clock = {"now": 10.0, "cpu": 1.0}
    pulse = Pulse(telemetry, 2, lambda: clock["now"], lambda: clock["cpu"])

    clock |= {"now": 12.0, "cpu": 1.5}
    pulse.beat(queue_depth=3)
    assert telemetry.workers[2].utilization_ratio == 0.25
    clock |= {"now": 13.0, "cpu": 9.0}
    pulse.beat(queue_depth=4)

    series = telemetry.workers[2]
    assert series.utilization_ratio == 1.0
    assert (series.cpu_seconds, series.queue_depth) == (9.0, 4)
    assert series.resident_bytes > 1_000_000


@given(st.lists(st.binary(max_size=200_000), min_size=1, max_size=6))
def test_mapped_file_shows_the_last_write(tmp_path_factory: object, writes: list[bytes]) -> None:
    assert isinstance(tmp_path_factory, pytest.TempPathFactory)
    path = tmp_path_factory.mktemp("mapped") / "file"
    file = MappedFile(path)

    assert read_mapped(path) is None
    for data in writes:
        file.write(data)
        assert read_mapped(path) == data
    file.close()
    assert read_mapped(path) == writes[-1]


@given(st.data())
def test_mapped_file_never_shows_a_torn_write(
    tmp_path_factory: object, data: st.DataObject
) -> None:
    # given two writes, and a third of which any part has happened
    assert isinstance(tmp_path_factory, pytest.TempPathFactory)
    path = tmp_path_factory.mktemp("torn") / "file"
    file = MappedFile(path)
    file.write(b"a" * 1000)
    file.write(b"b" * 900)
    before = bytearray(path.read_bytes())
    file.write(b"c" * 950)
    after = path.read_bytes()
    file.close()
    changed = [at for at in range(len(after)) if before[at] != after[at]]

    # when a reader comes
    part = data.draw(st.integers(0, len(changed)))
    done = data.draw(st.sampled_from([changed[:part], changed[part:], changed[::2]]))
    for at in done:
        before[at] = after[at]
    path.write_bytes(before)

    # then it sees the one or the other
    is_whole = len(done) == len(changed)
    assert read_mapped(path) == (b"c" * 950 if is_whole else b"b" * 900)


def test_mapped_file_is_whole_under_a_busy_writer(tmp_path: Path) -> None:
    file = MappedFile(tmp_path / "file")
    file.write(bytes([0]) * 5000)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number = (number + 1) % 256
            file.write(bytes([number]) * 5000)

    thread = threading.Thread(target=write)
    thread.start()
    seen: set[bytes | None] = set()
    try:
        for _ in range(20_000):
            seen.add(read_mapped(tmp_path / "file"))
            if len(seen) > 20:
                break
    finally:
        stop.set()
        thread.join()
        file.close()

    assert all(data is None or len(set(data)) == 1 for data in seen)
    assert len(seen) > 2


@pytest.mark.parametrize("content", [b"", b"x" * 500, mapped.MAGIC, mapped.MAGIC + b"\0" * 200])
def test_mapped_file_that_is_none_of_ours_has_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)

    assert read_mapped(tmp_path / "file") is None
