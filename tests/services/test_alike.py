"""Which requests are told by their bytes alone, and that few of them are remembered."""

import pytest

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.services.alike import MAX_BODY, MAX_HEADS, MAX_KINDS, Alike
from tests.services.conftest import message_of


def body_of(*texts: str, hits: int = 0) -> bytes:
    return message_of(*texts, hits=hits).SerializeToString()


def learned(alike: Alike[str], body: bytes, at: int = 0, known: str = "known") -> bool:
    """Let it learn of a request, and tell whether it knows it."""
    alike.learn(body, rls_pb2.RateLimitRequest.FromString(body), at, known)
    return alike.find(body) is not None


def test_value_of_a_kind_is_found_without_reading_the_request() -> None:
    # given
    alike: Alike[str] = Alike()
    assert learned(alike, body_of("user=alice"))
    # then
    assert alike.find(body_of("user=carol")) == ("known", "carol")
    assert alike.find(body_of("user=éoé")) == ("known", "éoé")
    # then not of another key, another length, or what is no text
    assert alike.find(body_of("uset=carol")) is None
    assert alike.find(body_of("user=bob")) is None
    assert alike.find(body_of("user=alice").replace(b"alice", b"\xff\xfe\xfd\xfc\xfb")) is None


def test_value_in_the_middle_is_found_between_what_stays() -> None:
    # given
    alike: Alike[str] = Alike()
    assert learned(alike, body_of("user=alice,tier=pro"))
    # then
    assert alike.find(body_of("user=carol,tier=pro")) == ("known", "carol")
    assert alike.find(body_of("user=carol,tier=two")) is None


@pytest.mark.parametrize(
    "body",
    [
        body_of("user=alice", hits=2),
        body_of("user="),
        # Nothing that we would write: a cost of 0 that is told, a field that we do not know, twice
        # a domain.
        body_of("user=alice") + b"\x18\x00",
        body_of("user=alice") + b"\xf8\x7f\x01",
        body_of("user=alice") + b"\x0a\x03api",
    ],
)
def test_request_in_which_something_may_hide_is_read(body: bytes) -> None:
    assert not learned(Alike(), body)


def test_request_longer_by_what_stands_behind_it_is_read() -> None:
    # given two kinds whose heads are equally long, and whose sizes are not
    alike: Alike[str] = Alike()
    short, long = body_of("user=alice"), body_of("user=carola")
    assert learned(alike, short)
    assert learned(alike, long)
    # then the head of one is none for the size of the other
    assert alike.find(short + b"x") is None


def test_kind_is_due_once_at_its_second_sight() -> None:
    # given
    alike: Alike[str] = Alike()
    body = body_of("user=alice")
    # then
    assert [alike.is_due(body, "path") for _ in range(5)] == [False, True, False, False, False]
    # then a size is another kind, and so is a path
    assert not alike.is_due(body + b"x", "path")
    assert not alike.is_due(body, "other")
    # then a long one is never due
    long = body_of("user=" + "v" * MAX_BODY)
    assert not any(alike.is_due(long, "path") for _ in range(4))


def test_flood_of_kinds_is_remembered_within_bounds() -> None:
    # given
    alike: Alike[str] = Alike()
    # when
    most = 0
    for number in range(3 * MAX_KINDS):
        learned(alike, body_of(f"route={number:04d},user=alice"), 1)
        most = max(most, len(alike))
    # then, and the last is known
    assert most == MAX_KINDS
    assert alike.find(body_of(f"route={3 * MAX_KINDS - 1:04d},user=carol")) == ("known", "carol")


def test_few_heads_are_tried_for_requests_of_one_size() -> None:
    # given requests of one size whose values stand elsewhere in each
    alike: Alike[str] = Alike()
    # when
    known = [
        learned(alike, body_of(f"{'k' * (1 + number)}={'v' * (20 - number)}"))
        for number in range(2 * MAX_HEADS)
    ]
    # then
    assert known == [True] * MAX_HEADS + [False] * MAX_HEADS
