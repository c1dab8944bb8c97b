"""The same bytes to both data planes: the same answer, or a reason in docs/data-planes.md."""

from collections import Counter

import pytest

from tests.differential.bodies import BODIES
from tests.differential.case import GOOD, OK, Case, says
from tests.differential.conftest import Planes
from tests.differential.documented import documented_rows
from tests.differential.heads import HEADS
from tests.differential.wire import Wire, call, data, headers, message
from tests.support.data_plane import PLANES

CASES = [*HEADS, *BODIES]
MANY = 1100
OVER_LIMIT = {
    "grpcio": {OK: MANY},
    "h2": {OK: 1024, "RST_STREAM REFUSED_STREAM": MANY - 1024},
}
OVER_LIMIT_ROW = "More than 1,024 calls in flight on a connection, by who ignores SETTINGS"


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_request_is_answered_alike_or_the_difference_is_documented(
    planes: Planes, case: Case
) -> None:
    expected = case.expected
    assert expected.grpcio == expected.h2 or expected.row in documented_rows()
    for plane, wanted in (("grpcio", expected.grpcio), ("h2", expected.h2)):
        with Wire(planes[plane].grpc_port) as wire:
            wire.send(case.sent)
            outcome = wire.outcome(1, GOOD)
        assert says(outcome, wanted), f"{plane}: {outcome}"

        # What came does no harm to others.
        with Wire(planes[plane].grpc_port) as wire:
            wire.send(call(1, GOOD))
            assert wire.outcome(1, GOOD) == OK


@pytest.mark.parametrize("plane", PLANES)
def test_streams_over_the_limit_are_refused_and_the_others_served(
    planes: Planes, plane: str
) -> None:
    ids = range(1, 2 * MANY, 2)
    with Wire(planes[plane].grpc_port) as wire:
        # given a client that ignores the server's settings
        wire.send(b"".join(headers(each) for each in ids))
        wire.send(b"".join(data(each, message(GOOD)) for each in ids))

        told = Counter(wire.outcomes(ids))

        assert told == OVER_LIMIT[plane]
        wire.send(call(2 * MANY + 1, GOOD))
        assert wire.outcome(2 * MANY + 1, GOOD) == OK


def test_cases_have_names_of_their_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
