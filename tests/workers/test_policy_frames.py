"""Compiled policies that are kept for workers: whole, of the same program, or not taken."""

import logging
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd import policy
from ratelimitd.app.policy_loop import PolicyLoop
from ratelimitd.policy.compile import CompileOptions
from ratelimitd.policy.transfer import load
from ratelimitd.policy_source import DirectorySource
from ratelimitd.services.policy_holder import PolicyHolder
from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.workers.policy_frames import (
    PolicyFrames,
    frames_path,
    program_version,
    read_frames,
)
from tests.unit.policy.files import write

RULE = "descriptors: [{key: k, rate_limit: {unit: day, requests_per_unit: 1}}]\n"


async def read(path: Path, program: str | None = None) -> list[bytes]:
    async with aclosing(read_frames(path, program or program_version())) as frames:
        return [frame async for frame in frames]


def keep(directory: Path, revision: str, *frames: bytes) -> Path:
    kept = PolicyFrames(directory)
    kept.begin()
    for frame in frames:
        kept.add(frame)
    kept.commit(revision)
    return frames_path(directory, revision)


@given(frames=st.lists(st.binary(max_size=300), max_size=9))
async def test_frames_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, frames: list[bytes]
) -> None:
    path = keep(tmp_path_factory.mktemp("frames"), "5f1e", *frames)

    assert await read(path) == frames


async def test_frames_of_another_program_are_not_taken(tmp_path: Path) -> None:
    path = keep(tmp_path, "5f1e", b"one")

    with pytest.raises(ValueError, match="another program"):
        await read(path, "0" * 32)


@pytest.mark.parametrize("at", [-1, -9, -17, 30])
async def test_damaged_frames_are_not_taken(tmp_path: Path, at: int) -> None:
    path = keep(tmp_path, "5f1e", b"one-frame", b"other-one")
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)

    with pytest.raises(ValueError, match=r"damaged|another program"):
        await read(path)


async def test_cut_frames_are_not_taken(tmp_path: Path) -> None:
    path = keep(tmp_path, "5f1e", b"one", b"other")
    path.write_bytes(path.read_bytes()[:-2])

    with pytest.raises(ValueError, match="damaged"):
        await read(path)


def test_program_changes_with_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "model.py", "a = 1")
    monkeypatch.setattr(policy, "__path__", [str(tmp_path)])
    before = program_version()

    write(tmp_path / "model.py", "a = 2")

    assert program_version() != before


def test_frames_of_this_policy_and_the_one_before_are_kept(tmp_path: Path) -> None:
    kept = PolicyFrames(tmp_path)
    for revision in ("a", "b", "c", "c", "d"):
        kept.begin()
        kept.commit(revision)
    kept.begin()
    kept.drop()

    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["policy-c.frames", "policy-d.frames"]


def test_frames_that_cannot_be_written_are_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = PolicyFrames(tmp_path / "gone")

    kept.begin()
    kept.add(b"one")
    kept.commit("5f1e")

    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "each worker compiles it: No such file" in caplog.text


async def test_loop_keeps_what_it_put_in_force(tmp_path: Path) -> None:
    # given a loop that keeps frames
    async def on_load() -> None:
        pass

    write(tmp_path / "policy" / "a.yaml", f"domain: a\n{RULE}")
    loop = PolicyLoop(
        source=DirectorySource(tmp_path / "policy"),
        options=CompileOptions(),
        holder=PolicyHolder(),
        telemetry=Telemetry(),
        on_load=on_load,
        frames=PolicyFrames(tmp_path),
    )

    async def kept() -> object:
        assert loop.holder.policy is not None
        return load(await read(frames_path(tmp_path, loop.holder.policy.revision))).policy

    # when it loads, reloads, and meets errors, then the frames are those of what is in force
    await loop.load()
    assert await kept() == loop.holder.policy
    write(tmp_path / "policy" / "a.yaml", f"domain: b\n{RULE}")
    await loop.reload()
    assert await kept() == loop.holder.policy
    write(tmp_path / "policy" / "a.yaml", "domain: [")
    await loop.reload()
    assert await kept() == loop.holder.policy
