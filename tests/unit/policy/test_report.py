import difflib

import pytest

from ratelimitd.errors import PolicyError
from ratelimitd.policy import report, schema
from ratelimitd.policy.compile import compile_policy
from ratelimitd.policy.report import MAX_FINDINGS, MAX_SUGGESTIONS


def junk(count: int) -> str:
    """Return a file with `count` unknown keys."""
    return "domain: d\n" + "".join(f"descriptorz{index}: 1\n" for index in range(count))


def test_report_keeps_the_first_findings_and_counts_the_rest() -> None:
    with pytest.raises(PolicyError) as caught:
        compile_policy({"junk": junk(MAX_FINDINGS + 1234), "short": "domain: [x]\n"})

    found = [str(finding) for finding in caught.value.findings]
    assert len(found) == MAX_FINDINGS + 3
    assert found[0].startswith("junk:2:1: descriptorz0: unknown key")
    assert found[MAX_FINDINGS] == "junk: and 1,234 more errors"
    assert found[MAX_FINDINGS + 1].startswith("short:1:9: ")


def test_report_keeps_the_first_warnings_and_counts_the_rest() -> None:
    rules = "".join(
        f"  - key: k{index}\n    rate_limit: {{unit: day, requests_per_unit: 010}}\n"
        for index in range(MAX_FINDINGS + 2)
    )

    warnings = compile_policy({"a": "domain: d\ndescriptors:\n" + rules}).warnings

    assert len(warnings) == MAX_FINDINGS + 1
    assert str(warnings[-1]) == "a: and 2 more warnings"


def test_report_names_a_place_once() -> None:
    one = report.Report("a")
    one.error(None, "x", "first")
    one.error(None, "x", "second")

    assert [finding.message for finding in one.errors] == ["first"]


def test_report_looks_up_a_few_suggestions_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def counted(word: str, known: list[str], n: int, cutoff: float) -> list[str]:
        asked.append(word)
        return difflib.get_close_matches(word, known, n, cutoff)

    monkeypatch.setattr(schema, "get_close_matches", counted)
    with pytest.raises(PolicyError) as caught:
        compile_policy({"junk": junk(5_000)})

    assert len(set(asked)) == MAX_SUGGESTIONS
    found = caught.value.findings
    assert found[MAX_SUGGESTIONS - 1].message.endswith("did you mean `descriptors`?")
    assert found[MAX_SUGGESTIONS].message == "unknown key"
