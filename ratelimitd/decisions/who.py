"""Who asks: the tier of a descriptor and the overrides of its subject.

Rules:
- The registry's tier beats that of a trusted entry. An override of the subject beats both.
- An override is for counters of the subject's own: what many share has one number for all of them,
  or one caller's would be spent with another's. A suspension is for every limit.
- A tier that a limit does not name counts as its default.
- What has expired at the time of the facts does not count.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from ratelimitd.decisions.amounts import with_amount
from ratelimitd.decisions.subject import ALL_LIMITS, AmountOverride, Subject, at
from ratelimitd.decisions.subject_entry import EntryForm
from ratelimitd.policy.model import Domain, Limit, Scope


class Who(NamedTuple):
    """A tier, where it came from (registry, entry or empty), and the overrides of a subject.

    `field` is the subject's in the registry; empty without one.
    """

    tier: str = ""
    origin: str = ""
    overrides: tuple[AmountOverride, ...] = ()
    field: str = ""


NOBODY: Final = Who()


def subject_field(domain: Domain, entries: Sequence[tuple[str, str]], hash_secret: bytes) -> str:
    """Return the registry's field of the subject that `entries` name; empty without one."""
    if domain.subjects is None:
        return ""
    wanted = domain.subjects.key
    for key, value in entries:
        if key == wanted:
            return _form(domain.name, key, key in domain.hidden_keys).fill(value, hash_secret)
    return ""


@lru_cache(maxsize=256)
def _form(domain: str, key: str, is_secret: bool) -> EntryForm:  # noqa: FBT001 - a cache's key
    """Return how the subjects of a domain are named; the policy bounds how many there are."""
    return EntryForm(domain, key, is_secret=is_secret)


def who_asks(
    domain: Domain, field: str, attributes: Mapping[str, str], record: Subject | None, now_us: int
) -> Who:
    """Return whose tier and overrides count: by the `record` of `field`, and what came beside."""
    subjects = domain.subjects
    assert subjects is not None, "only a domain with subjects asks who"
    overrides: tuple[AmountOverride, ...] = ()
    if record is not None:
        record = at(record, now_us)
        overrides = record.overrides
        if record.tier:
            return Who(record.tier, "registry", overrides, field)
    if subjects.trusts_tier_entry and (tier := attributes.get(subjects.tier, "")):
        return Who(tier, "entry", overrides, field)
    return Who("", "", overrides, field)


def limit_for(limit: Limit, who: Who, *, is_own_amount: bool = False) -> Limit:
    """Return a limit with the number that holds for who asks.

    A number that the request brings itself, `is_own_amount`, gives way to a suspension alone.
    """
    named = override_of(limit, who)
    if named is not None and (named.amount == 0 or not is_own_amount):
        return with_amount(limit, named.amount)
    if is_own_amount:
        return limit
    if limit.tiers and who.tier in limit.tiers:
        return with_amount(limit, limit.tiers[who.tier])
    return limit


def override_of(limit: Limit, who: Who) -> AmountOverride | None:
    """Return the subject's override of a limit: a suspension, one by its name, one for all."""
    chosen: AmountOverride | None = None
    is_own = limit.scope is Scope.SUBJECT
    for one in who.overrides:
        is_suspension = one.amount == 0
        if one.limit == ALL_LIMITS:
            if is_suspension:
                return one
            if is_own:
                chosen = chosen or one
        elif limit.name and one.limit == limit.name and (is_own or is_suspension):
            chosen = one
    return chosen


def is_unknown_tier(limit: Limit, who: Who) -> bool:
    """Tell whether somebody gave a tier that a limit with tiers does not name."""
    return bool(limit.tiers and who.tier and who.tier not in limit.tiers)
