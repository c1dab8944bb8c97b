"""What the keys of a limit that are ours become, where a table does not show it."""

import pytest

from ratelimitd.policy.active import active_policy
from ratelimitd.policy.compile import CompileOptions, compile_policy
from ratelimitd.policy.dump import to_document
from ratelimitd.policy.loaded import RuleNames
from ratelimitd.policy.match import limit_metric_key, match, take_attributes
from ratelimitd.policy.model import Calendar, HeaderStyle, Limit, Subjects, Unit
from ratelimitd.policy.transfer import compile_to_frames, load
from ratelimitd.telemetry.series import names_of
from tests.unit.policy.test_compile import findings, limit_of

DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000
DAY = "unit: day, requests_per_unit: 1"
SUBJECTS = "subjects: {key: api_key, tier: plan}\n"
MERGE = CompileOptions(merge_domains=True)


def limit_with(keys: str, top: str = "") -> Limit:
    return limit_of(f"domain: d\n{top}descriptors:\n  - {{key: k, rate_limit: {{{keys}}}}}\n")


@pytest.mark.parametrize(
    "keys",
    [
        "window: 1d, requests_per_unit: 1",
        f"{DAY}, burst: 1, algorithm: gcra",
        f"{DAY}, calendar: true",
        f"{DAY}, from: 2027-01-01T00:00:00Z",
        f"{DAY}, until: 2027-01-01T00:00:00Z",
        f"{DAY}, max_new_keys_per_second: 1",
        f"{DAY}, retry_jitter: 1",
        f"{DAY}, scope: global",
        "unit: day, requests_per_unit: {default: 1}",
        "algorithm: concurrency, slot: r, requests_per_unit: 1",
    ],
)
def test_rule_with_a_key_of_ours_keeps_denied_hits_and_itself(keys: str) -> None:
    limit = limit_with(keys, SUBJECTS)

    assert not limit.counts_denied
    assert not limit.has_upstream_override
    assert limit.has_problem_body


def test_list_of_one_limit_is_ours_too() -> None:
    limit = limit_of(f"domain: d\ndescriptors:\n  - {{key: k, limits: [{{{DAY}}}]}}\n")

    assert (limit.counts_denied, limit.has_siblings) == (False, False)


@pytest.mark.parametrize(
    ("defaults", "own", "body", "has_problem"),
    [
        ("", "scope: global", "", True),
        ("", "scope: global, refusal_body: ''", "", False),
        ("", "scope: global, refusal_body: ~", "", True),
        ("", "refusal_body: no", "no", False),
        ("refusal_body: wait", "scope: global", "wait", False),
        ("refusal_body: wait", "scope: global, refusal_body: ~", "wait", False),
        ("refusal_body: wait", "refusal_body: ''", "", False),
    ],
)
def test_refusal_body_is_a_problem_where_nothing_is_said(
    defaults: str, own: str, body: str, has_problem: bool
) -> None:
    limit = limit_with(f"{DAY}, {own}", f"defaults: {{{defaults}}}\n")

    assert (limit.refusal_body, limit.has_problem_body) == (body, has_problem)


@pytest.mark.parametrize(
    ("keys", "unit", "window_us"),
    [
        ("window: 60s", Unit.MINUTE, 60_000_000),
        ("window: 7d", Unit.WEEK, 7 * DAY_US),
        ("window: 24h", Unit.DAY, DAY_US),
        ("window: 61s", Unit.UNKNOWN, 61_000_000),
        ("unit: day, calendar: true", Unit.DAY, DAY_US - HOUR_US),
        ("unit: week, calendar: true", Unit.WEEK, 7 * DAY_US - HOUR_US),
    ],
)
def test_window_that_is_a_unit_is_called_so(keys: str, unit: Unit, window_us: int) -> None:
    limit = limit_with(f"requests_per_unit: 1, {keys}")

    assert (limit.unit, limit.window_us) == (unit, window_us)


def test_calendar_has_utc_and_the_first_day_where_nothing_is_said() -> None:
    plain = limit_with("unit: month, calendar: true, requests_per_unit: 1")
    told = limit_with(
        "unit: month, calendar: true, timezone: Asia/Kathmandu, anchor_day: 31, "
        "requests_per_unit: 1"
    )

    assert plain.calendar == Calendar(Unit.MONTH)
    assert told.calendar == Calendar(Unit.MONTH, "Asia/Kathmandu", 31)


