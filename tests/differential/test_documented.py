"""docs/data-planes.md explains the differences that the tests here know, and no others."""

from tests.differential.documented import documented_rows
from tests.differential.test_grpcio import CALLS
from tests.differential.test_wire import CASES, OVER_LIMIT_ROW


def test_page_has_the_differences_and_no_others() -> None:
    expected = [*(each.expected for each in CASES), *(each.expected for each in CALLS)]

    assert {each.row for each in expected if each.row} | {OVER_LIMIT_ROW} == documented_rows()
    assert all(bool(each.row) == (each.grpcio != each.h2) for each in expected)
