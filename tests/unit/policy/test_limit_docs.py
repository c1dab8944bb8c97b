"""What docs/algorithms.md and docs/refusals.md show is so."""

import json
import re
from pathlib import Path

import pytest

from ratelimitd.decisions.facts import Facts
from ratelimitd.decisions.fold import fold
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.planning import make_plan
from ratelimitd.policy.compile import compile_policy
from ratelimitd.policy.model import Algorithm
from tests.model.limits import ModelStore
from tests.support.decide import NOW_US, SECRET, descriptor_of, request_of

DOCS = Path(__file__).parents[3] / "docs"
ALGORITHMS = (DOCS / "algorithms.md").read_text()
REFUSALS = (DOCS / "refusals.md").read_text()
BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)


def blocks(text: str, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(text) if kind == language]


@pytest.mark.parametrize("example", [*blocks(ALGORITHMS, "yaml"), *blocks(REFUSALS, "yaml")])
def test_doc_example_compiles_without_warnings(example: str) -> None:
    assert compile_policy({"example.yaml": example}).warnings == ()


@pytest.mark.parametrize("algorithm", Algorithm)
def test_doc_explains_and_shows_every_algorithm(algorithm: Algorithm) -> None:
    assert f"\n## {algorithm}\n" in ALGORITHMS
    assert f"(plots/{algorithm}.png)" in ALGORITHMS


def test_doc_shows_what_a_refused_client_reads() -> None:
    # given the first example of the page, with its burst spent
    example = compile_policy({"shop.yaml": blocks(REFUSALS, "yaml")[0]}).policy
    options = DecisionOptions(has_dynamic_metadata=True)
    request = request_of(descriptor_of(("api_key", "k")), domain="shop")
    plan = make_plan(example, request, options, SECRET, Facts(now_us=NOW_US))
    store = ModelStore()
    store.check([plan] * 20, NOW_US)
    # when
    (reply,) = store.check([plan], NOW_US)
    refused = fold(plan, reply, options)
    # then
    headers = "".join(f"{name}: {value}\n" for name, value in refused.headers)
    assert headers == blocks(REFUSALS, "")[0]
    body, metadata = blocks(REFUSALS, "json")
    assert refused.raw_body.decode() == body.strip()
    assert refused.metadata is not None
    assert {"limits": refused.metadata["limits"]} == json.loads(metadata)
