"""Loading and reloading: what is in force, what is told, and where it is compiled."""

import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path

import pytest

from ratelimitd.app import compiler, policy_loop
from ratelimitd.app.compiler import CompilerError, compile_apart
from ratelimitd.app.policy_in_force import policy_page, rlconfig_page
from ratelimitd.app.policy_loop import FIRST_RETRY_S, LAST_RETRY_S, MAX_ERROR_LINES, PolicyLoop
from ratelimitd.errors import ConfigError, PolicyError
from ratelimitd.policy import transfer
from ratelimitd.policy.compile import CompileOptions
from ratelimitd.policy.loaded import Loaded
from ratelimitd.policy_source import DirectorySource
from ratelimitd.services.policy_holder import PolicyHolder
from ratelimitd.telemetry import counters
from ratelimitd.telemetry.counters import Telemetry
from tests.unit.policy.files import write

RULE = "descriptors: [{key: k, rate_limit: {unit: day, requests_per_unit: 1}}]\n"
BROKEN = "domain: a\ndescriptors: [{value: x}]\n"


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def loop(tmp_path: Path, clock: Clock) -> PolicyLoop:
    async def on_load() -> None:
        pass

    write(tmp_path / "a.yaml", f"domain: a\n{RULE}")
    return PolicyLoop(
        source=DirectorySource(tmp_path),
        options=CompileOptions(),
        holder=PolicyHolder(),
        telemetry=Telemetry(),
        on_load=on_load,
        now_s=clock,
    )


def domains(loop: PolicyLoop) -> list[str]:
    assert loop.holder.policy is not None
    return list(loop.holder.policy.domains)


async def changes_at_once(loop: PolicyLoop) -> bool:
    """Tell whether the files are a change, without waiting for one."""
    stop = asyncio.Event()
    changes = loop.source.changes(stop)
    waiting = asyncio.ensure_future(anext(changes))
    done, _ = await asyncio.wait([waiting], timeout=0.3)
    waiting.cancel()
    await asyncio.wait([waiting])
    await changes.aclose()
    return bool(done)


def refuse_in_process(*_: object) -> object:
    raise AssertionError("compiled in the process that answers requests")


