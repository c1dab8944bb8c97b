from pathlib import Path

import pytest

from ratelimitd.errors import PolicyError
from ratelimitd.policy import callers_file
from ratelimitd.policy.callers import CALLERS_FILE
from ratelimitd.policy.callers_file import METHODS
from ratelimitd.policy.compile import Compiled, CompileOptions, compile_policy
from ratelimitd.policy.dump import to_callers_table
from ratelimitd.policy.fields import MAX_TEXT_CHARACTERS

DATA = Path(__file__).parents[2] / "data" / "callers"
EXAMPLE = Path(__file__).parents[3] / "examples" / "callers"
HIT = METHODS[0]
ENTRY = f"callers:\n  - san: %s\n    domains: [shop]\n    methods: [{HIT}]\n"


def expected(name: str) -> list[str]:
    return (DATA / f"{name}.expected").read_text().splitlines()


def compiled(text: str, options: CompileOptions | None = None) -> Compiled:
    return compile_policy({"shop.yaml": "domain: shop", CALLERS_FILE: text}, options)


def errors(text: str, options: CompileOptions | None = None) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        compiled(text, options)
    return [str(finding).removeprefix("callers.yaml:") for finding in caught.value.findings]


def warnings(text: str) -> list[str]:
    return [str(found).removeprefix("callers.yaml:") for found in compiled(text).warnings]


def test_absent_file_restricts_nobody() -> None:
    assert compile_policy({"shop.yaml": "domain: shop"}).callers is None


def test_file_belongs_to_the_revision_and_makes_no_domain() -> None:
    one, other = compiled(ENTRY % "a.internal"), compiled(ENTRY % "b.internal")

    assert list(one.policy.domains) == ["shop"]
    assert one.policy.revision != other.policy.revision
    assert one.warnings == ()


def test_every_error_is_told_at_once_with_its_position() -> None:
    assert errors((DATA / "errors.yaml").read_text()) == expected("errors")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", " the file is empty; it needs at least `callers:`"),
        ("[]", "1:1: the file must be a map with the key `callers`, not a list or text"),
        ("callers: [", "2:1: not valid YAML: did not find expected node content"),
        ("callers:", "1:1: callers: names nobody; list who may call, or take the file away"),
        ("callers: []", "1:1: callers: names nobody; list who may call, or take the file away"),
        ("callers: {a: b}", "1:10: callers: must be a list, not a map"),
        ("callers: []\n---\n", "1:1: callers: names nobody"),
    ],
)
def test_file_that_says_nothing_is_an_error(text: str, told: str) -> None:
    assert errors(text)[0].startswith(told)


def test_errors_of_policy_files_and_of_callers_come_together() -> None:
    with pytest.raises(PolicyError) as caught:
        compile_policy({"a.yaml": "domain: a\nx: 1", "callers.yaml": "x: 1", "d.yaml": "x: 1"})

    files = [finding.file for finding in caught.value.findings]
    assert files == ["a.yaml", "callers.yaml", "callers.yaml", "d.yaml", "d.yaml"]


def test_file_without_client_certificates_is_an_error() -> None:
    (told,) = errors(ENTRY % "a.internal", CompileOptions(knows_callers=False))

    assert "without client certificates nobody can be told apart" in told
    assert "--grpc-client-ca" in told


@pytest.mark.parametrize("name", ["callers.yml", "team/callers.yaml", "Callers.yaml"])
def test_file_of_another_name_that_lists_callers_is_an_error(name: str) -> None:
    with pytest.raises(PolicyError, match=r"callers: who may call stands in callers\.yaml alone"):
        compile_policy({"shop.yaml": "domain: shop", name: ENTRY % "a.internal"})


def test_what_is_probably_not_meant_is_a_warning() -> None:
    assert warnings((DATA / "warnings.yaml").read_text()) == expected("warnings")


@pytest.mark.parametrize(
    "san",
    [
        "spiffe://prod.example",
        "spiffe://prod_1.example/ns/a-b/sa/C.d_e",
        "https://issuer.example/path?x=1#y",
        "urn:uuid:1f0c9a3e",
        "ops+envoy@mail.example",
        "xn--bcher-kva.example",
        "_service.host",
        "007",
        "on",
    ],
)
def test_names_of_certificates_are_accepted(san: str) -> None:
    assert warnings(ENTRY % san) == []


@pytest.mark.parametrize(
    "san",
    [
        "spiffe://prod.example/",
        "spiffe://prod.example//a",
        "spiffe://prod.example/a/../b",
        "spiffe://prod.example/./b",
        "spiffe://prod.example/a?b",
        "spiffe://prod.example:80/a",
        "spiffe:prod.example",
        "SPIFFE://prod.example/a",
        "bücher.example",
        "-a.example",
        "a@",
        "fe80::1",
    ],
)
def test_names_that_no_certificate_has_are_errors(san: str) -> None:
    assert errors(ENTRY % san)[0].startswith("2:10: callers[0].san: `")


def test_anchors_and_merges_work() -> None:
    found = compiled((DATA / "anchors.yaml").read_text())

    assert found.warnings == ()
    assert found.callers is not None
    assert to_callers_table(found.callers) == expected("anchors")


def test_example_has_no_warnings() -> None:
    files = {path.name: path.read_bytes() for path in EXAMPLE.iterdir()}

    assert compile_policy(files).warnings == ()


def test_bounds_are_errors() -> None:
    names = ", ".join(f"d{number}" for number in range(callers_file.MAX_NAMES + 1))
    entries = "".join(
        f"  - {{san: h{number}, domains: *all, methods: all}}\n" for number in range(101)
    )
    sans = ", ".join(f"h{number}" for number in range(callers_file.MAX_SANS))

    wide = errors(f"callers:\n  - {{san: a, domains: [{names}], methods: all}}\n")
    long = errors(ENTRY % ("a" * (MAX_TEXT_CHARACTERS + 1)))
    granted = errors(
        f"callers:\n  - {{san: x, domains: &all [{names[: names.rindex(',')]}], methods: all}}\n"
        + entries
    )
    many = errors((ENTRY % f"[{sans}]") + "  - {san: one.more, domains: all, methods: all}\n")

    assert wide == ["2:23: callers[0].domains: has 1,001 items; at most 1,000 are accepted"]
    assert long == ["2:10: callers[0].san: has 4,097 characters; at most 4,096 are accepted"]
    assert granted[0].startswith("102:5: callers[100]: up to here there are 101 callers and 101,0")
    assert many[0].startswith("5:5: callers[1]: up to here there are 10,001 callers and 2 domains")
