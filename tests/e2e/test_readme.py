"""What README.md and docs/ promise: pasted configuration, commands, links."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import httpx
import pytest

from ratelimitd.transport.http import BODY_TIMEOUT_S, MAX_BODY_BYTES, MAX_NESTING
from tests.support.certificates import make_authority
from tests.support.children import free_ports
from tests.support.daemon import clean_environment, running_daemon
from tests.support.envoy import (
    ADMIN_PORT,
    BACKEND_PORT,
    CONFIGURATIONS,
    PROXY_PORT,
    RATELIMITD_PORT,
    envoy_binary,
    on_ports,
    running_envoy,
)
from tests.support.grpc_client import connected, rate_limit_request
from tests.support.proxied import EXAMPLES, proxied, yearly_example
from tests.support.servers import Server

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md")])


def blocks(language: str) -> list[str]:
    """Return the contents of README's fenced blocks in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", blocks("yaml"))
def test_readme_configuration_stands_in_the_tested_file(block: str) -> None:
    # given
    text = (CONFIGURATIONS / "basic.yaml").read_text("utf-8")
    lines = [line.strip() for line in text.splitlines()]
    pasted = [line.strip() for line in block.splitlines()]

    # when
    starts = [at for at, line in enumerate(lines) if line == pasted[0]]

    # then: line by line, and indented as one piece
    places = [at for at in starts if lines[at : at + len(pasted)] == pasted]
    assert places
    at = places[0]
    assert dedent("\n".join(text.splitlines()[at : at + len(pasted)])) == block.rstrip("\n")


@pytest.mark.usefixtures("data_plane")
def test_published_configuration_runs_as_it_is(store: Server, tmp_path: Path) -> None:
    # given: the whole file, its stand-in backend included, only on other ports
    policy = yearly_example("api.yaml", tmp_path / "policy")
    text = (CONFIGURATIONS / "basic.yaml").read_text("utf-8")
    with running_daemon(policy, store.url, tmp_path) as daemon:
        ports = {
            PROXY_PORT: 0,
            ADMIN_PORT: 0,
            BACKEND_PORT: free_ports(1)[0],
            RATELIMITD_PORT: daemon.grpc_port,
        }
        with running_envoy(on_ports(text, ports), tmp_path) as envoy:
            # when
            answer = httpx.get(f"{envoy.url}/items", headers={"x-api-key": "alice"})

    # then
    assert (answer.status_code, answer.text) == (200, "hello\n")


@pytest.mark.usefixtures("data_plane")
def test_published_configuration_refuses_as_its_header_says(store: Server, tmp_path: Path) -> None:
    # given: the header's curl, far from a minute's border
    header = (CONFIGURATIONS / "basic.yaml").read_text("utf-8").partition("admin:")[0]
    found = re.search(r"curl -i http://127\.0\.0\.1:10000(\S+) +# the (\w+) .* answers 429", header)
    assert found
    admitted = ["first", "second", "third", "fourth", "fifth", "sixth"].index(found[2])
    policy = yearly_example("api.yaml", tmp_path / "policy")
    with proxied("basic.yaml", policy, store.url, tmp_path) as running:
        # when
        codes = running.codes(found[1], admitted + 1)

    # then
    assert codes == [200] * admitted + [429]


@pytest.mark.parametrize("path", sorted(CONFIGURATIONS.glob("*.yaml")), ids=lambda path: path.stem)
def test_published_configuration_is_valid(path: Path, tmp_path: Path) -> None:
    # given the certificates that it names, elsewhere
    authority = make_authority(tmp_path)
    authority.issue("envoy")
    authority.certificate.rename(tmp_path / "fleet-ca.crt")
    config = tmp_path / path.name
    config.write_text(path.read_text("utf-8").replace("/etc/envoy/tls", str(tmp_path)))

    # when
    done = subprocess.run(
        [envoy_binary(), "--mode", "validate", "--config-path", str(config)],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )

    # then
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("data_plane")
def test_readme_hit_command_is_refused_the_sixth_time(store: Server, tmp_path: Path) -> None:
    # given: the loop of the sixty seconds, far from a minute's border
    found = re.search(r"for i in ([\d ]+); do (.*); done", README)
    assert found
    repeats, command = found[1].split(), shlex.split(found[2])
    assert command[0] == ".venv/bin/ratelimitctl"
    ratelimitctl = str(Path(sys.executable).with_name("ratelimitctl"))
    policy = yearly_example("api.yaml", tmp_path / "policy")
    with running_daemon(policy, store.url, tmp_path) as daemon:
        # when
        runs = [
            subprocess.run(
                [ratelimitctl, *command[1:], "--address", daemon.grpc_address],
                env=clean_environment(),
                check=False,
                capture_output=True,
                text=True,
                timeout=30,
            )
            for _ in repeats
        ]

    # then
    assert [run.returncode for run in runs] == [0] * 5 + [3]
    printed = " ".join(runs[-1].stdout.replace("per year", "per minute").split())
    assert printed.partition(" (login) 0 ")[0] in " ".join(README.split())


def test_operations_tells_the_bounds_of_json() -> None:
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")

    assert (
        f"at most {MAX_BODY_BYTES // 1024} KiB, must come within {BODY_TIMEOUT_S:g} seconds and "
        f"nests at most {MAX_NESTING} levels"
    ) in " ".join(text.split())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_of_the_project(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text("utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document}: {target}"


def test_every_configuration_has_its_example_policy() -> None:
    # given
    served = {
        domain
        for file in EXAMPLES.glob("*.yaml")
        for domain in re.findall(r"^domain: (\w+)", file.read_text("utf-8"), re.MULTILINE)
    }

    # when
    asked = {
        domain
        for file in CONFIGURATIONS.glob("*.yaml")
        for domain in re.findall(r"\bdomain: (\w+)", file.read_text("utf-8"))
    }

    # then
    assert asked <= served


@pytest.mark.usefixtures("data_plane")
async def test_metric_names_of_the_reference_server_are_exported(
    store: Server, tmp_path: Path
) -> None:
    # given: the table of docs/migration.md
    text = (ROOT / "docs" / "migration.md").read_text("utf-8")
    section = text[text.index("## Metrics") : text.index("## Keys in the store")]
    rows = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in section.splitlines() if "|" in row]
    names = [full_name(name, row[0]) for row in rows for name in row]
    assert len(names) == 10
    policy = yearly_example("api.yaml", tmp_path / "policy")
    env = {"METRICS_COMPAT": "envoyproxy"}
    with running_daemon(policy, store.url, tmp_path, env=env) as daemon:
        async with connected(daemon.grpc_address) as should_rate_limit:
            await should_rate_limit(rate_limit_request("api", "path=/login"))

        # when
        exported = set(re.findall(r"^# TYPE (\w+)", daemon.metrics(), re.MULTILINE))

    # then
    assert set(names) <= exported


def full_name(name: str, first_of_row: str) -> str:
    """Complete `_over_limit` by what stands before it in the same cell."""
    if not name.startswith("_"):
        return name
    shared = next(end for end in ("_total_hits", "_success", "") if first_of_row.endswith(end))
    return first_of_row.removesuffix(shared) + name
