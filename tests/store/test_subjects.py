"""The registry on every kind of store."""

import json
import logging
import re
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from ratelimitd.decisions.keys import slot_of
from ratelimitd.decisions.subject import AmountOverride, Block, Subject
from ratelimitd.errors import StoreReplyLost
from ratelimitd.store import subjects as registry_module
from ratelimitd.store.scripts import lua_directory
from ratelimitd.store.subject_record import from_block, from_record, to_record
from ratelimitd.store.subject_replies import NEVER_ASKED, Known, Status
from ratelimitd.store.subjects import SubjectStore, Write, keys_of
from tests.support.registry import KINDS, T, flush, name_of, opened_registry, run_at_home
from tests.support.servers import Cluster, MakeServer, Server

PRO = Subject("pro", 90, (AmountOverride("per-key", 500, 80, "deal"), AmountOverride("*", 7)), "é")
A, B = name_of("a"), name_of("b")


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> Server | Cluster:
    found: Server | Cluster = request.getfixturevalue(request.param)
    flush(found)
    return found


@pytest.fixture
async def registry(store: Server | Cluster) -> AsyncIterator[SubjectStore]:
    async with opened_registry(store) as opened:
        yield opened


async def write(registry: SubjectStore, *values: str, tier: str = "pro") -> None:
    writes = [Write(name_of(value), Subject(tier)) for value in values]
    assert (await registry.write(writes, timeout_s=T)).status is Status.OK


async def test_record_is_read_as_it_was_written(registry: SubjectStore) -> None:
    # when
    written = await registry.write([Write(A, PRO), Write(B, Subject())], timeout_s=T)
    found = await registry.get([B, A, name_of("c")], timeout_s=T)
    # then
    assert (written.status, written.version, written.count) == (Status.OK, 2, 2)
    assert found == [Subject(version=2), replace(PRO, version=1), None]


async def test_write_over_another_version_changes_nothing(registry: SubjectStore) -> None:
    # given
    await write(registry, "a")
    # when
    late = [Write(B, PRO, 0), Write(A, PRO, 0)]
    refused = await registry.write(late, timeout_s=T)
    found = await registry.get([A, B], timeout_s=T)
    again = await registry.write([Write(B, PRO, 0), Write(A, PRO, 1)], timeout_s=T)
    # then
    assert (refused.status, refused.count, refused.version) == (Status.CONFLICT, 1, 1)
    assert found == [Subject("pro", version=1), None]
    assert again.status is Status.OK


async def test_deleted_record_is_gone_and_a_second_time_changes_nothing(
    registry: SubjectStore,
) -> None:
    # given
    await write(registry, "a")
    # when
    first = await registry.write([Write(A, None)], timeout_s=T)
    second = await registry.write([Write(A, None)], timeout_s=T)
    # then
    assert (first.count, first.version) == (1, 2)
    assert (second.count, second.version) == (0, 2)
    assert await registry.get([A], timeout_s=T) == [None]
    assert (await registry.page("api", "", 10, timeout_s=T)).records == ()


async def test_changes_are_those_since_a_version(registry: SubjectStore) -> None:
    # given
    await write(registry, "a", "b")
    known = (await registry.changes(timeout_s=T)).known
    # when
    await write(registry, "b", tier="free")
    await registry.write([Write(A, None)], timeout_s=T)
    changes = await registry.changes(known, timeout_s=T)
    # then
    assert changes.fields == [B, A]
    assert (changes.is_reset, changes.has_more, changes.blocks) == (False, False, None)
    assert changes.known == await registry.known(timeout_s=T)
    assert (await registry.changes(changes.known, timeout_s=T)).fields == []


