"""What a case is: bytes to send on stream 1, and what each server makes of them."""

from typing import NamedTuple

from tests.differential.wire import CALL, Fields, call, changed
from tests.support.grpc_client import rate_limit_request

GOOD = rate_limit_request("api", "open=x").SerializeToString()
OK = "OK: OK"


class Expected(NamedTuple):
    """What each server says, up to a `*`; `row` is where docs/data-planes.md explains it."""

    grpcio: str
    h2: str
    row: str = ""


class Case(NamedTuple):
    """One request."""

    name: str
    sent: bytes
    expected: Expected


def same(outcome: str) -> Expected:
    """Both say `outcome`."""
    return Expected(outcome, outcome)


def head(name: str, expected: Expected, **changes: bytes | None) -> Case:
    """A good call with another head."""
    return Case(name, call(1, GOOD, changed(CALL, **changes)), expected)


def fields(name: str, expected: Expected, *sent: tuple[bytes, bytes]) -> Case:
    """A good call with more fields."""
    more: Fields = (*CALL, *sent)
    return Case(name, call(1, GOOD, more), expected)


def says(outcome: str, wanted: str) -> bool:
    """Tell whether an outcome is as wanted, or one of those that ` | ` stands between."""
    return any(
        outcome.startswith(each[:-1]) if each.endswith("*") else outcome == each
        for each in wanted.split(" | ")
    )