def test_debt_of_gcra_is_one_burst_or_what_can_be_counted() -> None:
    short = limit_with("unit: second, algorithm: gcra, requests_per_unit: 10, burst: 20")
    tight = limit_with("unit: year, algorithm: gcra, requests_per_unit: 1, burst: 100")

    assert (short.max_debt, short.debt) == (None, 20)
    assert tight.debt == 42
    assert (tight.capacity + tight.debt) * tight.window_us <= 2**52


def test_bound_on_new_keys_is_for_subjects_alone() -> None:
    # given one for all rules of a file
    top = "defaults: {max_new_keys_per_second: 9}\n"

    found = [limit_with(f"{DAY}, scope: {scope}", SUBJECTS + top) for scope in ("subject", "tier")]

    assert [limit.max_new_keys_per_second for limit in found] == [9, 0]


def test_instant_keeps_its_microseconds() -> None:
    limit = limit_with(f"{DAY}, from: 2027-01-01T01:00:00.000001+01:00")

    assert limit.from_us == 1_798_761_600_000_001
    document = to_document(
        compile_policy(
            {
                "d": f"domain: d\ndescriptors: [{{key: k, rate_limit: {{{DAY}, "
                "from: 2027-01-01T01:00:00.000001+01:00}}]"
            }
        ).policy
    )
    assert "2027-01-01T00:00:00.000001Z" in str(document)


def test_domain_knows_what_is_taken_out_and_which_calendars_it_has() -> None:
    domain = compile_policy(
        {
            "d": f"domain: d\n{SUBJECTS}partition_by: api_key\nheaders: upstream\ndescriptors:\n"
            "  - key: api_key\n    limits:\n"
            "      - {name: a, algorithm: concurrency, slot: request_id, requests_per_unit: 1}\n"
            "    descriptors:\n"
            "      - {key: path, rate_limit: {unit: year, calendar: true, requests_per_unit: 1}}\n"
        }
    ).policy.domains["d"]

    assert domain.subjects == Subjects("api_key", "plan")
    assert domain.attributes == {"plan", "request_id"}
    assert domain.calendars == {Calendar(Unit.YEAR)}
    assert (domain.partition_by, domain.headers) == ("api_key", HeaderStyle.UPSTREAM)
    # the first of a key counts, and the others go as well
    entries = [("plan", "pro"), ("api_key", "k"), ("plan", "free"), ("request_id", "7")]
    assert take_attributes(domain, entries) == (
        (("api_key", "k"),),
        {"plan": "pro", "request_id": "7"},
    )


def test_limit_is_called_the_same_while_another_of_its_rule_is_away() -> None:
    # given
    text = (
        "domain: d\ndescriptors:\n  - key: k\n    limits:\n"
        f"      - {{name: a, {DAY}}}\n"
        "      - {name: b, unit: hour, requests_per_unit: 1, until: 2027-01-01T00:00:00Z}\n"
    )
    loaded = load(compile_to_frames({"d": text}))
    expected = {("d", "k/a"), ("d", "k/b")}
    assert loaded.names == RuleNames(expected, {"d.k"}, 2) == names_of(loaded.policy)
    # when b is away
    now = active_policy(loaded.policy, 1_800_000_000_000_000).policy
    found = match(now.domains["d"], [("k", "1")])
    # then
    (limit,) = found.limits
    assert limit_metric_key(found.metric_key, found.limits, limit) == "k/a"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("subjects: {key: a, tier: t}", "subjects: {key: a}"),
        ("partition_by: a", "partition_by: b"),
        ("headers: none", "headers: ietf"),
    ],
)
def test_merged_files_may_repeat_a_setting_but_not_disagree(first: str, second: str) -> None:
    other = f"domain: d\n{second}\n"

    compile_policy({"a": f"domain: d\n{first}\n", "b": f"domain: d\n{first}\n"}, MERGE)

    name = second.partition(":")[0]
    message = "another file of the domain `d` says otherwise"
    assert findings({"a": f"domain: d\n{first}\n", "b": other}, MERGE) == [
        f"b:2:1: {name}: {message}"
    ]


def test_merged_file_that_splits_by_the_tier_of_another_is_an_error() -> None:
    found = findings({"a": f"domain: d\n{SUBJECTS}", "b": "domain: d\npartition_by: plan\n"}, MERGE)

    assert found[0].startswith("b:2:1: partition_by: is `plan` as is the tier entry")


def test_merged_file_without_subjects_uses_those_of_another() -> None:
    tiers = "descriptors: [{key: k, rate_limit: {unit: day, requests_per_unit: {default: 1}}}]"

    policy = compile_policy({"a": f"domain: d\n{tiers}\n", "b": f"domain: d\n{SUBJECTS}"}, MERGE)

    assert policy.policy.domains["d"].subjects == Subjects("api_key", "plan")
