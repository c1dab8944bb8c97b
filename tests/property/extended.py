"""Random policies that use what is ours: algorithms, several limits, tiers, calendars, times."""

import json
from collections.abc import Mapping
from random import Random

KEYS = ("tenant", "path", "user", "api_key")
VALUES = ("a", "b", "/x", "")
TIERS = ("free", "pro")
SLOT = "request_id"
TIER = "plan"
ZONES = ("UTC", "Europe/Berlin", "America/Havana", "Asia/Kathmandu")
ALGORITHMS = ("fixed_window", "sliding_window", "gcra", "token_bucket", "concurrency")

Document = dict[str, object]

TIMES: tuple[Document, ...] = (
    {"until": "2020-01-01T00:00:00Z"},
    {"until": "2099-01-01T00:00:00+02:00"},
    {"from": "2019-12-31T23:00:00Z"},
    {"from": "2026-12-01T00:00:00.5-08:00", "until": "2026-12-31T00:00:00Z"},
)


def some_policy(rng: Random) -> str:
    """Return a policy of one domain, `api`, as YAML; it compiles."""
    has_subjects = rng.random() < 0.7
    document: Document = {
        "domain": "api",
        "on_no_match": rng.choice(("allow", "deny")),
        "descriptors": [
            some_descriptor(rng, key, has_subjects=has_subjects)
            for key in rng.sample(KEYS, rng.randint(1, 3))
        ],
    }
    if has_subjects:
        document["subjects"] = {
            "key": rng.choice(("tenant", "api_key")),
            "tier": TIER,
            "trust_tier_entry": rng.random() < 0.7,
        }
    if rng.random() < 0.4:
        document["headers"] = rng.choice(("none", "upstream", "ietf"))
    if rng.random() < 0.3:
        document["partition_by"] = "tenant"
    if rng.random() < 0.4:
        document["defaults"] = some_own_keys(rng)
    return json.dumps(document)


def some_own_keys(rng: Random) -> Document:
    """Return keys that a limit and `defaults` share, or none of them."""
    every: Document = {
        "count_denied": rng.random() < 0.5,
        "on_store_failure": rng.choice(("error", "deny", "local", "allow")),
        "override": rng.choice(("keep", "upstream")),
        "refusal_body": rng.choice(("", "wait {retry_after}", None)),
        "retry_jitter": rng.randint(0, 50),
    }
    return {name: value for name, value in every.items() if rng.random() < 0.3}


def some_descriptor(rng: Random, key: str, *, has_subjects: bool, depth: int = 2) -> Document:
    """Return a rule, with one below it now and then."""
    rule: Document = {"key": key}
    if rng.random() < 0.3:
        rule["value"] = rng.choice(("a", "/x*", "*"))
    for flag in ("shadow_mode", "quota_mode", "sensitive", "detailed_metric"):
        if rng.random() < 0.15:
            rule[flag] = True
    roll = rng.random()
    if roll < 0.1:
        rule["rate_limit"] = _some_plain_limit(rng)
    elif roll < 0.5:
        rule["rate_limit"] = some_limit(rng, has_subjects=has_subjects)
    elif roll < 0.9:
        rule["limits"] = some_limits(rng, has_subjects=has_subjects)
    if depth > 1 and rng.random() < 0.4:
        rule["descriptors"] = [
            some_descriptor(rng, rng.choice(KEYS), has_subjects=has_subjects, depth=depth - 1)
        ]
    return rule


def some_limits(rng: Random, *, has_subjects: bool) -> list[Document]:
    """Return limits of which no two share a counter."""
    found: dict[object, Document] = {}
    for number in range(rng.randint(1, 4)):
        limit = some_limit(rng, has_subjects=has_subjects)
        limit["name"] = f"l{number}"
        found.setdefault(_counts_as(limit), limit)
    return list(found.values())


def some_limit(rng: Random, *, has_subjects: bool) -> Document:
    """Return a limit that compiles; small numbers, so that it refuses now and then."""
    algorithm = rng.choice(ALGORITHMS)
    scopes = ("subject", "subject", "tier", "global") if has_subjects else ("subject", "global")
    limit: Document = {"algorithm": algorithm, "scope": rng.choice(scopes)}
    limit["requests_per_unit"] = rng.randint(0, 5)
    # One bucket has one rate.
    is_one_bucket = algorithm in {"gcra", "token_bucket"} and limit["scope"] == "global"
    if has_subjects and not is_one_bucket and rng.random() < 0.4:
        tiers = {tier: rng.randint(0, 6) for tier in TIERS if rng.random() < 0.7}
        limit["requests_per_unit"] = {**tiers, "default": rng.randint(0, 3)}
    limit |= _some_window(rng, algorithm)
    if algorithm in {"gcra", "token_bucket"}:
        limit |= _some_bucket(rng)
    limit |= some_own_keys(rng)
    if limit["scope"] == "subject" and rng.random() < 0.2:
        limit["max_new_keys_per_second"] = rng.randint(1, 3)
    if rng.random() < 0.1:
        limit |= rng.choice(TIMES)
    return limit


def _some_plain_limit(rng: Random) -> Document:
    """Return a limit with the reference server's keys only."""
    if rng.random() < 0.3:
        return {"unlimited": True}
    return {"unit": rng.choice(("second", "day")), "requests_per_unit": rng.randint(0, 5)}


def _some_window(rng: Random, algorithm: str) -> Document:
    if algorithm == "concurrency":
        slot: Document = {"slot": SLOT} if rng.random() < 0.7 else {}
        return {**slot, "slot_ttl": rng.choice(("1s", "60s"))}
    if algorithm == "fixed_window" and rng.random() < 0.4:
        unit = rng.choice(("day", "week", "month", "year"))
        found: Document = {"unit": unit, "calendar": True, "timezone": rng.choice(ZONES)}
        if unit == "month":
            found["anchor_day"] = rng.randint(1, 31)
        return found
    if rng.random() < 0.5:
        return {"window": rng.choice(("3s", "7s", "10m", "36h"))}
    return {"unit": rng.choice(("second", "minute", "year"))}


def _some_bucket(rng: Random) -> Document:
    found: Document = {}
    if rng.random() < 0.5:
        found["burst"] = rng.randint(1, 8)
    if rng.random() < 0.3:
        found["max_debt"] = rng.randint(0, 4)
    return found


def _counts_as(limit: Mapping[str, object]) -> tuple[object, ...]:
    algorithm = "gcra" if limit["algorithm"] == "token_bucket" else limit["algorithm"]
    names = ("window", "unit", "calendar", "timezone", "anchor_day", "scope")
    return (algorithm, *(limit.get(name) for name in names))
