import pytest

from ratelimitd.policy.compile import compile_policy
from ratelimitd.policy.explain import Explanation, explain
from ratelimitd.policy.model import Domain

RULES = """
domain: d
descriptors:
  - key: path
    value: /login
    descriptors:
      - {key: user, rate_limit: {unit: minute, requests_per_unit: 5, name: per-user}}
  - {key: path, value: "/api*", share_threshold: true, shadow_mode: true,
     rate_limit: {unit: day, requests_per_unit: 9}}
  - {key: free, rate_limit: {unlimited: true}}
  - {key: open}
  - {key: token, value: hunter2, rate_limit: {unit: day, requests_per_unit: 1}}
  - {key: api, value: key_hunter2, rate_limit: {unit: day, requests_per_unit: 1}}
"""


def domain_of(text: str) -> Domain:
    return next(iter(compile_policy({"d.yaml": text}).policy.domains.values()))


@pytest.fixture(scope="module")
def domain() -> Domain:
    return domain_of(RULES)


def told(domain: Domain, **entries: str) -> Explanation:
    return explain(domain, list(entries.items()))


def test_explain_names_rule_reason_limit_and_position(domain: Domain) -> None:
    found = told(domain, path="/login", user="7")

    assert [(step.entry, step.matched_by, step.rule) for step in found.steps] == [
        ("path=/login", "exact", "d.path_/login"),
        ("user=7", "default", "d.path_/login.user"),
    ]
    assert found.steps[1].reason == "no rule has this value, and `user` takes any."
    assert found.limit == "per-user: 5 per minute"
    assert found.position == "d.yaml:7:21"
    assert found.summary == "The limit of `d.path_/login.user` applies: 5 per minute."


def test_explain_wildcard_tells_of_order_and_sharing(domain: Domain) -> None:
    found = told(domain, path="/api/v1")

    assert found.steps[0].matched_by == "wildcard"
    assert "first pattern in the file that fits" in found.steps[0].reason
    assert "share one counter" in found.steps[0].reason
    assert found.limit == "9 per day (shadow)"


def test_explain_wildcard_that_is_not_shared() -> None:
    found = told(domain_of("domain: d\ndescriptors: [{key: a, value: '*'}]\n"), a="b")

    assert "share" not in found.steps[0].reason


def test_explain_unlimited_whitelist_and_short_descriptor(domain: Domain) -> None:
    assert told(domain, free="1").limit == "unlimited"
    assert "whitelisted" in told(domain, open="1").summary
    assert told(domain, path="/login").summary == (
        "The descriptor ends above the rules: this level has no limit of its own, "
        "so the answer is OK."
    )


def test_explain_stop_lists_names_and_the_nearest(domain: Domain) -> None:
    found = told(domain, path="/logon")

    assert found.steps[0].matched_by == "none"
    assert found.steps[0].reason.startswith("no rule fits here; there are `path_/login`, ")
    assert found.steps[0].reason.endswith("; the nearest is `path_/login`.")
    assert found.summary == "Matching stopped at entry 1 of 1, so the answer is OK."
    assert (found.limit, found.position) == ("", "")


def test_explain_stop_below_all_rules(domain: Domain) -> None:
    found = told(domain, open="1", more="2")

    assert found.steps[1].reason.startswith("the rules end above this entry")
    assert found.summary.startswith("Matching stopped at entry 2 of 2")


def test_explain_stop_lists_a_bounded_number_of_names() -> None:
    rules = ", ".join(f"{{key: name{number}}}" for number in range(30))

    reason = told(domain_of(f"domain: d\ndescriptors: [{rules}]\n"), zzz="").steps[0].reason

    assert reason.count("`name") == 10
    assert "and 20 more" in reason
    assert "nearest" not in reason


def test_explain_unknown_domain_and_no_entries(domain: Domain) -> None:
    assert explain(None, [("a", "b")]).summary == (
        "The policy has no such domain, so the answer is OK."
    )
    assert "without entries" in explain(domain, []).summary


def test_explain_says_when_no_match_is_refused() -> None:
    strict = domain_of("domain: d\non_no_match: deny\n")

    assert "refused (`on_no_match: deny`)" in told(strict, a="b").summary


@pytest.mark.parametrize(
    "entries",
    [{"token": "hunter2"}, {"api_key": "hunter2"}, {"cookie": "hunter3"}],
    ids=["marked", "joined", "unmatched"],
)
def test_explain_hides_secret_values(domain: Domain, entries: dict[str, str]) -> None:
    found = explain(domain, list(entries.items()), hide=lambda _: "hidden")

    assert found.steps[0].entry.endswith("=hidden")
    value = next(iter(entries.values()))
    assert value not in "".join(step.entry + step.rule + step.reason for step in found.steps)


def test_explain_shortens_long_values(domain: Domain) -> None:
    entry = told(domain, path="x" * 5000).steps[0].entry

    assert len(entry) == 200
    assert entry.endswith("...")


SEVERAL = """
domain: d
subjects: {key: user, tier: plan, trust_tier_entry: %s}
descriptors:
  - key: user
    limits:
      - {name: own, unit: second, algorithm: gcra, burst: 20,
         requests_per_unit: {pro: 9, default: 5}}
      - {name: all, window: 10m, scope: global, requests_per_unit: 50, until: 2027-01-01T00:00:00Z}
  - {key: upload, rate_limit: {algorithm: concurrency, slot: request_id, requests_per_unit: 3}}
"""


def test_explain_tells_every_limit_of_a_descriptor() -> None:
    found = told(domain_of(SEVERAL % "true"), user="7")

    own, everybody = found.limit.split("; ")
    assert own.startswith("own: pro 9, else 5 per second, burst 20 (gcra) (")
    assert everybody.startswith("all: 50 per 10 minutes (")
    assert "counts everybody, until 2027-01-01T00:00:00Z)" in everybody
    assert found.position == "d.yaml:7:9"
    assert found.summary == "The 2 limits of `d.user` are decided together."


@pytest.mark.parametrize(
    ("is_trusted", "says"),
    [("true", "it says a tier, believed"), ("false", "it says a tier, not trusted")],
)
def test_explain_shows_what_is_taken_out(is_trusted: str, says: str) -> None:
    found = told(domain_of(SEVERAL % is_trusted), plan="pro", user="7", request_id="r1")

    assert [(step.entry, step.matched_by) for step in found.steps] == [
        ("plan=pro", "attribute"),
        ("request_id=r1", "attribute"),
        ("user=7", "default"),
    ]
    assert found.steps[0].reason.startswith(says)
    assert found.steps[1].reason == "it names a slot, and is taken out before matching."


def test_explain_counts_entries_without_those_taken_out() -> None:
    found = told(domain_of(SEVERAL % "true"), plan="pro", user="7", path="/")

    assert found.summary == "Matching stopped at entry 2 of 2, so the answer is OK."
    assert told(domain_of(SEVERAL % "true"), plan="pro").summary.startswith(
        "A descriptor without entries matches nothing"
    )
