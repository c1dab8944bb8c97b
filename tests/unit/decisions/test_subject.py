from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from ratelimitd.decisions.keys import fingerprint
from ratelimitd.decisions.subject import (
    EMPTY,
    AmountOverride,
    Block,
    Subject,
    at,
    blocks_of,
)
from ratelimitd.decisions.subject_entry import (
    entry_field,
    key_of,
    names_of,
    shown,
    take_apart,
)
from ratelimitd.policy.compile import compile_policy

SECRET = b"s" * 32
texts = st.text(alphabet=st.sampled_from("ab_|=~#%!:{}é \n\x00"), max_size=6)
entries = st.tuples(
    texts,
    st.one_of(texts, st.sampled_from(["k" * 97, "k" * 98])).filter(bool),
    st.one_of(texts, st.sampled_from(["v" * 96, "v" * 97, "é" * 90])),
    st.booleans(),
)


def field_of(domain: str, key: str, value: str, *, is_secret: bool = False) -> str:
    return entry_field(domain, key, value, is_secret=is_secret, hash_secret=SECRET)


@given(entries, entries)
def test_different_entries_never_share_a_name(
    one: tuple[str, str, str, bool], other: tuple[str, str, str, bool]
) -> None:
    assume(one != other)
    names = [field_of(d, k, v, is_secret=secret) for d, k, v, secret in (one, other)]
    assert names[0] != names[1]


@given(entries)
def test_name_tells_domain_and_key_and_is_short(entry: tuple[str, str, str, bool]) -> None:
    # given
    domain, key, value, is_secret = entry
    # when
    name = field_of(domain, key, value, is_secret=is_secret)
    # then
    parts = take_apart(name)
    assert parts is not None
    assert parts.domain == domain
    assert parts.key == ("" if len(key) > 96 else key)
    assert key_of(name) == parts.key
    assert len(name) <= len(domain.encode()) * 3 + 2 * 96 + 2
    first, beyond = names_of(domain)
    assert first <= name < beyond


def test_value_is_shown_whole_and_a_secret_by_eight_digits() -> None:
    # given
    digits = fingerprint(SECRET, "topsecret")
    secret = field_of("api", "api_key", "topsecret", is_secret=True)
    # then
    assert secret == f"api|api_key#{digits}"
    assert shown(secret) == f"api_key=#{digits[:8]}"
    assert shown(field_of("api", "user", "é|x")) == "user=é|x"
    assert shown(field_of("api", "user", "x" * 200)).startswith("user=~")
    assert len(shown(field_of("api", "user", "x" * 200))) == len("user=~") + 8
    assert shown("nonsense") == "(unreadable)"


def test_key_is_secret_once_a_rule_calls_it_so() -> None:
    # given
    text = """
domain: api
descriptors:
  - {key: user, sensitive: true}
  - key: path
    descriptors:
      - {key: mail, value: "a*", sensitive: true, rate_limit: {unit: day, requests_per_unit: 1}}
  - {key: open, value: x}
"""
    domain = compile_policy({"p.yaml": text}).policy.domains["api"]
    # then
    assert {"api_key", "user", "mail"} <= domain.hidden_keys
    assert not {"path", "open"} & domain.hidden_keys


def test_subject_loses_what_has_expired() -> None:
    # given
    short = AmountOverride("a", 5, until_us=20)
    lasting = AmountOverride("b", 6)
    subject = Subject("pro", 30, (short, lasting), "why", 7)
    # then
    assert subject.next_change_us == 20
    assert at(subject, 19) is subject
    first = at(subject, 20)
    assert first == Subject("pro", 30, (lasting,), "why", 7)
    second = at(first, 30)
    assert second == Subject("", None, (lasting,), "why", 7)
    assert second.next_change_us is None
    assert at(second, 10**18) is second


def test_amount_is_that_of_the_limit_before_that_of_all() -> None:
    # given
    subject = Subject(overrides=(AmountOverride("*", 9), AmountOverride("a", 5)))
    # then
    assert subject.amount_for("a") == 5
    assert subject.amount_for("b") == 9
    assert subject.amount_for("") == 9
    assert replace(subject, overrides=subject.overrides[::-1]).amount_for("a") == 5
    assert Subject(overrides=(AmountOverride("a", 5),)).amount_for("b") is None
    assert Subject().amount_for("a") is None


def test_suspension_stands_above_every_amount() -> None:
    # given
    amounts = (AmountOverride("a", 5), AmountOverride("*", 0, until_us=10))
    subject = Subject(overrides=amounts)
    # then
    assert subject.is_suspended
    assert subject.amount_for("a") == subject.amount_for("b") == 0
    assert at(subject, 10).amount_for("a") == 5
    assert not at(subject, 10).is_suspended
    assert not Subject(overrides=(AmountOverride("a", 0),)).is_suspended


def test_block_is_found_by_the_entries_of_its_domain() -> None:
    # given
    one, two = field_of("api", "user", "x"), field_of("web", "user", "x")
    block = Block("api", one, None, "abuse")
    blocks = blocks_of([block])
    # then
    assert blocks.find("api", [field_of("api", "a", "b"), one]) is block
    assert blocks.find("api", [field_of("api", "user", "y")]) is None
    assert blocks.find("web", [two]) is None
    assert blocks.keys == {"api": frozenset({"user"})}
    assert len(blocks) == 1
    assert EMPTY.find("api", [one]) is None


def test_blocks_that_ended_leave_a_new_value() -> None:
    # given
    lasting = Block("api", field_of("api", "user", "x"))
    ending = Block("web", field_of("web", "ip", "1"), until_us=50)
    blocks = blocks_of([lasting, ending])
    # then
    assert blocks.next_change_us == 50
    assert blocks.at(49) is blocks
    assert blocks.at(50) == blocks_of([lasting])
    assert "web" not in blocks.at(50).keys
    assert blocks_of([lasting, replace(lasting, reason="again")]).find("api", [lasting.entry])
