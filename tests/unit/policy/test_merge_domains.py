import pytest

from ratelimitd.errors import PolicyError
from ratelimitd.policy.compile import CompileOptions, compile_policy
from ratelimitd.policy.model import FailurePolicy

SECOND = "rate_limit: {unit: second, requests_per_unit: 1}"
MERGE = CompileOptions(merge_domains=True)


def findings(files: dict[str, str | bytes], options: CompileOptions | None = None) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        compile_policy(files, options)
    return [str(finding) for finding in caught.value.findings]


def test_compile_domain_twice_is_an_error_unless_merged() -> None:
    files: dict[str, str | bytes] = {"a": "domain: d\n", "b": "domain: d\n"}

    assert "already the domain of a:1:1" in findings(files)[0]
    assert list(compile_policy(files, MERGE).policy.domains) == ["d"]


def test_compile_merged_wildcards_stand_in_the_order_of_file_names() -> None:
    # given files in another order
    rule = "domain: d\ndescriptors:\n  - {{key: k, value: '{}'}}\n"
    files = {"z": rule.format("*"), "a": rule.format("a*"), "m": rule.format("b*")}

    root = compile_policy(files, MERGE).policy.domains["d"].root

    assert [wildcard.node.name for wildcard in root.wildcards] == ["k_a*", "k_b*", "k_*"]


def test_compile_merged_duplicate_names_both_files() -> None:
    rule = "domain: d\ndescriptors:\n  - {key: k}\n"

    assert findings({"a": rule, "b": rule}, MERGE) == [
        "b:3:6: descriptors[0].key: `k` is already a rule at this level, in a:3:5"
    ]


def test_compile_merged_defaults_stay_in_their_file() -> None:
    files = {
        "a": f"domain: d\ndefaults: {{count_denied: false}}\ndescriptors: [{{key: a, {SECOND}}}]",
        "b": f"domain: d\ndescriptors: [{{key: b, {SECOND}}}]",
    }

    root = compile_policy(files, MERGE).policy.domains["d"].root

    limits = [node.limit for node in root.exact.values()]
    assert [limit.counts_denied for limit in limits if limit] == [False, True]


def test_compile_merged_settings_may_repeat_but_not_disagree() -> None:
    first = "domain: d\nsecret_keys: [x]\non_no_match: deny\ndescriptors: [{key: a}]\n"
    other = "domain: d\nsecret_keys: [y]\non_no_match: allow\n"

    again = "domain: d\nsecret_keys: [x]\non_no_match: deny\n"

    same = compile_policy({"a": first, "b": again}, MERGE)
    assert same.policy.domains["d"].secret_keys == {"x"}
    assert findings({"a": first, "b": other}, MERGE) == [
        (
            "b:2:1: secret_keys: the domain `d` has other secret keys in an earlier file; "
            "give the list in the first file of the domain"
        ),
        "b:3:1: on_no_match: another file of the domain `d` says otherwise",
    ]


def test_compile_merged_secret_keys_after_rules_is_an_error() -> None:
    files: dict[str, str | bytes] = {
        "a": "domain: d\ndescriptors: [{key: mail}]\n",
        "b": "domain: d\nsecret_keys: [mail]\n",
    }

    assert "give the list in the first file" in findings(files, MERGE)[0]


def test_compile_file_of_a_known_domain_is_still_checked() -> None:
    found = findings({"a": "domain: d\non_no_match: deny\n", "b": "domain: d\non_no_match: x\n"})

    assert len(found) == 2
    assert "`x`" in found[1]


def test_compile_merged_defaults_of_the_first_file_that_has_some_decide_about_requests() -> None:
    files: dict[str, str | bytes] = {
        "a": "domain: d\ndescriptors: [{key: a}]\n",
        "b": "domain: d\ndefaults: {on_store_failure: deny}\n",
        "c": "domain: d\ndefaults: {on_store_failure: deny, refusal_body: x}\n",
        "d": "domain: d\ndefaults: {on_store_failure: allow}\n",
    }

    compiled = compile_policy(files, MERGE)

    assert compiled.policy.domains["d"].on_store_failure is FailurePolicy.DENY
    assert not compiled.policy.domains["d"].counts_denied
    assert [str(warning) for warning in compiled.warnings] == [
        (
            "d:2:1: defaults: other `defaults` of the domain `d` stand in an earlier file; "
            "they decide about limits that requests bring, these about this file's rules alone"
        )
    ]
