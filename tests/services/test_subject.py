"""SubjectService without a transport: what it writes, refuses, shows and logs."""

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pytest
from google.protobuf.message import Message

from ratelimitd._proto.ratelimitd.subject.v1 import subject_pb2
from ratelimitd.decisions.subject import Subject
from ratelimitd.errors import (
    Conflict,
    InvalidRequest,
    NoRoom,
    NotFound,
    NotPermitted,
    StoreUnavailable,
)
from ratelimitd.services.block import BlockService
from ratelimitd.services.context import CallContext
from ratelimitd.services.registry_access import RegistryAccess
from ratelimitd.services.subject import SubjectService
from ratelimitd.store import subjects as registry_module
from ratelimitd.store.open import OpenStore
from ratelimitd.store.scripts import load_subject_scripts
from ratelimitd.store.subjects import Records, SubjectStore, Write
from tests.support.servers import Server
from tests.support.subject_service import (
    MANY_NAMES,
    START_S,
    Clock,
    access_of,
    opened_store,
    policy_of,
)

CONTEXT = CallContext(timeout_s=10, address="ipv4:127.0.0.1:4711")
SECRET = "topsecret"
PRO = subject_pb2.SetRequest(
    domain="api",
    entry=subject_pb2.Entry(key="api_key", value=SECRET),
    tier="pro",
    reason="bought it",
)
Amount = subject_pb2.Amount
Row = subject_pb2.ImportRequest.Row


@dataclass
class Running:
    """The two services, the store behind them, and the clock."""

    opened: OpenStore
    access: RegistryAccess
    clock: Clock
    subjects: SubjectService
    blocks: BlockService

    async def set(self, **changes: object) -> subject_pb2.SetResponse:
        """Set PRO, with other members."""
        return await self.subjects.set_(changed(PRO, **changes), CONTEXT)

    async def show(self) -> subject_pb2.Record:
        message = subject_pb2.ShowRequest(domain="api", entry=PRO.entry)
        return (await self.subjects.show(message, CONTEXT)).record

    async def import_(self, *rows: Row, **members: object) -> subject_pb2.ImportResponse:
        message = subject_pb2.ImportRequest(domain="api", rows=rows)
        return await self.subjects.import_(changed(message, **members), CONTEXT)


M = TypeVar("M", bound=Message)


def changed(message: M, **members: object) -> M:
    """Return `message` with other members; None leaves one out."""
    copy = type(message)()
    copy.CopyFrom(message)
    for name, value in members.items():
        copy.ClearField(name)
        if value is not None:
            copy.MergeFrom(type(message)(**{name: value}))
    return copy


def entry(value: str, key: str = "ip") -> subject_pb2.Entry:
    return subject_pb2.Entry(key=key, value=value)


@pytest.fixture
async def running(valkey9: Server, tmp_path: Path) -> AsyncIterator[Running]:
    valkey9.execute("FLUSHALL")
    clock = Clock()
    async with opened_store(valkey9, tmp_path) as opened:
        access = access_of(opened, policy_of(), clock)
        yield Running(opened, access, clock, SubjectService(access), BlockService(access))


async def test_what_is_not_said_stays(running: Running) -> None:
    # given
    await running.set(overrides=[Amount(limit="per-key", amount=7, for_seconds=60)])
    # when
    limits = [Amount(limit="*", amount=9), Amount(limit="per-user", amount=8)]
    await running.set(tier=None, overrides=limits, reason="more")
    await running.set(tier="free", removed_limits=["per-user", "none"], reason="less")
    # then
    record = await running.show()
    assert record.tier == "free"
    assert [(one.limit, one.amount, one.reason) for one in record.overrides] == [
        ("per-key", 7, "bought it"),
        ("*", 9, "more"),
    ]
    assert record.overrides[0].until.seconds == START_S + 60
    assert not record.overrides[1].HasField("until")
    assert record.reason == "less"
    assert record.version == 3


async def test_tier_that_ended_is_not_shown_and_not_kept(running: Running) -> None:
    # given
    await running.set(tier_for_seconds=60)
    assert (await running.show()).tier_until.seconds == START_S + 60
    # when
    running.clock.now_us += 60_000_000
    # then
    assert (await running.show()).tier == ""
    await running.set(tier=None, overrides=[Amount(limit="*", amount=1)])
    running.clock.now_us -= 60_000_000
    assert (await running.show()).tier == ""
    assert (await running.set(tier="", tier_for_seconds=60)).record.tier == ""


async def test_version_lets_only_one_of_two_writers_pass(running: Running) -> None:
    # given
    first = (await running.set(version=0)).record
    # then
    with pytest.raises(Conflict, match=r"its version is 1 now; look, and set it again"):
        await running.set(version=0)
    assert (await running.set(version=first.version)).record.version == 2
    with pytest.raises(Conflict, match=r"api_key=#.{8} was changed by somebody else"):
        await running.set(version=first.version)


