import hashlib

import pytest

from ratelimitd.errors import PolicyError
from ratelimitd.policy import compile as compile_module
from ratelimitd.policy import document, tree
from ratelimitd.policy.compile import CompileOptions, compile_policy
from ratelimitd.policy.model import (
    DEFAULT_SECRET_KEYS,
    Algorithm,
    FailurePolicy,
    Limit,
    NoMatch,
    Policy,
    Unit,
)

SECOND = "rate_limit: {unit: second, requests_per_unit: 1}"
MERGE = CompileOptions(merge_domains=True)


def compiled(text: str, options: CompileOptions | None = None) -> Policy:
    return compile_policy({"a.yaml": text}, options).policy


def limit_of(text: str, options: CompileOptions | None = None) -> Limit:
    """The limit of the first descriptor."""
    domain = next(iter(compiled(text, options).domains.values()))
    limit = next(iter(domain.root.exact.values())).limit
    assert limit is not None
    return limit


def findings(files: dict[str, str | bytes], options: CompileOptions | None = None) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        compile_policy(files, options)
    return [str(finding) for finding in caught.value.findings]


def test_compile_no_files_gives_a_policy_without_domains() -> None:
    assert compile_policy({}).policy.domains == {}


def test_compile_keeps_everything_a_limit_says() -> None:
    limit = limit_of(
        "domain: d\n"
        "descriptors:\n"
        "  - key: k\n"
        "    value: v\n"
        "    shadow_mode: true\n"
        "    quota_mode: true\n"
        "    detailed_metric: true\n"
        "    metadata: {a: 1, b: [x, yes, 1.5, ~], c: {d: 1152921504606846977}}\n"
        "    rate_limit:\n"
        "      name: n\n"
        "      unit: Week\n"
        "      requests_per_unit: 7\n"
        "      replaces: [{name: x}, {name: y}]\n"
    )

    assert limit.domain == "d"
    assert limit.rule == "d.k_v"
    assert str(limit.position) == "a.yaml:9:5"
    assert limit.name == "n"
    assert limit.algorithm is Algorithm.FIXED_WINDOW
    assert limit.unit is Unit.WEEK
    assert limit.window_us == 7 * 86_400_000_000
    assert limit.requests_per_unit == 7
    assert limit.replaces == {"x", "y"}
    assert limit.is_shadow
    assert limit.is_quota
    assert limit.has_detailed_metric
    assert limit.metadata == {"a": 1, "b": ["x", True, 1.5, None], "c": {"d": 2.0**60}}


def test_compile_null_metadata_is_none() -> None:
    text = f"domain: d\ndescriptors:\n  - {{key: k, metadata: ~, {SECOND}}}\n"

    assert limit_of(text).metadata is None


@pytest.mark.parametrize("unit", ["second", "MINUTE", "Hour", "dAy", "week", "month", "year"])
def test_compile_takes_every_unit_in_any_case(unit: str) -> None:
    limit = limit_of(f"domain: d\ndescriptors:\n  - {{key: k, rate_limit: {{unit: {unit}}}}}\n")

    assert limit.unit.name == unit.upper()


def test_compile_plain_rule_counts_denied_hits_and_yields_to_overrides() -> None:
    limit = limit_of(f"domain: d\ndescriptors:\n  - {{key: k, {SECOND}}}\n")

    assert limit.counts_denied
    assert limit.has_upstream_override
    assert limit.on_store_failure is FailurePolicy.ERROR


@pytest.mark.parametrize(
    ("defaults", "own", "counts_denied", "is_upstream", "on_failure"),
    [
        ("", "on_store_failure: allow", False, False, "allow"),
        ("", "algorithm: fixed_window", False, False, "error"),
        ("", "count_denied: true", True, False, "error"),
        ("", "count_denied: false", False, False, "error"),
        ("", "override: upstream", False, True, "error"),
        ("", "override: keep", False, False, "error"),
        ("", "override: ~", True, True, "error"),
        ("on_store_failure: local", "name: n", False, False, "local"),
        ("on_store_failure: local", "on_store_failure: deny", False, False, "deny"),
        ("count_denied: true", "name: n", True, False, "error"),
        ("count_denied: true", "count_denied: false", False, False, "error"),
        ("count_denied: true", "count_denied: ~", True, False, "error"),
        ("count_denied: false", "count_denied: true", True, False, "error"),
        ("override: upstream", "name: n", False, True, "error"),
        ("override: upstream", "override: keep", False, False, "error"),
        ("override: upstream", "override: ~", False, True, "error"),
    ],
)
def test_compile_own_key_changes_the_defaults_of_its_rule(
    defaults: str, own: str, counts_denied: bool, is_upstream: bool, on_failure: str
) -> None:
    limit = limit_of(
        f"domain: d\ndefaults: {{{defaults}}}\ndescriptors:\n"
        f"  - {{key: k, rate_limit: {{unit: second, requests_per_unit: 1, {own}}}}}\n"
    )

    assert limit.counts_denied is counts_denied
    assert limit.has_upstream_override is is_upstream
    assert limit.on_store_failure.value == on_failure


