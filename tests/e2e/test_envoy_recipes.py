"""Each recipe of examples/recipes on a real Envoy: it does what its README says."""

import re
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
import pytest

from ratelimitd.policy.compile import compile_policy
from tests.support.authz import running_authz
from tests.support.children import wait_for
from tests.support.envoy import envoy_binary
from tests.support.proxied import Proxied
from tests.support.recipes import NAMES, RECIPES, running_recipe, token
from tests.support.servers import Server

# Far from any window's border; a bucket then refills by one in hours.
A_YEAR = {"unit: minute": "unit: year"}
PROBLEM = "application/problem+json"


@pytest.mark.parametrize("name", NAMES)
def test_recipe_is_valid(name: str) -> None:
    # given
    directory = RECIPES / name

    # when
    text = (directory / "policy.yaml").read_text("utf-8")
    compiled = compile_policy({"policy.yaml": text})
    done = subprocess.run(
        [envoy_binary(), "--mode", "validate", "--config-path", str(directory / "envoy.yaml")],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )

    # then
    assert compiled.warnings == ()
    assert done.returncode == 0, done.stderr
    (domain,) = compiled.policy.domains
    assert f"domain: {domain}\n" in (directory / "envoy.yaml").read_text("utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_recipe_is_told_of(name: str) -> None:
    # given
    readme = (RECIPES / name / "README.md").read_text("utf-8")
    listed = (RECIPES.parents[1] / "docs" / "recipes.md").read_text("utf-8")

    # when / then
    for file in ("policy", "envoy"):
        assert f"examples/recipes/{name}/{file}.yaml" in readme
    assert f"](../examples/recipes/{name})" in listed


def test_tiers_give_each_key_the_number_of_its_tier(store: Server, tmp_path: Path) -> None:
    # given
    tiers = {"alice": "pro", "bob": "free", "carol": ""}
    edits = A_YEAR | {"unit: hour": "unit: year"}
    with (
        running_authz(tiers) as port,
        running_recipe("tiers", store.url, tmp_path, edits=edits, authz_port=port) as run,
    ):
        # when
        admitted = {
            key: run.codes("/", 22, x_api_key=key, x_tier="pro").count(200) for key in tiers
        }

        # then: what a client says of its tier counts for nothing
        assert admitted == {"alice": 20, "bob": 5, "carol": 3}
        assert run.get("/", x_api_key="mallory").status_code == 401


def test_tiers_refusal_is_a_problem_with_headers(store: Server, tmp_path: Path) -> None:
    # given
    edits = {"unit: hour": "unit: year"}
    with (
        running_authz({"carol": ""}) as port,
        running_recipe("tiers", store.url, tmp_path, edits=edits, authz_port=port) as run,
    ):
        # when: three at once, and one in 20 seconds
        answers = [run.get("/", x_api_key="carol") for _ in range(4)]

        # then
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        refusal = answers[3]
        assert refusal.headers.get_list("content-type") == [PROBLEM]
        assert refusal.headers["ratelimit"].startswith('"per-key";r=0;t=')
        assert refusal.headers["ratelimit-policy"] == (
            '"per-key";q=3;w=60, "per-tier";q=12;w=31536000, "everybody";q=2000;w=31536000'
        )
        wait_s = int(refusal.headers["retry-after"])
        assert 1 <= wait_s <= 20
        assert refusal.json() == {
            "type": "about:blank",
            "title": "Too Many Requests",
            "status": 429,
            "rule": "per-key",
            "limit": 3,
            "retry_after": wait_s,
        }
        # An answer that passed is the backend's, with headers of where the client stands.
        assert answers[0].headers["ratelimit"].startswith('"per-key";r=2;t=')
        assert "content-type" not in answers[0].headers
        assert "retry-after" not in answers[0].headers


def test_tokens_close_the_gate_when_the_budget_is_overdrawn(store: Server, tmp_path: Path) -> None:
    # given: 2000 tokens at once, and next to none come back
    with running_recipe("tokens", store.url, tmp_path, edits=A_YEAR) as run:
        cost(run, 900)

        # when
        codes = [pay(run, "alice") for _ in range(5)]

        # then: the third overdraws the budget, and closes the gate; others have their own
        assert codes == [200, 200, 200, 429, 429]
        assert len(run.backend.seen) == 3
        assert pay(run, "bob") == 200


def test_tokens_debt_is_no_deeper_than_the_policy_says(store: Server, tmp_path: Path) -> None:
    # given
    with running_recipe("tokens", store.url, tmp_path, edits=A_YEAR) as run:
        cost(run, 3_000_000)

        # when: one answer costs more than a thousand budgets
        assert [pay(run, "alice") for _ in range(2)] == [200, 429]

        # then: the wait is that of the debt, 2000 tokens at 1000 a year
        answer = run.get("/", x_api_key="alice")
        assert answer.status_code == 429
        wait_s = answer.json()["retry_after"]
        assert 2 * 365 * 86_400 - 60 <= wait_s <= 2 * 365 * 86_400
        lost = re.search(r"^ratelimitd_lost_debt_total (.+)", run.daemon.metrics(), re.MULTILINE)
        assert lost
        assert float(lost[1]) == 3_000_000 - 4_000


def test_tokens_of_a_response_without_a_price_are_free(store: Server, tmp_path: Path) -> None:
    # given
    with running_recipe("tokens", store.url, tmp_path, edits=A_YEAR) as run:
        # when: hello is no JSON
        codes = run.codes("/", 5, x_api_key="alice")

        # then: five questions, and no payment
        assert codes == [200] * 5
        assert calls(run) == 5


def test_concurrency_admits_so_many_in_flight(store: Server, tmp_path: Path) -> None:
    # given: an Envoy that leaves an id as the client sent it, and a backend that does not answer
    line = "use_remote_address: true\n"
    trusting = {line: f"{line}{' ' * 16}preserve_external_request_id: true\n"}
    with (
        running_recipe("concurrency", store.url, tmp_path, envoy_edits=trusting) as run,
        ThreadPoolExecutor(9) as pool,
    ):
        run.backend.gate.clear()
        held = [pool.submit(ask, run, "alice", "same-id") for _ in range(2)]
        wait_for(lambda: run.backend.in_flight == 2, "two in flight")

        # when: an id that a client chose is not another one's place
        refused = [ask(run, "alice", "same-id") for _ in range(5)]
        other = pool.submit(ask, run, "bob", "same-id")
        wait_for(lambda: run.backend.in_flight == 3, "bob's in flight")
        run.backend.gate.set()

        # then
        assert refused == [429] * 5
        assert [one.result(20) for one in (*held, other)] == [200] * 3
        assert run.backend.peak == 3


def test_concurrency_place_of_a_client_that_left_is_free(store: Server, tmp_path: Path) -> None:
    # given: the backend does not answer
    with running_recipe("concurrency", store.url, tmp_path) as run, ThreadPoolExecutor(2) as pool:
        run.backend.gate.clear()
        impatient = httpx.Timeout(10, read=0.3)

        def leave() -> str:
            try:
                httpx.get(f"{run.envoy.url}/", headers={"x-api-key": "alice"}, timeout=impatient)
            except httpx.ReadTimeout:
                return "left"
            return "stayed"

        # when
        gone: list[Future[str]] = [pool.submit(leave) for _ in range(2)]
        assert [one.result(20) for one in gone] == ["left"] * 2
        run.backend.gate.set()

        # then
        wait_for(lambda: places(store) == 0, "both places free")
        assert run.codes("/", 1, x_api_key="alice") == [200]


def test_tenant_numbers_come_with_the_token(store: Server, tmp_path: Path) -> None:
    # given: a number in the token, and none
    edits = A_YEAR
    twenty = token("tenant-numbers", sub="acme", limit={"requests_per_unit": 20, "unit": "YEAR"})
    silent = token("tenant-numbers", sub="globex")
    with running_recipe("tenant-numbers", store.url, tmp_path, edits=edits) as run:
        # when
        codes = {one: run.codes("/", 22, authorization=f"Bearer {one}") for one in (twenty, silent)}

        # then
        assert codes[twenty].count(200) == 20
        assert codes[silent].count(200) == 5
        refusal = run.get("/", authorization=f"Bearer {twenty}")
        assert refusal.json()["rule"] == "per-tenant"
        assert refusal.json()["limit"] == 20
        assert run.get("/", authorization=f"Bearer {twenty[:-5]}aaaaa").status_code == 401


def test_calendar_month_ends_where_the_customer_is(store: Server, tmp_path: Path) -> None:
    # given
    zones = ("Europe/Berlin", "America/Sao_Paulo", "Asia/Tokyo")
    tokens = {zone: token("calendar", sub="acme", zoneinfo=zone) for zone in zones}
    edits = {"requests_per_unit: 1000": "requests_per_unit: 2"}
    with running_recipe("calendar", store.url, tmp_path, edits=edits) as run:
        for attempt in range(2):
            store.execute("FLUSHALL")
            before = store_time(store)

            # when
            answers = {
                zone: [run.get("/", authorization=f"Bearer {one}") for _ in range(3)]
                for zone, one in tokens.items()
            }

            # then: unless a month ended meanwhile
            after = store_time(store)
            ends = {zone: (month_end(zone, before), month_end(zone, after)) for zone in zones}
            if all(first == last for first, last in ends.values()):
                break
            assert attempt == 0
        for zone, asked in answers.items():
            assert [answer.status_code for answer in asked] == [200, 200, 429]
            end = ends[zone][0]
            wait_s = int(asked[2].headers["retry-after"])
            assert int(end - after) <= wait_s <= int(end - before) + 1


@pytest.mark.parametrize("name", ["tenant-numbers", "calendar"])
def test_token_of_the_readme_is_good(store: Server, tmp_path: Path, name: str) -> None:
    # given
    readme = (RECIPES / name / "README.md").read_text("utf-8")
    found = re.search(r"Bearer ([\w.-]+)", readme)
    assert found
    with running_recipe(name, store.url, tmp_path) as run:
        # when
        answer = run.get("/", authorization=f"Bearer {found[1]}")

        # then
        assert answer.status_code == 200
        assert (
            f";q={20 if name == 'tenant-numbers' else 1000}" in answer.headers["ratelimit-policy"]
        )


def cost(run: Proxied, tokens: int) -> None:
    """Let each answer of the backend name its price."""
    run.backend.headers["content-type"] = "application/json"
    run.backend.body = b'{"usage": {"total_tokens": %d}}' % tokens


def pay(run: Proxied, api_key: str) -> int:
    """Send one request; return its code once the daemon has answered the payment too."""
    before = calls(run)
    code = run.get("/", x_api_key=api_key).status_code
    expected = before + (2 if code == 200 else 1)
    wait_for(lambda: calls(run) >= expected, "a question and a payment")
    assert calls(run) == expected
    return code


def calls(run: Proxied) -> int:
    """Return how many calls to the daemon Envoy has finished."""
    return run.envoy.stat("cluster.ratelimitd.upstream_rq_completed")


def ask(run: Proxied, api_key: str, request_id: str) -> int:
    """Send one request on a connection of its own."""
    headers = {"x-api-key": api_key, "x-request-id": request_id}
    return httpx.get(f"{run.envoy.url}/", headers=headers, timeout=20).status_code


def places(store: Server) -> int:
    """Return how many places are taken: all sorted sets of the store belong to the one limit."""
    keys = store.execute("KEYS", "*")
    assert isinstance(keys, list)
    found = [store.execute("ZCARD", key) for key in keys if store.execute("TYPE", key) == b"zset"]
    return sum(one for one in found if isinstance(one, int))


def store_time(store: Server) -> float:
    """Return the store's clock."""
    answer = store.execute("TIME")
    assert isinstance(answer, (list, tuple))
    return int(answer[0]) + int(answer[1]) / 1e6


def month_end(zone: str, now_s: float) -> float:
    """Return when the month ends that holds `now_s`; zones without a rule have UTC."""
    where = ZoneInfo("UTC" if zone == "Asia/Tokyo" else zone)
    local = datetime.fromtimestamp(now_s, UTC).astimezone(where)
    year, month = (local.year + 1, 1) if local.month == 12 else (local.year, local.month + 1)
    return datetime(year, month, 1, tzinfo=where).timestamp()
