"""What a file says for the whole of its domain, beside its rules.

Rules:
- Several files of one domain must not disagree; a setting is None until a file gives it.
- `secret_keys` changes how rules are read, so it stands in the first file of a domain.
"""

from dataclasses import dataclass, fields, replace

from ratelimitd.policy.fields import (
    read_choice,
    read_flag,
    read_list,
    read_map,
    read_text,
    value_of,
)
from ratelimitd.policy.model import HeaderStyle, NoMatch, Subjects
from ratelimitd.policy.nodes import MapNode, Scalar
from ratelimitd.policy.report import Report, quote

MAX_SECRET_KEYS = 100
"""Names in `secret_keys`; it is looked up once per entry of a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainSettings:
    """What was said so far."""

    on_no_match: NoMatch | None = None
    secret_keys: frozenset[str] | None = None
    subjects: Subjects | None = None
    partition_by: str | None = None
    headers: HeaderStyle | None = None


def read_settings(
    root: MapNode, before: DomainSettings, domain: str, report: Report, *, has_rules: bool
) -> DomainSettings:
    """Return what holds after one more file; `has_rules` says that others had rules before it."""
    own = DomainSettings(
        on_no_match=_read_no_match(root, report),
        secret_keys=_read_secret_keys(root, report),
        subjects=_read_subjects(root, report),
        partition_by=read_text(root, "partition_by", "", report) or None,
        headers=_read_headers(root, report),
    )
    after = before
    for one in fields(DomainSettings):
        said, known = getattr(own, one.name), getattr(before, one.name)
        if said is None:
            continue
        is_late = one.name == "secret_keys" and known is None and has_rules
        if known not in (None, said) or is_late:
            report.error(root.key(one.name), one.name, _about_other(one.name, domain))
        after = replace(after, **{one.name: said})
    _check_partition(root, after, report)
    return after


def _check_partition(root: MapNode, after: DomainSettings, report: Report) -> None:
    """Report a partition by an entry that is taken out before anybody looks at it."""
    subjects = after.subjects
    if subjects is None or not subjects.tier or after.partition_by != subjects.tier:
        return
    at = root.key("partition_by") or root.key("subjects")
    if at is not None:
        message = f"is {quote(subjects.tier)} as is the tier entry, which is taken out before"
        report.error(at, at.text, f"{message}; name another entry")


def _about_other(name: str, domain: str) -> str:
    if name == "secret_keys":
        return (
            f"the domain {quote(domain)} has other secret keys in an earlier file; "
            "give the list in the first file of the domain"
        )
    return f"another file of the domain {quote(domain)} says otherwise"


def _read_no_match(root: MapNode, report: Report) -> NoMatch | None:
    if value_of(root, "on_no_match") is None:
        return None
    return read_choice(root, "on_no_match", "", report, default=NoMatch.ALLOW)


def _read_headers(root: MapNode, report: Report) -> HeaderStyle | None:
    if value_of(root, "headers") is None:
        return None
    return read_choice(root, "headers", "", report, default=HeaderStyle.NONE)


def _read_subjects(root: MapNode, report: Report) -> Subjects | None:
    node = read_map(root, "subjects", "", report)
    if node is None:
        return None
    key = read_text(node, "key", "subjects", report)
    tier = read_text(node, "tier", "subjects", report)
    trusts = read_flag(node, "trust_tier_entry", "subjects", report)
    if not key:
        message = "is missing; it is the key of the entry that says who asks, as `api_key`"
        report.error(node.get("key") or node, "subjects.key", message)
    if key and key == tier:
        message = f"is {quote(tier)}, which is the subject itself"
        report.error(node.get("tier"), "subjects.tier", message)
    if trusts and not tier:
        message = "needs `tier`, the key of the entry that is trusted"
        report.error(node.key("trust_tier_entry"), "subjects.trust_tier_entry", message)
    return Subjects(key, tier, trusts)


def _read_secret_keys(root: MapNode, report: Report) -> frozenset[str] | None:
    if value_of(root, "secret_keys") is None:
        return None
    items = read_list(root, "secret_keys", "", report)
    if len(items) > MAX_SECRET_KEYS:
        report.error(
            root.key("secret_keys"),
            "secret_keys",
            f"names {len(items)} keys; at most {MAX_SECRET_KEYS} are accepted",
        )
    names = set()
    for index, item in enumerate(items[:MAX_SECRET_KEYS]):
        if isinstance(item, Scalar) and item.text:
            names.add(item.text)
        else:
            report.error(item, f"secret_keys[{index}]", "must be the name of a key, as text")
    return frozenset(names)