def test_compile_option_stops_counting_denied_hits_everywhere() -> None:
    text = "domain: d\ndescriptors:\n  - {key: k, rate_limit: {unit: day, count_denied: true}}\n"

    assert limit_of(text).counts_denied
    assert not limit_of(text, CompileOptions(counts_denied=False)).counts_denied


def test_compile_domain_settings_have_defaults() -> None:
    domain = compiled("domain: d\n").domains["d"]

    assert domain.on_no_match is NoMatch.ALLOW
    assert domain.secret_keys == DEFAULT_SECRET_KEYS


def test_compile_secret_keys_replace_the_default_list() -> None:
    domain = compiled("domain: d\nsecret_keys: [a, 7]\non_no_match: deny\n").domains["d"]

    assert domain.secret_keys == {"a", "7"}
    assert domain.on_no_match is NoMatch.DENY


def test_compile_empty_secret_keys_make_nothing_secret() -> None:
    assert compiled("domain: d\nsecret_keys: []\n").domains["d"].secret_keys == frozenset()


def test_compile_hides_the_value_of_a_secret_rule_in_its_name() -> None:
    limit = limit_of(f"domain: d\ndescriptors:\n  - {{key: token, value: hunter2, {SECOND}}}\n")

    digest = hashlib.sha256(b"hunter2").hexdigest()[:8]
    assert limit.rule == f"d.token_#{digest}"
    assert limit.is_sensitive


def test_compile_sensitive_reaches_the_limits_below() -> None:
    policy = compiled(
        "domain: d\ndescriptors:\n  - key: mail\n    sensitive: true\n    descriptors:\n"
        f"      - {{key: path, {SECOND}}}\n  - {{key: path, {SECOND}}}\n"
    )

    root = policy.domains["d"].root
    below, beside = root.exact["mail"].exact["path"], root.exact["path"]
    assert below.limit is not None
    assert beside.limit is not None
    assert below.limit.is_sensitive
    assert not below.is_sensitive
    assert not beside.limit.is_sensitive


def test_compile_lists_findings_in_the_order_of_names_and_lines() -> None:
    found = findings({"b": "x: 1\n", "a": "domain: d\ny: 1\nx: 1\n"})

    assert [line.split(": ")[0] for line in found] == ["a:2:1", "a:3:1", "b:1:1", "b:1:1"]


def test_compile_revision_tells_names_and_contents_apart() -> None:
    def revision(**files: str) -> str:
        return compile_policy(dict(files), MERGE).policy.revision

    one = revision(a="domain: d\n")
    assert one == revision(a="domain: d\n")
    assert len(one) == 16
    assert len({one, revision(b="domain: d\n"), revision(a="domain: e\n")}) == 3
    assert revision(a="domain: d\n", b="domain: d\n") != revision(a="domain: d\n", c="domain: d\n")


def test_compile_revision_is_the_same_for_text_and_bytes() -> None:
    text, data = compile_policy({"a": "domain: ü\n"}), compile_policy({"a": "domain: ü\n".encode()})

    assert text.policy.revision == data.policy.revision


def test_compile_takes_a_byte_order_mark_and_names_that_are_no_text() -> None:
    policy = compile_policy({"a\udcff": "\ufeffdomain: d\n"}).policy

    assert list(policy.domains) == ["d"]


def test_compile_too_many_files_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_module, "MAX_FILES", 1)

    assert findings({"a": "", "b": ""}) == ["policy: 2 files; a policy has at most 1"]


def test_compile_too_many_descriptors_stops_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "MAX_DESCRIPTORS", 2)
    text = "domain: d\ndescriptors:\n  - {key: a}\n  - {key: b}\n  - {key: c}\n  - {key: e}\n"

    assert findings({"a": text}) == ["a:5:5: descriptors: the policy has more than 2 descriptors"]


def test_compile_file_too_large_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "MAX_FILE_BYTES", 10)

    assert findings({"a": "domain: [[[[["}) == ["a: the file has more than 10 bytes; split it"]


def test_compile_explicit_text_tag_makes_text() -> None:
    text = "domain: !!str 1.5\ndescriptors: !!seq\n  - !!map {key: ! 2.5}\n"

    domain = compiled(text).domains["1.5"]

    assert list(domain.root.exact) == ["2.5"]


def test_compile_merge_key_is_weaker_than_the_map_and_fills_nested_maps() -> None:
    policy = compiled(
        "domain: d\n"
        "descriptors:\n"
        "  - &base\n"
        "    key: a\n"
        "    rate_limit: {unit: hour, requests_per_unit: 7}\n"
        "    metadata: {x: {p: 1}}\n"
        "  - <<: [{key: b}, {key: c, value: v}, *base]\n"
        "    metadata: {x: {q: 2}}\n"
    )

    limit = policy.domains["d"].root.exact["b_v"].limit
    assert limit is not None
    assert limit.requests_per_unit == 7
    assert limit.metadata == {"x": {"q": 2, "p": 1}}


def test_compile_quoted_merge_key_is_an_unknown_key() -> None:
    assert "unknown key" in findings({"a": "domain: d\n'<<': {}\n"})[0]


def test_compile_long_text_is_shortened_in_messages() -> None:
    found = findings({"a": "domain: d\non_no_match: " + "x" * 500 + "\n"})

    assert found == ["a:2:14: on_no_match: must be `allow` or `deny`, not `" + "x" * 57 + "...`"]
