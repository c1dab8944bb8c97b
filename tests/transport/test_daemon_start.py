"""A start that waits ends when it is told to."""

import fcntl
import signal
import subprocess
from pathlib import Path

from tests.support.children import free_ports, wait_for
from tests.support.daemon import clean_environment, daemon_command

# The start would wait ten seconds for the lock.
PROMPTLY_S = 5


def test_signal_while_the_start_waits_for_the_store_ends_it(tmp_path: Path) -> None:
    # given a directory that the server of an earlier daemon still holds
    policy, data = tmp_path / "policy", tmp_path / "data"
    policy.mkdir()
    (policy / "api.yaml").write_text("domain: api\n")
    grpc, http, admin = free_ports(3)
    command = daemon_command(
        *("serve", "--policy", str(policy), "--store", "embedded", "--data-dir", str(data)),
        *("--grpc", f"127.0.0.1:{grpc}", "--http", f"127.0.0.1:{http}"),
        *("--admin", f"127.0.0.1:{admin}"),
    )
    (data / "limits").mkdir(parents=True, mode=0o700)
    lock_path = data / "limits" / "lock"
    with lock_path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        child = subprocess.Popen(
            command, env=clean_environment(), stderr=subprocess.PIPE, text=True
        )
        try:
            wait_for(lambda: has_open(child.pid, lock_path), "the start to wait for the lock")
            # when
            child.send_signal(signal.SIGTERM)
            _, errors = child.communicate(timeout=PROMPTLY_S)
        finally:
            child.kill()
            child.communicate(timeout=10)
    # then
    assert child.returncode == 0, errors
    assert "stopped before it was ready" in errors
    assert "Traceback" not in errors


def has_open(pid: int, path: Path) -> bool:
    """Tell whether the process `pid` has the file open."""
    try:
        links = [link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return path in links
