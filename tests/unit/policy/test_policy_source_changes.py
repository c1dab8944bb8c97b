import asyncio
import errno
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest
import watchfiles

from ratelimitd.errors import ConfigError
from ratelimitd.policy_source import DirectorySource
from tests.unit.policy.files import mount, swap, write

NEVER_S = 600.0
"""A poll interval that no test lives to see: what is found came from an event."""

DEADLINE_S = 20.0


async def next_read(source: DirectorySource, change: Callable[[], object]) -> dict[str, bytes]:
    """Make a change while the source is watched; return what is read when it is told."""
    stop = asyncio.Event()
    async with asyncio.timeout(DEADLINE_S), aclosing(source.changes(stop)) as changes:
        told = asyncio.ensure_future(anext(changes))
        await asyncio.to_thread(change)
        await told
    return source.read()


async def test_changes_tells_of_a_new_an_edited_and_a_removed_file(tmp_path: Path) -> None:
    write(tmp_path / "a", "1")
    source = DirectorySource(tmp_path, poll_interval_s=NEVER_S)
    source.read()

    assert await next_read(source, lambda: write(tmp_path / "b", "2")) == {"a": b"1", "b": b"2"}
    assert await next_read(source, lambda: write(tmp_path / "a", "3")) == {"a": b"3", "b": b"2"}
    assert await next_read(source, (tmp_path / "a").unlink) == {"b": b"2"}


async def test_changes_tells_of_a_file_in_a_new_directory(tmp_path: Path) -> None:
    write(tmp_path / "a", "1")
    source = DirectorySource(tmp_path, poll_interval_s=NEVER_S)
    source.read()

    found = await next_read(source, lambda: write(tmp_path / "deep" / "er" / "b", "2"))

    assert found == {"a": b"1", "deep/er/b": b"2"}


async def test_changes_tells_of_the_first_file_and_of_no_file_any_more(tmp_path: Path) -> None:
    source = DirectorySource(tmp_path, poll_interval_s=NEVER_S)
    with pytest.raises(ConfigError, match="has no policy files"):
        source.read()

    assert await next_read(source, lambda: write(tmp_path / "a", "1")) == {"a": b"1"}
    with pytest.raises(ConfigError, match="has no policy files"):
        await next_read(source, (tmp_path / "a").unlink)


async def test_changes_tells_again_of_what_was_taken_and_not_settled(tmp_path: Path) -> None:
    write(tmp_path / "a", "1")
    source = DirectorySource(tmp_path, poll_interval_s=NEVER_S)
    reading = source.take()
    assert await next_read(source, lambda: None) == {"a": b"1"}

    source.unsettle()
    assert await next_read(source, lambda: None) == {"a": b"1"}

    # what was read before a change does not hide the change
    write(tmp_path / "a", "22")
    source.settle(reading)
    assert await next_read(source, lambda: None) == {"a": b"22"}


async def test_changes_tells_of_a_swapped_mount(tmp_path: Path) -> None:
    mount(tmp_path)
    source = DirectorySource(tmp_path, poll_interval_s=NEVER_S)
    source.read()
    write(tmp_path / "..2026_01_02" / "api.yaml", "two")

    found = await next_read(source, lambda: swap(tmp_path / "..data", "..2026_01_02"))

    assert found == {"api.yaml": b"two"}


async def test_changes_tells_of_a_swapped_root(tmp_path: Path) -> None:
    write(tmp_path / "v1" / "config" / "a", "1")
    write(tmp_path / "v2" / "config" / "a", "2")
    (tmp_path / "current").symlink_to("v1")
    source = DirectorySource(tmp_path / "current" / "config", poll_interval_s=NEVER_S)
    source.read()

    found = await next_read(source, lambda: swap(tmp_path / "current", "v2"))

    assert found == {"a": b"2"}


async def test_changes_tells_of_an_edit_behind_a_link(tmp_path: Path) -> None:
    write(tmp_path / "far" / "a", "1")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a").symlink_to("../far/a")
    source = DirectorySource(tmp_path / "root", poll_interval_s=NEVER_S)
    source.read()

    assert await next_read(source, lambda: write(tmp_path / "far" / "a", "22")) == {"a": b"22"}