async def test_change_that_somebody_else_came_before_is_made_on_theirs(
    running: Running,
) -> None:
    # given another operator who writes between our look and our write
    class Overtaken(SubjectStore):
        looks = 0

        async def get(self, fields: Sequence[str], *, timeout_s: float) -> Records:
            found = await super().get(fields, timeout_s=timeout_s)
            self.looks += 1
            if self.looks == 1:
                theirs = [Write(fields[0], Subject("free", reason="theirs"))]
                await self.write(theirs, timeout_s=timeout_s)
            return found

    registry = Overtaken(running.opened.client, load_subject_scripts())
    running.subjects = SubjectService(replace(running.access, registry=registry))
    # when
    answer = await running.set(tier=None, overrides=[Amount(limit="*", amount=1)])
    # then
    assert registry.looks == 2
    assert answer.record.tier == "free"
    assert answer.record.version == 2


async def test_record_that_cannot_be_read_is_replaced(running: Running, valkey9: Server) -> None:
    # given
    await running.set()
    keys = running.access.registry.keys
    (name,) = valkey9.client().hkeys(keys.records)
    valkey9.execute("HSET", keys.records, name, b'{"version":7,"tier":')
    with pytest.raises(NotFound):
        await running.show()
    # when
    answer = await running.set()
    # then
    assert answer.record.tier == "pro"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"domain": ""}, "domain: is empty"),
        ({"domain": "none"}, "domain: the policy has no `none`; it has `api`, `many`, `web`"),
        (
            {"domain": "web"},
            "domain `web`: its policy names no subjects; add `subjects: {key: api_key}`",
        ),
        (
            {"entry": entry("x", "user")},
            "entry.key: `user` is not the key of subjects in `api`: that is `api_key`",
        ),
        ({"entry": entry("x", "")}, "entry.key: is empty"),
        ({"entry": entry("", "api_key")}, "entry.value: is empty"),
        ({"entry": entry("x" * 16_385, "api_key")}, "entry.value: longer than 16384 bytes"),
        ({"reason": " "}, "reason: is empty; say why"),
        ({"reason": "x" * 257}, "reason: 257 characters, at most 256 are accepted"),
        ({"tier": "x" * 65}, "tier: 65 characters, at most 64 are accepted"),
        ({"tier": None, "tier_for_seconds": 5}, "tier_for_seconds: there is no tier beside it"),
        ({"tier_for_seconds": 2**60}, "tier_for_seconds: .* more than 100 years"),
        (
            {"overrides": [Amount(limit="per-kye", amount=1)]},
            r"overrides\[0\].limit: no limit of `api` is named `per-kye`: it has `per-key`, `per-u",
        ),
        ({"overrides": [Amount(amount=1)]}, r"overrides\[0\].limit: is empty"),
        ({"overrides": [Amount(limit="*", amount=2**53)]}, r"overrides\[0\].amount: .* more than"),
        ({"overrides": 2 * [Amount(limit="*")]}, r"overrides\[1\].limit: '\*' is there already"),
        ({"overrides": 33 * [Amount(limit="*")]}, "overrides: 33 sent, at most 32 allowed"),
    ],
)
async def test_wrong_set_says_what_is_right_and_changes_nothing(
    running: Running, members: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        await running.set(**members)
    assert (await running.access.registry.known(timeout_s=5)).version == 0


async def test_record_that_would_be_too_large_is_refused(running: Running) -> None:
    # given a domain of many limits, whose names are long
    amounts = [Amount(limit=name, amount=1) for name in MANY_NAMES]
    # then
    with pytest.raises(InvalidRequest, match=r"would have \d+ bytes, at most 4096"):
        await running.set(domain="many", overrides=amounts[:20], reason="r" * 100)
    await running.set(domain="many", overrides=amounts[:20], reason="r")
    with pytest.raises(InvalidRequest, match="would have 33 overrides, at most 32"):
        await running.set(domain="many", overrides=amounts[20:], reason="r")


async def test_unknown_tier_is_a_warning(running: Running) -> None:
    # when
    answer = await running.set(tier="gold")
    # then
    assert answer.record.tier == "gold"
    (warning,) = answer.warnings
    assert "no limit of `api` has a number for the tier `gold`" in warning
    assert "`free`, `pro`" in warning
    assert not (await running.set(tier="pro")).warnings


async def test_deleted_subject_is_not_found(running: Running) -> None:
    # given
    await running.set()
    message = subject_pb2.DeleteRequest(domain="api", entry=PRO.entry, reason="left")
    # when
    await running.subjects.delete(message, CONTEXT)
    # then
    with pytest.raises(NotFound, match=r"api_key=#.{8} has no record"):
        await running.show()
    with pytest.raises(NotFound):
        await running.subjects.delete(message, CONTEXT)


async def test_list_has_each_record_of_the_domain_once(running: Running) -> None:
    # given
    rows = [Row(value=f"key{number}", tier="pro", reason="r") for number in range(7)]
    await running.import_(*rows)
    # when
    message = subject_pb2.ListRequest(domain="api", page_size=3)
    found: list[str] = []
    sizes = []
    while True:
        answer = await running.subjects.list_(message, CONTEXT)
        sizes.append(len(answer.records))
        found += [record.entry for record in answer.records]
        message.page_token = answer.next_page_token
        if not message.page_token:
            break
    # then
    assert sizes == [3, 3, 1]
    assert len(set(found)) == 7
    # and a page of another domain, or none at all, is refused
    for token in ("!", "YQ==", "é"):
        with pytest.raises(InvalidRequest, match="page_token"):
            await running.subjects.list_(
                subject_pb2.ListRequest(domain="api", page_token=token), CONTEXT
            )
    with pytest.raises(InvalidRequest, match="page_size: 1001 is more than 1000"):
        await running.subjects.list_(subject_pb2.ListRequest(domain="api", page_size=1001), CONTEXT)


async def test_import_replaces_records(running: Running) -> None:
    # given
    await running.set(overrides=[Amount(limit="*", amount=1)])
    # when
    answer = await running.import_(
        Row(value=SECRET, tier="free", tier_for_seconds=60, reason="new"),
        Row(value="other", overrides=[Amount(limit="*", amount=0)], reason="abuse"),
    )
    # then
    record = await running.show()
    assert answer.written == 2
    assert (record.tier, record.tier_until.seconds, record.reason) == ("free", START_S + 60, "new")
    assert not record.overrides


async def test_import_with_wrong_rows_names_them_and_changes_nothing(running: Running) -> None:
    # given
    rows = [
        Row(value="a", tier="gold", reason="r"),
        Row(value="", reason="r"),
        Row(value="b"),
        Row(value="a", reason="r"),
        Row(value="c", reason="r", overrides=[Amount(limit="nope", amount=1)]),
    ]
    # when
    looked = await running.import_(*rows, validate_only=True)
    # then
    assert [(one.row, one.message.partition(":")[0]) for one in looked.problems] == [
        (1, "entry.value"),
        (2, "reason"),
        (3, "entry.value"),
        (4, "overrides"),
    ]
    assert len(looked.warnings) == 1
    with pytest.raises(InvalidRequest, match=r"rows\[1\].entry.value: is empty; .*; rows\[2\].re"):
        await running.import_(*rows)
    assert (await running.access.registry.known(timeout_s=5)).version == 0


async def test_import_is_bounded(running: Running) -> None:
    rows = [Row(value=f"key{number}", reason="r") for number in range(1001)]
    with pytest.raises(InvalidRequest, match="rows: 1001 sent; 1 to 1000 are accepted"):
        await running.import_(*rows)
    with pytest.raises(InvalidRequest, match="rows: 0 sent"):
        await running.import_()
    many = [Row(value="", reason="r")] * 30
    with pytest.raises(InvalidRequest, match="and 10 more"):
        await running.import_(*many)
    assert (await running.import_(*rows[:1000])).written == 1000
    with pytest.raises(InvalidRequest, match="is not the key of subjects"):
        await running.import_(rows[0], key="user")


async def test_full_registry_says_so(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    monkeypatch.setattr(registry_module, "MAX_SUBJECTS", 0)
    monkeypatch.setattr(registry_module, "MAX_BLOCKS", 0)
    # then
    with pytest.raises(NoRoom, match="the registry has 0 subjects"):
        await running.set()
    with pytest.raises(NoRoom, match="0 entries are blocked, at most"):
        await running.blocks.block(
            subject_pb2.BlockRequest(domain="api", entries=[entry("1")], reason="r"), CONTEXT
        )


async def test_blocks_are_listed_those_first_that_end_first(running: Running) -> None:
    # given
    for value, seconds in (("1", 0), ("2", 60), ("3", 30)):
        message = subject_pb2.BlockRequest(
            domain="web", entries=[entry(value)], for_seconds=seconds, reason="r"
        )
        await running.blocks.block(message, CONTEXT)
    both = [entry("9", "api_key"), entry("8"), entry("8")]
    made = await running.blocks.block(
        subject_pb2.BlockRequest(domain="api", entries=both, reason="abuse"), CONTEXT
    )
    # then
    assert len(made.blocks) == 2
    ask = subject_pb2.ListBlocksRequest(domain="web", page_size=2)
    first = await running.blocks.list_blocks(ask, CONTEXT)
    ask.page_token = first.next_page_token
    second = await running.blocks.list_blocks(ask, CONTEXT)
    assert [one.entry for one in first.blocks] == ["ip=3", "ip=2"]
    assert first.blocks[0].until.seconds == START_S + 30
    assert [one.entry for one in second.blocks] == ["ip=1"]
    assert not second.next_page_token
    # when one has ended, by the clock
    running.clock.now_us += 30_000_000
    ask.page_token = ""
    later = await running.blocks.list_blocks(ask, CONTEXT)
    assert [one.entry for one in later.blocks] == ["ip=2", "ip=1"]


async def test_unblocked_entry_is_not_blocked(running: Running) -> None:
    # given
    entries = [entry("1"), entry("2")]
    block = subject_pb2.BlockRequest(domain="web", entries=entries, reason="r")
    await running.blocks.block(block, CONTEXT)
    # when
    message = subject_pb2.UnblockRequest(domain="web", entries=[entry("1"), entry("3")])
    answer = await running.blocks.unblock(message, CONTEXT)
    # then
    assert answer.unblocked == 1
    with pytest.raises(NotFound, match="none of these entries is blocked"):
        await running.blocks.unblock(message, CONTEXT)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"domain": "none"}, "the policy has no `none`"),
        ({"entries": []}, "entries: 0 sent; 1 to 100 are accepted"),
        ({"entries": [entry(str(n)) for n in range(101)]}, "entries: 101 sent"),
        ({"entries": [entry("x", "")]}, r"entries\[0\].key: is empty"),
        ({"reason": ""}, "reason: is empty"),
        ({"for_seconds": 2**40}, "for_seconds: .* more than 100 years"),
    ],
)
async def test_wrong_block_says_what_is_right(
    running: Running, members: dict[str, object], message: str
) -> None:
    good: dict[str, object] = {"domain": "api", "entries": [entry("1")], "reason": "r"}
    request = subject_pb2.BlockRequest(**(good | members))  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=message):
        await running.blocks.block(request, CONTEXT)
    with pytest.raises(InvalidRequest, match="page_token"):
        await running.blocks.list_blocks(
            subject_pb2.ListBlocksRequest(domain="api", page_token="x"), CONTEXT
        )


