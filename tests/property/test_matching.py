import json
from contextlib import suppress
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ratelimitd.errors import PolicyError
from ratelimitd.policy.compile import CompileOptions, compile_policy
from ratelimitd.policy.explain import explain
from ratelimitd.policy.match import match, matches_pattern
from ratelimitd.policy.model import Domain
from tests.model.matching import Rule, counter_values, find, limit_of, metric_key

VALID = sorted((Path(__file__).parents[1] / "data" / "policy" / "valid").glob("*.yaml"))
SECRET = "zq-secret-7"
SPLICES = (
    *("\n", " ", "  ", "- ", ": ", "? ", "{", "}", "[", "]", '"', "'", "|\n", ">\n", "#", "\t"),
    *("*a", "&a ", "<<: ", "~", "!!int ", "1.5", "-1", "yes", "%", "@", "key", "\0"),
)

# Few characters, so that joined names meet: (a, b_a), (a_b, a) and a rule `a_b_a` are one name.
parts = st.text("ab_", min_size=1, max_size=3)
patterns = st.text("ab_**", min_size=1, max_size=4)
entries = st.lists(st.tuples(parts, st.text("ab_*", max_size=4)), max_size=4)


def unique(rules: list[Rule]) -> tuple[Rule, ...]:
    return tuple({rule.name: rule for rule in rules}.values())


@st.composite
def rules(draw: st.DrawFn, depth: int = 3) -> Rule:
    key = draw(st.one_of(parts, parts, patterns))
    value = draw(st.one_of(st.just(""), parts, patterns))
    children = draw(st.lists(rules(depth - 1), max_size=4)) if depth > 1 else []
    return Rule(
        key=key,
        value=value,
        requests_per_unit=draw(st.one_of(st.none(), st.integers(0, 2**32 - 1))),
        is_shared="*" in f"{key}_{value}" and draw(st.booleans()),
        shows_value=draw(st.booleans()),
        is_detailed=draw(st.integers(0, 4)) == 0,
        children=unique(children),
    )


def to_yaml(rule: Rule) -> dict[str, object]:
    limit = {"unit": "second", "requests_per_unit": rule.requests_per_unit}
    return {
        "key": rule.key,
        "value": rule.value,
        "rate_limit": limit if rule.requests_per_unit is not None else None,
        "share_threshold": rule.is_shared,
        "value_to_metric": rule.shows_value,
        "detailed_metric": rule.is_detailed,
        "sensitive": rule.is_sensitive,
        "descriptors": [to_yaml(child) for child in rule.children],
    }


def compiled(top: tuple[Rule, ...], secret_keys: tuple[str, ...] = ()) -> Domain:
    document = {
        "domain": "d",
        "secret_keys": secret_keys,
        "descriptors": [to_yaml(rule) for rule in top],
    }
    return compile_policy({"d.yaml": json.dumps(document)}).policy.domains["d"]


@settings(max_examples=10 * settings().max_examples)
@given(
    top=st.lists(rules(), min_size=1, max_size=5).map(unique),
    requests=st.lists(entries, min_size=1, max_size=8),
)
@example(top=(Rule("a", "b_a"), Rule("a_b", "*")), requests=[[("a_b", "a")]])
@example(top=(Rule("a", "a*a", 1),), requests=[[("a", "a")], [("a", "aa")]])
def test_match_agrees_with_the_model(
    top: tuple[Rule, ...], requests: list[list[tuple[str, str]]]
) -> None:
    # given
    domain = compiled(top)

    for request in requests:
        # when
        found = match(domain, request)
        expected = find(top, request)

        # then
        limit = found.limit.requests_per_unit if found.limit else None
        assert limit == limit_of(expected)
        assert [part.node.name for part in found.parts] == [r.name for r in expected.rules]
        assert [part.matched_by for part in found.parts] == expected.ways
        assert [part.counter_value for part in found.parts] == counter_values(expected, request)
        assert (found.node is not None) == expected.is_complete
        assert found.metric_key == metric_key(expected, request)
        if found.limit is not None:
            assert found.limit.position.line == 1


@given(
    top=st.lists(rules(), min_size=1, max_size=5).map(unique),
    request=st.lists(st.tuples(parts, st.sampled_from(["a", "b", "", SECRET])), max_size=4),
)
def test_secret_value_is_in_no_metric_key_and_no_explanation(
    top: tuple[Rule, ...], request: list[tuple[str, str]]
) -> None:
    # given a domain where every key is secret
    domain = compiled(top, tuple({key for key, _ in request}))

    # when
    found = match(domain, request)
    explanation = explain(domain, request)

    # then
    assert all(part.is_secret for part in found.parts)
    assert SECRET not in found.metric_key
    assert SECRET not in repr(explanation)


@given(pieces=st.lists(st.text("ab", max_size=2), min_size=2, max_size=4), text=st.text("ab"))
def test_matches_pattern_finds_what_a_pattern_was_filled_with(pieces: list[str], text: str) -> None:
    filled = text.join(pieces)

    assert matches_pattern(tuple(pieces), filled)


def compile_or_refuse(content: str | bytes) -> None:
    with suppress(PolicyError):
        compile_policy({"fuzz": content}, CompileOptions(merge_domains=True))


@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=200)))
@example(content="[" * 10_000)
@example(content="{" * 10_000)
@example(content="- " * 10_000)
@example(content="? " * 10_000)
@example(content="a: &a [*a, *a]")
@example(content="%YAML 9.9\n---\na: b")
@example(content="\ufeff\ufeff")
@example(content="a: \ud800")
@example(content="a: \ue000\ufeff\x85")
def test_compile_never_raises_anything_else_for_any_bytes(content: str | bytes) -> None:
    compile_or_refuse(content)


@given(data=st.data())
def test_compile_never_raises_anything_else_for_mutated_files(data: st.DataObject) -> None:
    # given a valid file, cut and spliced in a few places
    text = data.draw(st.sampled_from(VALID)).read_text()
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 5)))
        text = text[:start] + data.draw(st.sampled_from(SPLICES)) + text[end:]

    # then
    compile_or_refuse(text)
