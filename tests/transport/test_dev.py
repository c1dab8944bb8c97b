"""`ratelimitd dev`: one command, and what it suggests works."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from ratelimitd.app.welcome import suggest
from ratelimitd.policy.compile import compile_policy
from ratelimitd.policy.match import match
from tests.support.children import free_ports, wait_for
from tests.support.daemon import clean_environment, daemon_command
from tests.support.servers import find_binary


def test_dev_writes_a_policy_serves_it_and_says_what_to_try(tmp_path: Path) -> None:
    if find_binary("valkey9") is None:
        if os.environ.get("CI"):
            pytest.fail("no server program for the embedded store")
        pytest.skip("no server program for the embedded store")
    ports = free_ports(3)
    flags = [
        text
        for name, port in zip(("grpc", "http", "admin"), ports, strict=True)
        for text in (f"--{name}", f"127.0.0.1:{port}")
    ]
    log = tmp_path / "log"
    with log.open("wb") as sink:
        child = subprocess.Popen(
            daemon_command("dev", *flags),
            cwd=tmp_path,
            env=clean_environment({"REDIS_URL": "nobody:1"}),
            stdout=sink,
            stderr=sink,
        )
    try:
        wait_for(lambda: "Ctrl-C stops it." in log.read_text(), "the welcome", 30)
        child.send_signal(signal.SIGINT)
        code = child.wait(20)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()

    text = log.read_text()
    assert code == 0, text
    assert (
        f"ratelimitctl hit --domain example --descriptor 'remote_address=demo' "
        f"--address 127.0.0.1:{ports[0]}   # 5 per minute"
    ) in text
    assert (tmp_path / ".ratelimitd" / "policy" / "starter.yaml").exists()
    assert "Traceback" not in text


def test_suggestions_reach_their_limits_and_the_easiest_come_first() -> None:
    policy = compile_policy(
        {
            "a.yaml": """
domain: a
descriptors:
  - key: remote_address
    rate_limit: {unit: minute, requests_per_unit: 1000}
  - key: path
    value: "/x*"
    descriptors:
      - key: user_id
        value: "a_b"
        rate_limit: {unit: minute, requests_per_unit: 3}
  - key: free
    rate_limit: {unlimited: true}
"""
        }
    ).policy

    found = list(suggest(policy))

    assert [limit.requests_per_unit for _, _, limit in found] == [3, 1000]
    for name, descriptor, limit in found:
        entries = [(entry.split("=")[0], entry.split("=")[1]) for entry in descriptor.split(",")]
        assert match(policy.domains[name], entries).limit is limit
