import json
from itertools import pairwise
from pathlib import Path

import pytest

from ratelimitd.errors import PolicyError
from ratelimitd.policy.compile import CompileOptions, compile_policy
from ratelimitd.policy.dump import to_document, to_json_head, to_rlconfig
from ratelimitd.policy.loaded import RELEASED_PER_STEP, release
from ratelimitd.policy.transfer import (
    MAX_ERRORS,
    MAX_WARNINGS,
    NAMES_PER_FRAME,
    NODES_PER_FRAME,
    Assembly,
    compile_to_frames,
    load,
)
from ratelimitd.telemetry.series import names_of

VALID = Path(__file__).parents[2] / "data" / "policy" / "valid"


def valid_files() -> dict[str, str | bytes]:
    return {path.name: path.read_bytes() for path in VALID.glob("*.yaml")}


def many(rules: int) -> dict[str, str | bytes]:
    """Return a policy of `rules` limits at two levels."""
    lines = [f"  - {{key: k, value: v{index}, descriptors: [" for index in range(rules)]
    leaf = "{key: x, rate_limit: {unit: day, requests_per_unit: 1}}]}"
    return {"many": "domain: many\ndescriptors:\n" + "".join(f"{line}{leaf}\n" for line in lines)}


def test_load_gives_the_policy_that_was_compiled() -> None:
    files = valid_files() | many(200)

    loaded = load(compile_to_frames(files))

    policy = compile_policy(files).policy
    assert loaded.policy == policy
    assert list(loaded.policy.domains) == list(policy.domains)
    for name, domain in policy.domains.items():
        assert list(loaded.policy.domains[name].root.exact) == list(domain.root.exact)
        for mine, theirs in zip(
            loaded.policy.domains[name].root.wildcards, domain.root.wildcards, strict=True
        ):
            assert mine == theirs
            assert loaded.policy.domains[name].root.exact[mine.node.name] is mine.node


def test_load_gives_the_names_that_a_walk_finds() -> None:
    files = valid_files() | many(3)

    loaded = load(compile_to_frames(files))

    assert loaded.names == names_of(compile_policy(files).policy)


def test_load_gives_pages_in_pieces() -> None:
    files = valid_files() | many(1_000)

    loaded = load(compile_to_frames(files))

    policy = compile_policy(files).policy
    page = to_json_head(policy.revision, ["a: wrong"]).encode() + b"".join(loaded.listing.document)
    document = to_document(policy)
    assert json.loads(page) == {
        "revision": policy.revision,
        "load_errors": ["a: wrong"],
        "domains": document["domains"],
    }
    assert len(loaded.listing.document) > 1
    assert b"".join(loaded.listing.rlconfig).decode() == to_rlconfig(policy)


def test_load_gives_the_callers() -> None:
    entries = "".join(
        f"  - {{san: [h{number}, i{number}], domains: [d{number % 7}, e], methods: all}}\n"
        for number in range(2 * NAMES_PER_FRAME)
    )
    files: dict[str, str | bytes] = {"a": "domain: e", "callers.yaml": f"callers:\n{entries}"}

    with_callers, without = load(compile_to_frames(files)), load(compile_to_frames(many(1)))

    compiled = compile_policy(files)
    assert compiled.callers is not None
    assert with_callers.callers == compiled.callers
    assert with_callers.policy == compiled.policy
    assert without.callers is None
    # Entries of some thousand names, and names of some thousand entries, are several frames each.
    frames = len(list(compile_to_frames(files))) - len(list(compile_to_frames({"a": "domain: e"})))
    assert frames >= 6 + 4


def test_load_bounds_the_warnings() -> None:
    rule = "rate_limit: {unit: day, requests_per_unit: 010}"
    lines = "".join(f"  - {{key: k{index}, {rule}}}\n" for index in range(MAX_WARNINGS + 3))

    loaded = load(compile_to_frames({"a": f"domain: d\ndescriptors:\n{lines}"}))

    assert len(loaded.warnings) == MAX_WARNINGS
    assert loaded.more_warnings == 3
    assert "is octal" in loaded.warnings[0]


def test_load_raises_the_first_errors_and_counts_the_rest() -> None:
    junk = "domain: d\n" + "".join(f"x{index}: 1\n" for index in range(90))

    with pytest.raises(PolicyError) as few:
        load(compile_to_frames({"a": junk}))
    with pytest.raises(PolicyError) as many_errors:
        load(compile_to_frames({"a": junk, "b": junk}, CompileOptions(merge_domains=True)))

    assert len(few.value.findings) == 90
    assert len(many_errors.value.findings) == MAX_ERRORS + 1
    assert str(many_errors.value.findings[-1]) == (
        "policy: and 80 more errors; see `ratelimitd validate`"
    )


def test_frames_hold_a_bounded_part_of_the_tree_each() -> None:
    few, more = (len(list(compile_to_frames(many(count)))) for count in (500, 1_000))

    # Two nodes for each rule, and the root: never all in one frame.
    assert few > 1_000 / NODES_PER_FRAME
    assert more - few >= 1_000 / NODES_PER_FRAME


def test_assembly_is_complete_with_its_last_frame() -> None:
    frames = list(compile_to_frames(many(1)))
    assembly = Assembly()

    for frame in frames:
        assert not assembly.is_complete
        assembly.add(frame)

    assert assembly.is_complete


def test_release_empties_the_parts_some_at_a_time() -> None:
    parts = load(compile_to_frames(many(RELEASED_PER_STEP))).parts
    sizes = [len(parts)]

    sizes += [len(parts) for _ in release(parts)]

    assert sizes[-1] == 0
    assert max(a - b for a, b in pairwise(sizes)) == RELEASED_PER_STEP
