"""How workers of a whole daemon get the policy: compiled once, or by themselves if need be."""

import os
import signal
from pathlib import Path

import grpc
import pytest

from tests.support.children import wait_for
from tests.support.daemon import Daemon, running_daemon
from tests.support.servers import Server, make_server, valkey9
from tests.workers.test_daemon_workers import FLAGS, POLICY, hit, policy

__all__ = ["make_server", "policy", "valkey9"]

HERE = "the policy is compiled here"


def limits_in(daemon: Daemon, value: str) -> list[bool]:
    """Tell of two connections, one with each worker, whether a path has a limit."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with (
        grpc.insecure_channel(daemon.grpc_address, options) as one,
        grpc.insecure_channel(daemon.grpc_address, options) as other,
    ):
        answers = [hit(channel, "path", value) for channel in (one, other)]
    return [answer.statuses[0].HasField("current_limit") for answer in answers]


def test_policy_is_compiled_once_for_all_workers(
    policy: Path, valkey9: Server, tmp_path: Path
) -> None:
    flags = (*FLAGS, "--data-dir", str(tmp_path / "data"))
    with running_daemon(policy, valkey9.url, tmp_path / "daemon", flags=flags) as daemon:
        assert limits_in(daemon, "/login") == [True, True]

        (policy / "api.yaml").write_text(POLICY.replace("/login", "/logout"))
        os.kill(daemon.child.pid, signal.SIGHUP)
        wait_for(lambda: limits_in(daemon, "/logout") == [True, True], "the change")

        # The frames of this policy and of the one before.
        assert len(list((tmp_path / "data").glob("*/policy-*.frames"))) == 2
        assert HERE not in daemon.child.output()


@pytest.mark.parametrize("how", ["missing", "damaged", "of another program"])
def test_worker_that_cannot_take_what_was_compiled_compiles_it(
    how: str, policy: Path, valkey9: Server, tmp_path: Path
) -> None:
    flags = (*FLAGS, "--data-dir", str(tmp_path / "data"))
    with running_daemon(policy, valkey9.url, tmp_path / "daemon", flags=flags) as daemon:
        # given frames that cannot be used
        (frames,) = (tmp_path / "data").glob("*/policy-*.frames")
        content = frames.read_bytes()
        frames.unlink()
        if how == "damaged":
            frames.write_bytes(content[:-1] + b"!")
        elif how == "of another program":
            frames.write_bytes(content.replace(b"frames ", b"frames 0", 1))

        # when a worker starts
        victim = daemon.worker_pids()[0]
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: daemon.child.output().count("worker ready") == 3, "another worker")

        # then it serves what the other one does
        assert limits_in(daemon, "/login") == [True, True]
        assert daemon.child.output().count(HERE) == 1
