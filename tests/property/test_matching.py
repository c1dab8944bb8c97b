import json
from contextlib import suppress
from pathlib import Path
from random import Random

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
TEXTS = ("a", "b", "_", "a_", "_b", "ab", "a_b", "b_a", "aab")
PATTERNS = ("*", "a*", "*b", "a*b", "*a*", "a_*", "a*a", "a*b*b", "**", "*_*a")
Entry = tuple[str, str]


def some_rules(rng: Random, depth: int = 3) -> tuple[Rule, ...]:
    """Rules of one level, each name once."""
    found = [some_rule(rng, depth) for _ in range(rng.randint(1, 4))]
    return tuple({rule.name: rule for rule in found}.values())


def some_rule(rng: Random, depth: int) -> Rule:
    key = rng.choice(PATTERNS if rng.random() < 0.15 else TEXTS)
    value = rng.choice(("", rng.choice(TEXTS), rng.choice(PATTERNS)))
    return Rule(
        key=key,
        value=value,
        requests_per_unit=rng.choice((None, rng.randint(0, 9))),
        is_shared="*" in key + value and rng.random() < 0.4,
        shows_value=rng.random() < 0.3,
        is_detailed=rng.random() < 0.2,
        children=some_rules(rng, depth - 1) if depth > 1 and rng.random() < 0.6 else (),
    )


def some_entries(rng: Random, rules: tuple[Rule, ...], values: tuple[str, ...]) -> list[Entry]:
    """A descriptor that mostly goes down the rules; stars are filled with a little text."""
    entries: list[Entry] = []
    while rng.random() < 0.85 and len(entries) < 5:
        rule = rng.choice(rules) if rules and rng.random() < 0.9 else Rule(rng.choice(TEXTS))
        key = rule.key.replace("*", rng.choice(("", "a", "*", "_b"))) or "a"
        value = rule.value or rng.choice(values)
        if rng.random() < 0.9:
            value = value.replace("*", rng.choice(values))
        entries.append((key, value))
        rules = rule.children
    return entries


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
@given(seed=st.integers(0, 2**63))
def test_match_agrees_with_the_model(seed: int) -> None:
    # given
    rng = Random(seed)
    top = some_rules(rng)
    domain = compiled(top)

    for _ in range(8):
        # when
        request = some_entries(rng, top, ("", "a", "b", "_", "ab", "b_", "a*"))
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


@given(seed=st.integers(0, 2**63))
def test_secret_value_is_in_no_metric_key_and_no_explanation(seed: int) -> None:
    # given requests whose keys are all secret
    rng = Random(seed)
    top = some_rules(rng)
    requests = [some_entries(rng, top, (SECRET,)) for _ in range(8)]
    domain = compiled(top, tuple({key for request in requests for key, _ in request}))

    for request in requests:
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
