import json
from pathlib import Path

from ratelimitd.policy.compile import compile_policy
from ratelimitd.policy.dump import to_document, to_rlconfig, to_table

VALID = Path(__file__).parents[2] / "data" / "policy" / "valid"


def test_rlconfig_has_the_lines_of_the_reference_server() -> None:
    policy = compile_policy({"modes.yaml": (VALID / "modes.yaml").read_bytes()}).policy

    assert to_rlconfig(policy).splitlines() == [
        "modes.shadowed: unit=DAY requests_per_unit=1, shadow_mode: true, quota_mode: false",
        "modes.quota: unit=DAY requests_per_unit=2, shadow_mode: false, quota_mode: true",
        "modes.free: unit=UNKNOWN requests_per_unit=0, shadow_mode: false, quota_mode: false",
        "modes.noted: unit=SECOND requests_per_unit=3, shadow_mode: false, quota_mode: false",
    ]


def test_rlconfig_of_an_empty_policy_is_empty() -> None:
    assert to_rlconfig(compile_policy({}).policy) == ""


def test_table_of_an_empty_policy_is_its_heading() -> None:
    assert to_table(compile_policy({}).policy) == ["RULE  LIMIT  MODES  POSITION"]


def test_document_is_json_and_names_every_rule() -> None:
    files = {path.name: path.read_bytes() for path in VALID.glob("*.yaml")}
    policy = compile_policy(files).policy

    document = json.loads(json.dumps(to_document(policy)))

    assert document["revision"] == policy.revision
    assert [domain["domain"] for domain in document["domains"]] == list(policy.domains)
    for line in to_rlconfig(policy).splitlines():
        assert f'"{line.split(": unit=")[0]}"' in json.dumps(document)


def test_document_shows_what_a_rule_says() -> None:
    text = (
        "domain: d\nsecret_keys: [s]\ndescriptors:\n"
        "  - key: s\n    value: hunter2\n    share_threshold: false\n    value_to_metric: true\n"
        "    metadata: {a: [1]}\n    rate_limit:\n      name: n\n      unit: minute\n"
        "      requests_per_unit: 3\n      replaces: [{name: b}]\n      override: keep\n"
        "    descriptors:\n      - {key: w, value: '*', share_threshold: true}\n"
    )

    document = to_document(compile_policy({"d": text}).policy)

    domain = json.loads(json.dumps(document))["domains"][0]
    assert domain == {
        "domain": "d",
        "position": "d:1:1",
        "on_no_match": "allow",
        "secret_keys": ["s"],
        "descriptors": [
            {
                "name": "s_#f52fbd32",
                "rule": "d.s_#f52fbd32",
                "matches": "exact",
                "position": "d:4:5",
                "value_to_metric": True,
                "sensitive": True,
                "limit": {
                    "position": "d:9:5",
                    "name": "n",
                    "replaces": ["b"],
                    "algorithm": "fixed_window",
                    "unit": "minute",
                    "window_s": 60,
                    "requests_per_unit": 3,
                    "problem_body": True,
                    "shadow_mode": False,
                    "quota_mode": False,
                    "detailed_metric": False,
                    "count_denied": False,
                    "on_store_failure": "error",
                    "refusal_body": "",
                    "override": "keep",
                    "metadata": {"a": [1]},
                },
                "descriptors": [
                    {
                        "name": "w_*",
                        "rule": "d.s_#f52fbd32.w_*",
                        "matches": "wildcard",
                        "position": "d:16:9",
                        "share_threshold": True,
                    }
                ],
            }
        ],
    }
    assert "hunter2" not in json.dumps(document)