async def test_each_change_leaves_a_line_without_the_secret(
    running: Running, caplog: pytest.LogCaptureFixture, valkey9: Server
) -> None:
    # given
    keyed = [subject_pb2.Entry(key="api_key", value=SECRET)]
    # when
    with caplog.at_level(logging.INFO, "ratelimitd.audit"):
        await running.set(overrides=[Amount(limit="*", amount=0)])
        await running.import_(Row(value=SECRET, tier="free", reason="moved"))
        block = subject_pb2.BlockRequest(domain="api", entries=keyed, reason="abuse")
        blocked = await running.blocks.block(block, CONTEXT)
        await running.blocks.unblock(
            subject_pb2.UnblockRequest(domain="api", entries=keyed, reason="fine"), CONTEXT
        )
        await running.subjects.delete(
            subject_pb2.DeleteRequest(domain="api", entry=PRO.entry, reason="left"), CONTEXT
        )
        await running.set()
        await running.blocks.block(block, CONTEXT)
    # then
    lines = [(one.getMessage(), one.fields) for one in caplog.records]  # type: ignore[attr-defined]
    assert [line for line, _ in lines] == [
        "subject set",
        "subject imported",
        "blocked",
        "unblocked",
        "subject deleted",
        "subject set",
        "blocked",
    ]
    shown = (await running.show()).entry
    assert blocked.blocks[0].entry == shown
    assert lines[0][1] == {
        "peer": "ipv4:127.0.0.1:4711",
        "domain": "api",
        "entry": shown,
        "tier": "pro",
        "overrides": "*=0",
        "reason": "bought it",
    }
    assert {values["entry"] for _, values in lines} == {shown}
    assert SECRET not in str(lines)
    # and nothing of it is in the store
    client = valkey9.client()
    dump = "".join(str(client.dump(key)) for key in client.scan_iter())
    assert SECRET not in dump
    assert "bought it" in str(client.hgetall(running.access.registry.keys.records))


async def test_nobody_is_answered_on_a_port_that_others_reach(running: Running) -> None:
    # given
    access = replace(running.access, is_private=False)
    # then
    with pytest.raises(NotPermitted, match="on a loopback address or a unix socket only"):
        await SubjectService(access).set_(PRO, CONTEXT)
    with pytest.raises(NotPermitted):
        await SubjectService(access).list_(subject_pb2.ListRequest(domain="api"), CONTEXT)
    with pytest.raises(NotPermitted):
        await BlockService(access).list_blocks(subject_pb2.ListBlocksRequest(domain="api"), CONTEXT)


async def test_nothing_is_written_before_the_hash_secret_is_known(running: Running) -> None:
    # given
    running.opened.hash_secret.is_known = False
    # then
    with pytest.raises(StoreUnavailable, match="not usable since the start"):
        await running.set()