async def test_changes_polls_for_a_root_that_appears(tmp_path: Path) -> None:
    # given a root that nothing can watch
    root = tmp_path / "missing" / "root"
    source = DirectorySource(root, poll_interval_s=0.05)
    with pytest.raises(ConfigError):
        source.read()

    assert await next_read(source, lambda: write(root / "a", "1")) == {"a": b"1"}


async def test_changes_tells_at_once_of_what_changed_before(tmp_path: Path) -> None:
    write(tmp_path / "a", "1")
    source = DirectorySource(tmp_path, poll_interval_s=NEVER_S)
    source.read()
    write(tmp_path / "a", "22")

    assert await next_read(source, lambda: None) == {"a": b"22"}


async def test_changes_tells_of_a_root_that_went_away(tmp_path: Path) -> None:
    write(tmp_path / "root" / "a", "1")
    source = DirectorySource(tmp_path / "root", poll_interval_s=NEVER_S)
    source.read()

    with pytest.raises(ConfigError, match="does not exist"):
        await next_read(source, lambda: (tmp_path / "root").rename(tmp_path / "gone"))


@pytest.mark.parametrize(
    ("root", "change"),
    [
        ("mount", lambda root: write(root / "mount" / "new", "2")),
        ("mount", lambda root: swap(root / "mount" / "..data", "..2026_01_02")),
        ("current/config", lambda root: swap(root / "current", "v2")),
        ("linked", lambda root: write(root / "v1" / "config" / "a", "3")),
        ("v1/config/a", lambda root: write(root / "v1" / "config" / "a", "3")),
        ("v1", lambda root: write(root / "v1" / "config" / "b", "3")),
    ],
    ids=["new file", "swapped mount", "swapped root", "behind a link", "one file", "below"],
)
async def test_changes_are_woken_by_the_event(
    tmp_path: Path, root: str, change: Callable[[Path], None]
) -> None:
    # given watches in place
    mount(tmp_path / "mount")
    write(tmp_path / "mount" / "..2026_01_02" / "api.yaml", "two")
    write(tmp_path / "v1" / "config" / "a", "1")
    write(tmp_path / "v2" / "config" / "a", "2")
    (tmp_path / "current").symlink_to("v1")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "a").symlink_to("../v1/config/a")
    source = DirectorySource(tmp_path / root, poll_interval_s=NEVER_S)

    async with source._watching(asyncio.Event()) as woken:  # noqa: SLF001 - before any comparison
        # when
        change(tmp_path)

        # then
        await asyncio.wait_for(woken, DEADLINE_S)


async def test_changes_polls_when_watches_run_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_paths: Path, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "no watches left")

    monkeypatch.setattr(watchfiles, "awatch", refuse)
    write(tmp_path / "a", "1")
    source = DirectorySource(tmp_path, poll_interval_s=0.05)
    source.read()

    assert await next_read(source, lambda: write(tmp_path / "a", "22")) == {"a": b"22"}


@pytest.mark.parametrize("has_root", [True, False])
async def test_changes_ends_when_stopped(tmp_path: Path, has_root: bool) -> None:
    source = DirectorySource(tmp_path if has_root else tmp_path / "x", poll_interval_s=NEVER_S)
    source._read_signature = source._signature()  # noqa: SLF001 - as read() leaves it
    stop = asyncio.Event()

    async def watch() -> int:
        return len([change async for change in source.changes(stop)])

    task = asyncio.create_task(watch())
    await asyncio.sleep(0)
    stop.set()

    async with asyncio.timeout(DEADLINE_S):
        assert await task == 0


async def test_changes_cancelled_leaves_the_stop_event_alone(tmp_path: Path) -> None:
    write(tmp_path / "a", "1")
    source = DirectorySource(tmp_path, poll_interval_s=NEVER_S)
    source.read()
    stop = asyncio.Event()
    async with asyncio.timeout(DEADLINE_S), aclosing(source.changes(stop)) as changes:
        waiting = asyncio.ensure_future(anext(changes))
        await asyncio.wait([waiting], timeout=0.3)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    assert not stop.is_set()
