"""Installed into a bare venv: it works, owns no foreign name, and lives beside xds-protos."""

import os
import shutil
import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.daemon import clean_environment

ROOT = Path(__file__).parents[2]
INSTALL_S = 600

OURS = """
from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2 as ours
request = ours.RateLimitRequest(domain="d", hits_addend=3)
request.descriptors.add().entries.add(key="k", value="v")
"""
THEIRS = """
import envoy.service.ratelimit.v3.rls_pb2 as theirs
import envoy.extensions.common.ratelimit.v3.ratelimit_pb2
from grpc_status import rpc_status
from google.rpc import status_pb2
"""
COMPARED = """
assert ours.RateLimitRequest is not theirs.RateLimitRequest
read = theirs.RateLimitRequest.FromString(request.SerializeToString())
assert read.domain == "d" and read.hits_addend == 3
assert [(e.key, e.value) for e in read.descriptors[0].entries] == [("k", "v")]
status_pb2.Status.FromString(status_pb2.Status(code=7).SerializeToString())
"""


LIST_OWN_FILES = """
from importlib.metadata import files
print(*files("ratelimitd"), sep="\\n")
"""


@pytest.fixture(scope="module")
def bare_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the project, from a copy, into a venv that holds nothing else."""
    directory = tmp_path_factory.mktemp("bare")
    copy = directory / "source"
    # A build writes generated code into its tree; this one is in use.
    shutil.copytree(
        ROOT, copy, ignore=shutil.ignore_patterns(".*", "_proto", "__pycache__", "tests", "bench")
    )
    venv.create(directory / "venv", with_pip=True)
    install(directory / "venv", ["-c", str(ROOT / "constraints.txt"), str(copy)])
    return directory / "venv"


@pytest.mark.timeout(INSTALL_S)
def test_install_into_a_bare_venv_gives_working_commands(bare_venv: Path) -> None:
    for command in ("ratelimitd", "ratelimitctl"):
        # when
        done = run([str(bare_venv / "bin" / command), "--help"])

        # then
        assert done.returncode == 0, done.stderr
        assert command in done.stdout

    # when
    example = str(ROOT / "examples" / "policy")
    done = run([str(bare_venv / "bin" / "ratelimitd"), "validate", example])

    # then
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(INSTALL_S)
def test_install_owns_no_module_of_others(bare_venv: Path) -> None:
    # when
    done = run([str(bare_venv / "bin" / "python"), "-c", LIST_OWN_FILES])

    # then
    parts = {line.partition("/")[0] for line in done.stdout.splitlines()}
    top_level = {part for part in parts if part != ".." and not part.endswith(".dist-info")}
    assert top_level == {"ratelimitd", "quotas"}


@pytest.mark.timeout(INSTALL_S)
@pytest.mark.parametrize("order", [(OURS, THEIRS), (THEIRS, OURS)], ids=["ours", "theirs"])
def test_messages_live_beside_xds_protos_in_either_order(
    bare_venv: Path, order: tuple[str, str]
) -> None:
    # given
    install(bare_venv, ["xds-protos", "grpcio-status"])

    # when
    done = run([str(bare_venv / "bin" / "python"), "-c", "".join(order) + COMPARED])

    # then
    assert done.returncode == 0, done.stderr


def install(environment: Path, what: Sequence[str]) -> None:
    """Run pip; without a package index the test skips, and fails in CI."""
    done = run([str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", *what])
    if done.returncode == 0:
        return
    if "No matching distribution" in done.stderr and not os.environ.get("CI"):
        pytest.skip(f"no package index here to install {what[-1]} from")
    pytest.fail(done.stderr)


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run `command` outside of the project's own directory and venv."""
    env = clean_environment()
    env.pop("PYTHONPATH", None)
    env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=INSTALL_S,
        cwd="/",
        env=env,
    )
