"""`ratelimitd dev`: one command, and what it suggests works."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ratelimitd.app.welcome import ctl_command, suggest
from ratelimitd.ctl import parse_descriptor
from ratelimitd.policy.compile import compile_policy
from ratelimitd.policy.match import match
from tests.support.children import free_ports, wait_for
from tests.support.daemon import clean_environment, daemon_command
from tests.support.servers import find_binary


@pytest.mark.usefixtures("data_plane")
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
            env=clean_environment({"REDIS_URL": "nobody:1", "PATH": "/usr/bin:/bin"}),
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
    ctl = Path(sys.executable).with_name("ratelimitctl")
    assert (
        f"  {ctl} hit --domain example --descriptor 'remote_address=demo' "
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


def test_suggested_value_with_a_comma_is_read_back() -> None:
    rule = "{key: k, value: 'x,y', rate_limit: {unit: day, requests_per_unit: 1}}"
    text = f"domain: a\ndescriptors: [{rule}]"

    ((_, descriptor, _),) = suggest(compile_policy({"a.yaml": text}).policy)

    assert parse_descriptor(descriptor) == [("k", "x,y")]


def test_ctl_is_typed_by_its_name_only_where_that_finds_it(tmp_path: Path) -> None:
    bin_dir = tmp_path / "with space"
    bin_dir.mkdir()
    ctl = bin_dir / "ratelimitctl"
    ctl.touch()
    run_as = str(bin_dir / "ratelimitd")

    assert ctl_command(run_as, str(ctl)) == "ratelimitctl"
    assert shlex.split(ctl_command(run_as, None)) == [str(ctl)]
    assert shlex.split(ctl_command(run_as, "/usr/bin/ratelimitctl")) == [str(ctl)]
    assert ctl_command(str(tmp_path / "__main__.py"), None) == "ratelimitctl"
