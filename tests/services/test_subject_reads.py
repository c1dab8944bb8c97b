"""Reads that wait for each other, on a source whose answers the test gives."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from ratelimitd.decisions.subject import Subject
from ratelimitd.errors import StoreError, StoreOverloaded, StoreUnavailable
from ratelimitd.services import subject_reads
from ratelimitd.services.subject_reads import SubjectReads
from ratelimitd.store.subjects import OnRecords

GONE = StoreUnavailable("away")


class ByHand:
    """Keeps what it was asked; the test answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], OnRecords]] = []
        self.kept: dict[str, Subject | None] = {}
        self.told: list[tuple[str, StoreError | None]] = []

    def send_get(self, fields: Sequence[str], done: OnRecords) -> None:
        self.asked.append((list(fields), done))

    def keep(self, field: str, subject: Subject | None) -> None:
        self.kept[field] = subject

    def answer(self, *found: Subject | None) -> None:
        """Answer the last question."""
        self.asked[-1][1](list(found))

    def teller(self, name: str) -> Callable[[StoreError | None], None]:
        return lambda error: self.told.append((name, error))


@pytest.fixture
def source() -> ByHand:
    return ByHand()


@pytest.fixture
async def reads(source: ByHand) -> SubjectReads:
    return SubjectReads(source, source.keep, timeout_s=60)


async def test_those_who_come_meanwhile_share_the_next_command(
    reads: SubjectReads, source: ByHand
) -> None:
    # given
    reads.want(["a"], source.teller("1"))
    reads.want(["a", "b"], source.teller("2"))
    reads.want(["c", "b"], source.teller("3"))
    assert [fields for fields, _ in source.asked] == [["a"]]
    # when
    source.answer(Subject("pro"))
    # then
    assert source.told == [("1", None)]
    assert [sorted(fields) for fields, _ in source.asked] == [["a"], ["b", "c"]]
    source.answer(None, None)
    assert source.told == [("1", None), ("2", None), ("3", None)]
    assert source.kept == {"a": Subject("pro"), "b": None, "c": None}


async def test_error_is_told_to_all_and_nothing_is_kept(
    reads: SubjectReads, source: ByHand
) -> None:
    # given
    reads.want(["a"], source.teller("1"))
    reads.want(["b"], source.teller("2"))
    # when
    source.asked[0][1](GONE)
    # then
    assert source.told == [("1", GONE), ("2", GONE)]
    assert source.kept == {}
    reads.want(["a"], source.teller("3"))
    assert len(source.asked) == 2


async def test_record_that_changed_while_it_was_read_is_read_again(
    reads: SubjectReads, source: ByHand
) -> None:
    # given
    reads.want(["a", "b"], source.teller("1"))
    order = source.asked[0][0]
    # when a changes after it was read and before the answer is here
    reads.forget(["a", "x"])
    source.answer(*(Subject("old") for _ in order))
    # then
    assert source.told == []
    assert source.kept == {"b": Subject("old")}
    assert source.asked[-1][0] == ["a"]
    source.answer(Subject("new"))
    assert source.told == [("1", None)]
    assert source.kept["a"] == Subject("new")


async def test_reset_lets_everything_be_read_again(reads: SubjectReads, source: ByHand) -> None:
    # given
    reads.want(["a"], source.teller("1"))
    # when
    reads.forget(None)
    source.answer(Subject("old"))
    source.answer(None)
    # then
    assert source.kept == {"a": None}
    assert source.told == [("1", None)]


async def test_silence_is_told_at_the_timeout(source: ByHand) -> None:
    # given
    reads = SubjectReads(source, source.keep, timeout_s=0.01)
    ended = asyncio.Event()

    def on_end(error: StoreError | None) -> None:
        source.told.append(("1", error))
        ended.set()

    reads.want(["a"], on_end)
    # when
    async with asyncio.timeout(5):
        await ended.wait()
    # then the answer that comes later is kept all the same
    ((_, error),) = source.told
    assert isinstance(error, StoreUnavailable)
    source.answer(Subject("pro"))
    assert source.kept == {"a": Subject("pro")}
    assert len(source.told) == 1


async def test_more_than_may_wait_are_turned_away(source: ByHand) -> None:
    # given
    reads = SubjectReads(source, source.keep, timeout_s=60, max_waiting=3)
    reads.want(["a", "b"], source.teller("1"))
    # when
    reads.want(["c", "d"], source.teller("2"))
    reads.want(["c"], source.teller("3"))
    # then
    ((name, error),) = source.told
    assert name == "2"
    assert isinstance(error, StoreOverloaded)
    source.answer(None, None)
    source.answer(None)
    assert [name for name, _ in source.told] == ["2", "1", "3"]
    for name in ("4", "5"):
        # An error makes room as an answer does.
        reads.want(["c", "d", "e"], source.teller(name))
        source.asked[-1][1](GONE)
    assert source.told[3:] == [("4", GONE), ("5", GONE)]


async def test_one_command_asks_for_no_more_than_it_may(
    reads: SubjectReads, source: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    monkeypatch.setattr(subject_reads, "MAX_FIELDS", 2)
    # when
    reads.want(["a", "b", "c"], source.teller("1"))
    source.answer(None, None)
    # then
    assert source.told == []
    assert [len(fields) for fields, _ in source.asked] == [2, 1]
    source.answer(None)
    assert source.told == [("1", None)]


async def test_caller_that_fails_does_not_keep_others_from_being_told(
    reads: SubjectReads, source: ByHand, caplog: pytest.LogCaptureFixture
) -> None:
    # given
    def fail(_: StoreError | None) -> None:
        raise ZeroDivisionError

    reads.want(["a"], fail)
    reads.want(["a"], source.teller("2"))
    # when
    source.answer(None)
    # then
    assert source.told == [("2", None)]
    assert "whoever waited for a subject failed" in caplog.text


async def test_caller_may_want_more_when_it_is_told(reads: SubjectReads, source: ByHand) -> None:
    # given
    reads.want(["a"], lambda _: reads.want(["b"], source.teller("2")))
    # when
    source.answer(None)
    source.answer(None)
    # then
    assert [fields for fields, _ in source.asked] == [["a"], ["b"]]
    assert source.told == [("2", None)]


async def test_close_tells_those_who_wait(reads: SubjectReads, source: ByHand) -> None:
    # given
    reads.want(["a"], source.teller("1"))
    # when
    reads.close()
    # then
    ((_, error),) = source.told
    assert isinstance(error, StoreUnavailable)
