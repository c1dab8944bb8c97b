import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.policy.model import Limit, Unit
from ratelimitd.telemetry.counters import LogSeries
from ratelimitd.telemetry.refusals import LINES_PER_SECOND, MAX_RULES, RefusalLog, trace_id
from tests.unit.telemetry.samples import POSITION, limit

TRACE = "0af7651916cd43dd8448eb211c80319c"


def refuse(log: RefusalLog, now_s: float, rule: str = "ip") -> None:
    log.refused(
        limit(rule), fingerprint=lambda: "1a2b3c4d", trace_id="", revision="00ff", now_s=now_s
    )


class _Kept(logging.Handler):
    """Keeps what was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def kept() -> Iterator[list[logging.LogRecord]]:
    logger = logging.getLogger("ratelimitd.refusals")
    level, handler = logger.level, _Kept()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield handler.records
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    with kept() as records:
        yield records


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    values = record.__dict__["fields"]
    assert isinstance(values, dict)
    return values


def test_refusal_names_what_refused_whom(lines: list[logging.LogRecord]) -> None:
    per_minute = Limit(
        domain="api", rule="api.ip", position=POSITION, unit=Unit.MINUTE, requests_per_unit=5
    )

    RefusalLog(LogSeries()).refused(
        per_minute, fingerprint=lambda: "1a2b3c4d", trace_id=TRACE, revision="00ff", now_s=0.0
    )

    assert [fields_of(line) for line in lines] == [
        {
            "domain": "api",
            "rule": "api.ip",
            "limit": "5 per minute",
            "value": "1a2b3c4d",
            "policy": "00ff",
            "trace_id": TRACE,
        }
    ]


def test_refusals_of_a_rule_are_ten_a_second_and_the_rest_is_counted(
    lines: list[logging.LogRecord],
) -> None:
    counts = LogSeries()
    log = RefusalLog(counts)

    for _ in range(100):
        refuse(log, 5.0)
    refuse(log, 5.999)
    refuse(log, 6.0)
    refuse(log, 6.1)

    assert len(lines) == LINES_PER_SECOND + 2
    assert fields_of(lines[-2])["suppressed"] == 91
    assert "suppressed" not in fields_of(lines[-1])
    assert "suppressed" not in fields_of(lines[0])
    assert counts.suppressed_refusals == 91


def test_rules_do_not_take_lines_from_each_other(lines: list[logging.LogRecord]) -> None:
    log = RefusalLog(LogSeries())

    for _ in range(20):
        refuse(log, 5.0, "ip")
        refuse(log, 5.0, "user")

    assert len(lines) == 2 * LINES_PER_SECOND


def test_more_rules_than_the_table_holds_share_their_lines(
    lines: list[logging.LogRecord],
) -> None:
    counts = LogSeries()
    log = RefusalLog(counts)

    for number in range(MAX_RULES + 50):
        refuse(log, 5.0, f"rule{number}")

    assert len(lines) == MAX_RULES + LINES_PER_SECOND
    assert counts.suppressed_refusals == 50 - LINES_PER_SECOND


def test_quiet_rules_make_room_in_the_table(lines: list[logging.LogRecord]) -> None:
    log = RefusalLog(LogSeries())
    for number in range(MAX_RULES):
        refuse(log, 5.0, f"rule{number}")

    for _ in range(LINES_PER_SECOND):
        refuse(log, 6.5, "new")
        refuse(log, 6.5, "newer")

    assert len(lines) == MAX_RULES + 2 * LINES_PER_SECOND


@given(st.lists(st.floats(0, 0.5), max_size=120))
def test_no_second_ever_has_more_than_ten_lines(steps: list[float]) -> None:
    written: list[float] = []
    counts = LogSeries()
    log = RefusalLog(counts)
    now_s = 0.0
    with kept() as records:
        for step in steps:
            now_s += step
            refuse(log, now_s)
            written += [now_s] * (len(records) - len(written))

    assert len(written) + counts.suppressed_refusals == len(steps)
    for start in written:
        assert sum(0 <= time_s - start < 1 for time_s in written) <= LINES_PER_SECOND


def test_refusals_below_the_level_cost_no_entry(lines: list[logging.LogRecord]) -> None:
    logging.getLogger("ratelimitd.refusals").setLevel(logging.WARNING)
    counts = LogSeries()

    for _ in range(100):
        refuse(RefusalLog(counts), 5.0)

    assert not lines
    assert counts.suppressed_refusals == 0


@pytest.mark.parametrize(
    ("traceparent", "expected"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-01", TRACE),
        (f"cc-{TRACE}-b7ad6b7169203331-01-later-version", TRACE),
        ("", ""),
        (f"ff-{TRACE}-b7ad6b7169203331-01", ""),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", ""),
        (f"00-{TRACE.upper()}-b7ad6b7169203331-01", ""),
        (f"00-{TRACE}-b7ad6b7169203331-01\n", ""),
        (TRACE, ""),
        ("x" * 10_000, ""),
    ],
)
def test_trace_id_is_read_from_a_valid_traceparent_only(traceparent: str, expected: str) -> None:
    assert trace_id(traceparent) == expected