async def test_reload_compiles_and_renders_in_another_process(
    loop: PolicyLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await loop.load()
    for name in ("compile_policy", "to_json", "to_rlconfig"):
        monkeypatch.setattr(transfer, name, refuse_in_process)
    monkeypatch.setattr(counters, "names_of", refuse_in_process)
    rules = "".join(
        f"  - {{key: k{index}, rate_limit: {{unit: day, requests_per_unit: 1}}}}\n"
        for index in range(2_000)
    )
    write(tmp_path / "b.yaml", f"domain: b\ndescriptors:\n{rules}")

    await loop.reload()

    assert domains(loop) == ["a", "b"]
    assert loop.telemetry.policy.rules == 2_001
    assert loop.holder.load_error == ""
    page = json.loads(b"".join(policy_page(loop.holder)))
    assert [domain["domain"] for domain in page["domains"]] == ["a", "b"]
    assert b"".join(rlconfig_page(loop.holder)).count(b"\n") == 2_001


async def test_pages_are_made_once_for_a_revision(loop: PolicyLoop) -> None:
    assert json.loads(b"".join(policy_page(loop.holder))) == {"revision": None, "domains": []}
    assert rlconfig_page(loop.holder) == ()

    await loop.load()

    assert policy_page(loop.holder)[1] is policy_page(loop.holder)[1]
    assert rlconfig_page(loop.holder) is rlconfig_page(loop.holder)


async def test_reloads_at_the_same_time_leave_the_newest_files_in_force(
    loop: PolicyLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a first compilation that ends after everything that came later
    await loop.load()
    is_slow, go_on = asyncio.Event(), asyncio.Event()
    order: list[bytes] = []

    async def slow_at_first(files: dict[str, bytes], options: CompileOptions, _: object) -> Loaded:
        loaded = await compile_apart(files, options)
        if not is_slow.is_set():
            is_slow.set()
            await go_on.wait()
        order.append(files["a.yaml"])
        return loaded

    monkeypatch.setattr(policy_loop, "compile_apart", slow_at_first)
    write(tmp_path / "a.yaml", f"domain: older\n{RULE}")
    first = asyncio.create_task(loop.reload())
    await is_slow.wait()
    write(tmp_path / "a.yaml", f"domain: newest\n{RULE}")
    second = asyncio.create_task(loop.reload())
    await asyncio.wait([second], timeout=0.5)

    # when it ends
    go_on.set()
    await asyncio.gather(first, second)

    # then the newest files are in force, and what is remembered as read is them
    assert domains(loop) == ["newest"]
    assert len(order) == 2
    assert not await changes_at_once(loop)


async def test_error_keeps_the_policy_and_is_not_tried_again(
    loop: PolicyLoop, tmp_path: Path
) -> None:
    await loop.load()
    write(tmp_path / "a.yaml", BROKEN)

    await loop.reload()

    assert domains(loop) == ["a"]
    assert loop.holder.load_error.startswith("a.yaml:2:")
    assert json.loads(b"".join(policy_page(loop.holder)))["load_errors"] == [loop.holder.load_error]
    assert not loop.telemetry.policy.is_last_load_ok
    assert not await changes_at_once(loop)


async def test_first_load_with_errors_raises_them(loop: PolicyLoop, tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", BROKEN)

    with pytest.raises(PolicyError):
        await loop.load()

    assert loop.telemetry.policy.errors == 1


async def test_errors_are_told_within_bounds(loop: PolicyLoop, tmp_path: Path) -> None:
    key = "\N{LATIN SMALL LETTER A WITH DIAERESIS}" * 2_000
    deep = "".join(f"{' ' * depth}{key}{depth}:\n" for depth in range(1, 40))
    write(tmp_path / "a.yaml", f"domain: a\nmetadata:\n{deep}")
    for index in range(3):
        junk = "".join(f"x{line}: 1\n" for line in range(5_000))
        write(tmp_path / f"b{index}.yaml", f"domain: b{index}\n{junk}")

    await loop.reload()

    lines = loop.holder.load_error.splitlines()
    assert len(lines) <= MAX_ERROR_LINES + 1
    assert lines[-1].startswith("and ")
    assert max(map(len, lines)) <= policy_loop.MAX_LINE_CHARACTERS


async def test_defect_is_told_logged_and_tried_again(
    loop: PolicyLoop,
    tmp_path: Path,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # given a daemon that meets a defect of its own
    await loop.load()
    write(tmp_path / "a.yaml", f"domain: b\n{RULE}")
    tries = []

    async def broken(*_: object) -> Loaded:
        tries.append(clock())
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(policy_loop, "compile_apart", broken)

    # when it reloads
    await loop.reload()

    # then it says so, without the defect's own words, and the files are still a change
    told = loop.holder.load_error
    assert told.startswith("internal error ")
    assert "zero" not in told
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert told.split()[2].strip(",") in record.getMessage()
    assert record.exc_info
    assert not loop.telemetry.policy.is_last_load_ok
    assert domains(loop) == ["a"]
    assert await changes_at_once(loop)

    # and it tries again ever later, while the files stay as they are
    await loop._reload_if_due()  # noqa: SLF001 - what each poll does
    assert len(tries) == 1
    waits: list[float] = []
    for _ in range(12):
        before = clock.now_s
        while len(tries) == len(waits) + 1:
            clock.now_s += FIRST_RETRY_S
            await loop._reload_if_due()  # noqa: SLF001 - as above
        waits.append(clock.now_s - before)
    assert waits[:3] == [FIRST_RETRY_S, 2 * FIRST_RETRY_S, 4 * FIRST_RETRY_S]
    assert max(waits) == LAST_RETRY_S

    # and at once when they change
    monkeypatch.undo()
    write(tmp_path / "a.yaml", f"domain: c\n{RULE}# longer\n")
    await loop._reload_if_due()  # noqa: SLF001 - as above
    assert domains(loop) == ["c"]
    assert loop.holder.load_error == ""


async def test_compiler_that_dies_is_told_and_tried_again(
    loop: PolicyLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await loop.load()
    write(tmp_path / "a.yaml", f"domain: b\n{RULE}")
    monkeypatch.setattr(compiler, "_COMMAND", (sys.executable, "-c", "raise SystemExit(7)"))

    await loop.reload()

    assert loop.holder.load_error == "the compiler ended with exit code 7"
    assert domains(loop) == ["a"]
    assert await changes_at_once(loop)


async def test_emptied_directory_keeps_the_policy(loop: PolicyLoop, tmp_path: Path) -> None:
    await loop.load()
    (tmp_path / "a.yaml").unlink()

    await loop.reload()

    assert domains(loop) == ["a"]
    assert "has no policy files" in loop.holder.load_error


async def test_start_with_an_empty_directory_is_an_error(loop: PolicyLoop, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").unlink()

    with pytest.raises(ConfigError, match="has no policy files"):
        await loop.load()


async def test_removed_domains_are_logged(
    loop: PolicyLoop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for index in range(12):
        write(tmp_path / f"b{index:02}.yaml", f"domain: b{index:02}\n{RULE}")
    await loop.load()
    for index in range(12):
        (tmp_path / f"b{index:02}.yaml").unlink()

    await loop.reload()

    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "`b00`, `b01`" in warning.getMessage()
    assert warning.getMessage().endswith("`b09` and 2 more")


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL; was there enough"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "ended by SIGTERM"),
        ("raise SystemExit(3)", "exit code 3"),
        ("pass", "is not whole"),
    ],
)
async def test_compiler_that_ends_early_is_an_error(
    program: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "_COMMAND", (sys.executable, "-c", program))

    with pytest.raises(CompilerError, match=told):
        await compile_apart({"a": b"domain: a\n" * 100_000}, CompileOptions())


async def test_compiler_that_cannot_be_started_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_COMMAND", ("/nowhere/python",))

    with pytest.raises(CompilerError, match="cannot be started: No such file"):
        await compile_apart({}, CompileOptions())


async def test_compiler_that_hangs_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    program = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    monkeypatch.setattr(compiler, "_COMMAND", (sys.executable, "-c", program))
    monkeypatch.setattr(compiler, "COMPILE_TIMEOUT_S", 2.0)

    with pytest.raises(CompilerError, match="took more than 2 s"):
        await compile_apart({"a": b"domain: a\n"}, CompileOptions())

    with pytest.raises(ProcessLookupError):
        os.kill(int(await asyncio.to_thread(pid.read_text)), 0)


async def test_compiler_ends_with_its_parent() -> None:
    # given a parent that is killed while its compiler is at work
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())

    # when it is gone
    parent.send_signal(signal.SIGKILL)
    await parent.wait()

    # then so is the compiler
    try:
        async with asyncio.timeout(20):
            while is_running(child):  # noqa: ASYNC110 - nobody tells of a stranger's end
                await asyncio.sleep(0.05)
    finally:
        if is_running(child):
            os.kill(child, signal.SIGKILL)


PARENT = """
import pickle, socket, sys, time
from ratelimitd.app import compiler
from ratelimitd.app.compiler_child import to_message
endless = (
    "import time; from ratelimitd.app import compiler_child as child;"
    "child.compile_to_frames = lambda *_: time.sleep(600); child.main()"
)
compiler._COMMAND = (sys.executable, "-c", endless)
ours, theirs = socket.socketpair()
process = compiler._start(theirs)
theirs.close()
ours.sendall(to_message(pickle.dumps((0, None))))
print(process.pid, flush=True)
time.sleep(600)
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
