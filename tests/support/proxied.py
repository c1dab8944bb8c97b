"""Envoy, ratelimitd and a backend put together: what a user runs, on free ports."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.support.backend import Backend, running_backend
from tests.support.daemon import Daemon, running_daemon
from tests.support.envoy import AUTHZ_PORT, Envoy, published_config, running_envoy

EXAMPLES = Path(__file__).parents[2] / "examples" / "policy"
YEAR_S = 365 * 86_400


@dataclass(slots=True)
class Proxied:
    """The three processes, and a client of the proxy."""

    envoy: Envoy
    daemon: Daemon
    backend: Backend
    client: httpx.Client

    def get(self, path: str, **headers: str) -> httpx.Response:
        """Send one GET through Envoy; `x_api_key` becomes the header x-api-key."""
        return self.client.get(
            path, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    def codes(self, path: str, count: int, **headers: str) -> list[int]:
        """Send `count` GETs one after another; return their status codes."""
        return [self.get(path, **headers).status_code for _ in range(count)]

    def outcomes(self) -> dict[str, int]:
        """Return Envoy's own count of what the rate limit filter was told."""
        found = self.envoy.stats(r"^cluster\.backend\.ratelimit\.")
        return {name.rpartition(".")[2]: value for name, value in found.items() if value}


@contextmanager
def proxied(
    config: str | Path,
    policy: Path,
    store: str,
    directory: Path,
    *,
    flags: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    edits: Mapping[str, str] | None = None,
    authz_port: int = AUTHZ_PORT,
) -> Iterator[Proxied]:
    """Run clients/envoy/`config` in front of a daemon that serves `policy` from `store`.

    `config` may be a path elsewhere. `edits` are replacements in its text.
    """
    with (
        running_backend() as backend,
        running_daemon(policy, store, directory, flags=flags, env=env) as daemon,
    ):
        text = published_config(
            config,
            backend_port=backend.port,
            ratelimitd_port=daemon.grpc_port,
            authz_port=authz_port,
            edits=edits,
        )
        with (
            running_envoy(text, directory) as envoy,
            httpx.Client(base_url=envoy.url, timeout=20) as client,
        ):
            yield Proxied(envoy, daemon, backend, client)


def write_policy(directory: Path, text: str, name: str = "policy.yaml") -> Path:
    """Write one policy file into `directory`; return the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(text, "utf-8")
    return directory


def yearly_example(name: str, directory: Path) -> Path:
    """Copy examples/policy/`name` with every unit a year, far from any window's border."""
    text = (EXAMPLES / name).read_text("utf-8")
    return write_policy(directory, re.sub(r"\bunit: \w+", "unit: year", text), name)
