"""Child processes of tests: started, awaited, stopped by pid, and their log shown on failure."""

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom

# Below the range the kernel gives to outgoing connections, so that none of them takes the port
# between our look and the child's bind.
_PORTS = range(20_000, 32_000)
_PICK = SystemRandom()
_LOG_TAIL_BYTES = 6_000
_POLL_S = 0.02


@dataclass(slots=True)
class Child:
    """A running process; everything it prints goes to `log`."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self.process.pid

    def output(self) -> str:
        """Return all that the child printed so far."""
        return self.log.read_text("utf-8", errors="replace")

    def tail(self) -> str:
        """Return the end of the log, headed by the child's name, for a failure message."""
        return f"--- log of {self.name} ---\n{self.output()[-_LOG_TAIL_BYTES:]}"

    def wait_until(self, is_ready: Callable[[], bool], what: str, timeout_s: float = 20) -> None:
        """Poll `is_ready`; fail with the log if the child ends or `timeout_s` passes first."""
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            if self.process.poll() is not None:
                raise AssertionError(
                    f"{self.name} ended with {self.process.returncode} before {what}\n{self.tail()}"
                )
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name}: no {what} in {timeout_s} s\n{self.tail()}")
            time.sleep(_POLL_S)

    def stop(self, timeout_s: float = 10) -> int:
        """End the child politely, by force after `timeout_s`; return its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} ignored SIGTERM\n{self.tail()}") from None

    def kill(self) -> None:
        """End the child at once, as kill -9 does."""
        self.process.kill()
        self.process.wait()


def start_child(
    name: str, command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None
) -> Child:
    """Start `command`; the kernel kills it should the test run itself be killed."""
    setpriv = shutil.which("setpriv")
    prefix = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [*prefix, *command],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=dict(env) if env is not None else None,
        )
    return Child(name, process, log)


def free_ports(count: int) -> list[int]:
    """Return `count` distinct loopback ports that nobody listens on."""
    found: list[int] = []
    while len(found) < count:
        port = _PICK.choice(_PORTS)
        if port not in found and _is_free(port):
            found.append(port)
    return found


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 10) -> None:
    """Poll `condition`; fail naming `what` when `timeout_s` passes first."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(_POLL_S)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