async def test_changes_come_in_steps(
    registry: SubjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    await write(registry, "x")
    known = (await registry.changes(timeout_s=T)).known
    await write(registry, *"abcde")
    monkeypatch.setattr(registry_module, "MAX_FIELDS", 2)
    # when
    found: list[str] = []
    steps = 0
    has_more = True
    while has_more:
        changes = await registry.changes(known, timeout_s=T)
        known, has_more = changes.known, changes.has_more
        found += changes.fields
        steps += 1
    # then
    assert found == [name_of(value) for value in "abcde"]
    assert steps == 3


async def test_who_missed_more_than_is_listed_begins_anew(
    registry: SubjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    monkeypatch.setattr(registry_module, "MAX_CHANGES", 3)
    await write(registry, "a")
    first = (await registry.changes(timeout_s=T)).known
    await write(registry, "b")
    second = (await registry.changes(first, timeout_s=T)).known
    # when
    await write(registry, "c", "d", "e")
    # then
    assert (await registry.changes(first, timeout_s=T)).is_reset
    assert (await registry.changes(second, timeout_s=T)).fields == [
        name_of(value) for value in "cde"
    ]


async def test_changes_that_are_listed_are_bounded(
    store: Server | Cluster, registry: SubjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    monkeypatch.setattr(registry_module, "MAX_CHANGES", 3)
    # when
    for value in "abcdefg":
        await write(registry, value)
        await registry.write([Write(name_of(value), None)], timeout_s=T)
    # then also of what was deleted
    assert run_at_home(store, registry, "ZCARD", registry.keys.changes) == 3


async def test_versions_stay_exact_as_long_as_integers_are(
    store: Server | Cluster, registry: SubjectStore
) -> None:
    # given a registry near the end of them
    near = b"9007199254740001"
    run_at_home(store, registry, "HSET", registry.keys.meta, b"epoch", b"e", b"version", near)
    # when
    await write(registry, "a", "b")
    changes = await registry.changes(Known("e", int(near) + 1, 0), timeout_s=T)
    # then
    assert await registry.get([A], timeout_s=T) == [Subject("pro", version=int(near) + 1)]
    assert (changes.known.version, changes.fields) == (int(near) + 2, [B])


async def test_change_of_nothing_leaves_a_registry_as_it_never_was(
    registry: SubjectStore,
) -> None:
    # when
    await registry.write([Write(A, None)], timeout_s=T)
    await registry.unblock([A], timeout_s=T)
    # then
    assert await registry.known(timeout_s=T) == NEVER_ASKED


async def test_flushed_store_is_another_life(
    store: Server | Cluster, registry: SubjectStore
) -> None:
    # given
    await write(registry, "a", "b")
    await registry.block([Block("api", A)], timeout_s=T)
    known = (await registry.changes(timeout_s=T)).known
    # when
    flush(store)
    empty = await registry.changes(known, timeout_s=T)
    await write(registry, "a", "b", "c", "d")
    ahead = await registry.changes(known, timeout_s=T)
    # then
    assert (empty.is_reset, empty.known, empty.blocks) == (True, NEVER_ASKED, [])
    assert ahead.known.version > known.version
    assert ahead.is_reset


async def test_older_state_of_the_same_life_is_a_reset(registry: SubjectStore) -> None:
    # given what a server that lost its last seconds looks like
    await write(registry, "a")
    known = await registry.known(timeout_s=T)
    # when
    changes = await registry.changes(Known(known.epoch, known.version + 1, 0), timeout_s=T)
    # then
    assert changes.is_reset


async def test_block_is_told_until_it_is_ended(registry: SubjectStore) -> None:
    # given
    known = (await registry.changes(timeout_s=T)).known
    lasting, short = Block("api", A, None, "abuse"), Block("web", name_of("b", domain="web"), 2**52)
    # when
    await registry.block([lasting, short], timeout_s=T)
    changes = await registry.changes(known, timeout_s=T)
    ended = await registry.unblock([A, B], timeout_s=T)
    later = await registry.changes(changes.known, timeout_s=T)
    # then
    assert changes.blocks is not None
    assert sorted(changes.blocks, key=lambda one: one.entry) == [lasting, short]
    assert (ended.status, ended.count) == (Status.OK, 1)
    assert later.blocks == [short]
    assert await registry.blocks(timeout_s=T) == [short]


async def test_expired_blocks_leave_with_the_next_write(
    store: Server | Cluster, registry: SubjectStore
) -> None:
    # given one that ended long ago by the store's clock, and one that was made longer
    await registry.block([Block("api", A, 1_000)], timeout_s=T)
    await registry.block([Block("api", B, 1_000)], timeout_s=T)
    assert [one.entry for one in await registry.blocks(timeout_s=T)] == [B]
    # when
    await registry.block([Block("api", B, None)], timeout_s=T)
    await registry.block([Block("api", A)], timeout_s=T)
    # then
    found = {one.entry: one.until_us for one in await registry.blocks(timeout_s=T)}
    assert found == {A: None, B: None}
    assert run_at_home(store, registry, "ZCARD", registry.keys.ends) == 0


async def test_block_that_has_expired_is_none_any_more(
    registry: SubjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given one that has expired and one that has not
    monkeypatch.setattr(registry_module, "MAX_BLOCKS", 2)
    await registry.block([Block("api", A, 1_000), Block("api", B)], timeout_s=T)
    # then it is one more where it is made again
    full = await registry.block([Block("api", A), Block("api", name_of("c"))], timeout_s=T)
    assert (full.status, full.count) == (Status.FULL, 1)
    # and there is nothing to end
    assert (await registry.unblock([A], timeout_s=T)).count == 0
    assert [one.entry for one in await registry.blocks(timeout_s=T)] == [B]


async def test_end_of_a_block_goes_with_it(store: Server | Cluster, registry: SubjectStore) -> None:
    # given
    await registry.block([Block("api", A, 2**52), Block("api", B, 2**52)], timeout_s=T)
    # when one is made to last, and one is ended
    await registry.block([Block("api", A)], timeout_s=T)
    await registry.unblock([B], timeout_s=T)
    # then
    assert run_at_home(store, registry, "ZCARD", registry.keys.ends) == 0


async def test_no_more_blocks_than_there_may_be(
    registry: SubjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    monkeypatch.setattr(registry_module, "MAX_BLOCKS", 2)
    blocks = [Block("api", name_of(value), 1_000 if value == "a" else None) for value in "abcd"]
    assert (await registry.block(blocks[:2], timeout_s=T)).status is Status.OK
    # when the first has expired
    third = await registry.block([blocks[2]], timeout_s=T)
    fourth = await registry.block([blocks[3]], timeout_s=T)
    replaced = await registry.block([blocks[2]], timeout_s=T)
    # then
    assert (third.status, replaced.status) == (Status.OK, Status.OK)
    assert (fourth.status, fourth.count) == (Status.FULL, 2)
    assert len(await registry.blocks(timeout_s=T)) == 2


async def test_no_more_subjects_than_there_may_be(
    registry: SubjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    monkeypatch.setattr(registry_module, "MAX_SUBJECTS", 2)
    await write(registry, "a", "b")
    # when
    full = await registry.write([Write(A, PRO), Write(name_of("c"), PRO)], timeout_s=T)
    # then
    assert (full.status, full.count) == (Status.FULL, 2)
    assert await registry.get([A], timeout_s=T) == [Subject("pro", version=1)]
    await write(registry, "a")


async def test_pages_have_each_record_of_the_domain_once(registry: SubjectStore) -> None:
    # given
    await write(registry, *"edcba")
    for domain in ("ap", "api2", "apj"):
        other = Write(name_of("a", domain=domain), PRO)
        await registry.write([other], timeout_s=T)
    # when
    found: list[str] = []
    after, pages = "", 0
    while after or not pages:
        page = await registry.page("api", after, 2, timeout_s=T)
        found += [name for name, _ in page.records]
        after, pages = page.next, pages + 1
    # then
    assert found == [name_of(value) for value in "abcde"]
    assert pages == 3


async def test_registry_has_no_time_to_live_and_one_slot(
    store: Server | Cluster, registry: SubjectStore
) -> None:
    # given everything that the registry writes
    await write(registry, "a")
    await registry.block([Block("api", A, 2**52)], timeout_s=T)
    keys = registry.keys
    named = (keys.records, keys.index, keys.changes, keys.meta, keys.blocks, keys.ends)
    # then an operator's word holds until it is taken back: evicted last, never expired
    assert [run_at_home(store, registry, "PTTL", key) for key in named] == [-1] * 6
    tags = {re.search(rb"{(..)}", key)[1] for key in (*named, keys.channel)}  # type: ignore[index]
    assert {slot_of(tag) for tag in tags} == {slot_of(b"10")}


async def test_record_that_cannot_be_read_is_absent_and_told_once(
    store: Server | Cluster, registry: SubjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    # given
    await write(registry, "a", "b")
    await registry.block([Block("api", A), Block("api", B)], timeout_s=T)
    for key in (registry.keys.records, registry.keys.blocks):
        run_at_home(store, registry, "HSET", key, A, b"{oops")
    # when
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            found = await registry.get([A, B], timeout_s=T)
            blocks = await registry.blocks(timeout_s=T)
    # then
    assert found == [None, Subject("pro", version=2)]
    assert [one.entry for one in blocks] == [B]
    assert [record.getMessage().partition(" cannot")[0] for record in caplog.records] == [
        "the store's record of the subject user=a",
        "the store's record of the block user=a",
    ]
    # and it can be written again
    assert (await registry.write([Write(A, PRO, 0)], timeout_s=T)).status is Status.OK


async def test_change_that_may_not_be_published_is_made_all_the_same(
    make_server: MakeServer,
) -> None:
    # given
    server = make_server("valkey9")
    server.execute("ACL", "SETUSER", "default", "-publish")
    async with opened_registry(server) as registry:
        # when
        await write(registry, "a")
        blocked = await registry.block([Block("api", A)], timeout_s=T)
        # then
        assert blocked.status is Status.OK
        assert await registry.get([A], timeout_s=T) == [Subject("pro", version=1)]


async def test_key_of_another_type_is_an_error_that_changes_nothing(
    store: Server | Cluster, registry: SubjectStore
) -> None:
    # given
    run_at_home(store, registry, "SET", registry.keys.meta, "oops")
    # then
    with pytest.raises(StoreReplyLost):
        await registry.known(timeout_s=T)
    with pytest.raises(StoreReplyLost):
        await registry.changes(timeout_s=T)


async def test_daemons_with_another_prefix_have_a_registry_of_their_own(
    store: Server | Cluster, registry: SubjectStore
) -> None:
    async with opened_registry(store, prefix="b|") as other:
        # when
        await write(registry, "a")
        # then
        assert await other.get([A], timeout_s=T) == [None]
        assert await other.known(timeout_s=T) == NEVER_ASKED
        assert other.keys.channel != registry.keys.channel
    assert len({keys_of("a"), keys_of("a!subjects"), keys_of()}) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"tier": 5},
        {"tier_until_us": "soon"},
        {"tier_until_us": -1},
        {"overrides": {}},
        {"overrides": ["a"]},
        {"overrides": [{"limit": "", "amount": 1}]},
        {"overrides": [{"limit": "a"}]},
        {"overrides": [{"limit": "a", "amount": 2**53}]},
        {"overrides": [{"limit": "a", "amount": True}]},
        {"reason": None},
        {"version": None},
        {"version": 1.5},
    ],
)
def test_record_with_a_wrong_member_cannot_be_read(change: dict[str, object]) -> None:
    # given
    good = json.loads(b'{"version":3,' + to_record(PRO))
    assert from_record(json.dumps(good | {"newer": [1]}).encode()) == replace(PRO, version=3)
    # then
    assert from_record(json.dumps(good | change).encode()) is None


@pytest.mark.parametrize("text", [b"", b"\xff", b"[]", b"null", b"[" * 100_000])
def test_text_that_is_no_record_cannot_be_read(text: bytes) -> None:
    assert from_record(text) is None
    assert from_block(A.encode(), text) is None
    assert from_block(b"nonsense", b"{}") is None
    assert from_block(b"\xff|a=b", b"{}") is None
    assert from_block(A.encode(), b'{"until_us":"x"}') is None


def test_statuses_mean_the_same_in_lua_and_python() -> None:
    # given
    text = (lua_directory() / "lib" / "registry.lua").read_text()
    # when
    found = re.search(r"registry\.status = {(.*)}", text)
    # then
    assert found is not None
    assert found[1] == ", ".join(f"{one.name} = {one.value}" for one in Status)
