"""Secret values sent through a real Envoy are found nowhere afterwards."""

from pathlib import Path

import httpx
import pytest

from tests.support.children import Child
from tests.support.proxied import proxied, write_policy
from tests.support.servers import Server

API_KEY = "canary-of-an-api-key-8d1f"
SESSION = "canary-of-a-session-55c0"
SECRETS = (API_KEY, SESSION)

POLICY = """
domain: api
descriptors:
  - key: api_key
    detailed_metric: true
    rate_limit: {unit: year, requests_per_unit: 2}
    descriptors:
      - key: session
        sensitive: true
        detailed_metric: true
        rate_limit: {unit: year, requests_per_unit: 2}
"""


@pytest.mark.usefixtures("data_plane")
def test_secret_values_reach_neither_store_nor_logs_nor_metrics(
    store: Server, tmp_path: Path
) -> None:
    # given: every place that could leak says as much as it can
    policy = write_policy(tmp_path / "policy", POLICY)
    edits = {
        'header_name: ":path", descriptor_key: path': (
            "header_name: x-api-key, descriptor_key: api_key"
        ),
        "- remote_address: {}": (
            "- request_headers: {header_name: x-session, descriptor_key: session}"
        ),
    }
    env = {
        "METRICS_COMPAT": "envoyproxy",
        "RESPONSE_DYNAMIC_METADATA": "true",
        "LOCAL_CACHE_SIZE_IN_BYTES": "1000000",
    }
    flags = ("--log-level", "debug")
    with proxied(
        "basic.yaml", policy, store.url, tmp_path, flags=flags, env=env, edits=edits
    ) as run:
        # when: refused too, so that refusals are logged
        codes = run.codes("/items", 4, x_api_key=API_KEY, x_session=SESSION)

        # then
        assert codes[-1] == 429
        assert "canary" not in run.daemon.metrics()
        for page in ("/policy", "/rlconfig", "/healthz"):
            assert "canary" not in httpx.get(f"{run.daemon.http_url}{page}").text
        daemon = run.daemon.child

    # then
    assert_absent(log_of(daemon))
    assert_absent(dump_of(store))


def test_plain_values_are_found_by_the_same_search(store: Server) -> None:
    # given
    store.execute("SET", f"key-with-{API_KEY}", SESSION)

    # when / then: the test above is able to fail
    dump = dump_of(store)
    assert all(secret.encode() in dump for secret in SECRETS)


def assert_absent(content: bytes) -> None:
    """Assert that no secret occurs in `content`, and that there is content at all."""
    assert content
    for secret in SECRETS:
        assert secret.encode() not in content


def log_of(child: Child) -> bytes:
    """Return all that the ended daemon printed; it must have logged the refusals."""
    assert "api_key" in child.output()
    return child.log.read_bytes()


def dump_of(store: Server) -> bytes:
    """Return the store's dump, uncompressed, and what a client reads of each key."""
    store.execute("CONFIG", "SET", "rdbcompression", "no")
    store.execute("SAVE")
    content = (store.directory / "dump.rdb").read_bytes()
    client = store.client(decode_responses=False)
    keys = list(client.scan_iter())
    assert keys
    for key in keys:
        content += bytes(key) + (client.dump(key) or b"")
    return content
