"""What docs/policy.md says is so."""

import re
from pathlib import Path

import pytest

from ratelimitd.errors import PolicyError
from ratelimitd.policy import (
    callers_file,
    document,
    domain_settings,
    fields,
    limits,
    metadata,
    schema,
    tree,
)
from ratelimitd.policy import compile as compile_module
from ratelimitd.policy.callers import CALLERS_FILE
from ratelimitd.policy.compile import compile_policy
from ratelimitd.policy.dump import to_table
from ratelimitd.policy_source import MAX_POLICY_BYTES
from ratelimitd.policy_walk import MAX_DIRECTORIES

TEXT = (Path(__file__).parents[3] / "docs" / "policy.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.DOTALL)
EXAMPLES = [body for language, body in BLOCKS if language == "yaml"]
OUTPUTS = [body for language, body in BLOCKS if not language]


def test_doc_examples_compile_without_warnings() -> None:
    for example in EXAMPLES[:-1]:
        is_callers = example.startswith("callers:")
        files = {"shop.yaml": EXAMPLES[0], CALLERS_FILE: example}
        assert compile_policy(files if is_callers else {"shop.yaml": example}).warnings == ()


def test_doc_shows_the_table_of_its_first_example() -> None:
    policy = compile_policy({"shop.yaml": EXAMPLES[0]}).policy

    assert OUTPUTS[0].splitlines()[1:] == to_table(policy)


def test_doc_shows_the_errors_of_its_last_example() -> None:
    with pytest.raises(PolicyError) as caught:
        compile_policy({"shop.yaml": EXAMPLES[-1]})

    assert str(caught.value).splitlines() == OUTPUTS[-1].splitlines()


@pytest.mark.parametrize("key", sorted(schema.UPSTREAM_KEYS | schema.OWN_KEYS))
def test_doc_has_a_row_for_every_key(key: str) -> None:
    mark = r" \*\(ours\)\*" if key in schema.OWN_KEYS else ""

    assert re.search(rf"^\| `{key}`{mark} \|", TEXT, re.MULTILINE)


@pytest.mark.parametrize("key", sorted(schema.OWN_KEYS))
def test_doc_shows_every_key_of_ours_in_an_example(key: str) -> None:
    assert re.search(rf"\b{key}:", "".join(EXAMPLES[:-1]))


@pytest.mark.parametrize(
    ("number", "what"),
    [
        (compile_module.MAX_FILES, "files, and directories"),
        (MAX_DIRECTORIES, "files, and directories"),
        (tree.MAX_DESCRIPTORS, "descriptors"),
        (tree.MAX_DESCRIPTOR_DEPTH, "levels of descriptors"),
        (document.MAX_NODES, "YAML nodes"),
        (document.MAX_DEPTH, "YAML lists and maps"),
        (fields.MAX_TEXT_CHARACTERS, "characters"),
        (domain_settings.MAX_SECRET_KEYS, "`secret_keys`"),
        (tree.MAX_LIMITS, "`limits` of a descriptor"),
        (limits.MAX_TIERS, "tiers of a limit"),
        (callers_file.MAX_SANS, "names in `callers.yaml`"),
    ],
)
def test_doc_names_the_bounds(number: int, what: str) -> None:
    assert f"| {number:,} | {what}" in TEXT


def test_doc_names_the_bounds_in_bytes_and_levels() -> None:
    mebibyte = 1024 * 1024

    assert f"| {document.MAX_FILE_BYTES // mebibyte} MiB | in a file; " in TEXT
    assert f"; {MAX_POLICY_BYTES // mebibyte} MiB in all |" in TEXT
    assert f"{metadata.MAX_METADATA_DEPTH} levels deep" in TEXT
