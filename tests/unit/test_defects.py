import logging

import pytest

from ratelimitd.defects import LINES_PER_SECOND, DefectLog


def test_defects_beyond_some_per_second_are_counted_in_the_next_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # given
    now_s = 7.0
    defects = DefectLog(logging.getLogger("tests.defects"), now=lambda: now_s)
    # when
    for number in range(LINES_PER_SECOND + 3):
        defects.record(ValueError("no"), "call %d failed", number)
    now_s = 8.0
    defects.record(ValueError("again"), "call failed")
    # then
    assert len(caplog.records) == LINES_PER_SECOND + 1
    assert caplog.records[0].getMessage() == "call 0 failed"
    assert caplog.records[-1].getMessage() == "call failed (3 more before were not logged)"
    assert all(record.exc_info for record in caplog.records)


def test_defects_that_are_rare_are_all_logged(caplog: pytest.LogCaptureFixture) -> None:
    # given
    times = iter(range(100))
    defects = DefectLog(logging.getLogger("tests.defects"), now=lambda: float(next(times)))
    # when
    for _ in range(3 * LINES_PER_SECOND):
        defects.record(ValueError("no"), "failed")
    # then
    assert [record.getMessage() for record in caplog.records] == ["failed"] * 3 * LINES_PER_SECOND
    assert defects.suppressed == 0
