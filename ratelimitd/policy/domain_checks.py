"""What only a whole domain shows: limits that need its subjects, and keys that are taken out."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ratelimitd.policy.domain_settings import DomainSettings
from ratelimitd.policy.model import Calendar, Limit, Node, Position, Scope
from ratelimitd.policy.report import Report, quote


class Gathered(NamedTuple):
    """What the limits of a domain use.

    `attributes` are the keys of entries that are taken out before matching; `hidden_keys` those
    whose values a rule calls sensitive.
    """

    attributes: frozenset[str]
    calendars: frozenset[Calendar]
    hidden_keys: frozenset[str]


def gather(
    exact: Mapping[str, Node], settings: DomainSettings, reports: Mapping[str, Report]
) -> Gathered:
    """Return what the limits below use; reports by their file what they miss."""
    subjects = settings.subjects
    nodes = list(_nodes(exact))
    slots: dict[str, Position] = {}
    calendars: set[Calendar] = set()
    for node in nodes:
        for limit in node.limits:
            if limit.slot:
                slots.setdefault(limit.slot, limit.position)
                _check_slot(limit, settings, reports)
            if limit.calendar is not None:
                calendars.add(limit.calendar)
            if subjects is None and (limit.tiers or limit.scope is Scope.TIER):
                _report_no_subjects(limit, reports)
    taken = dict.fromkeys(slots, "the slot of a limit")
    if subjects is not None and subjects.tier:
        taken[subjects.tier] = "the tier entry"
    for node in nodes:
        key = node.key
        if key in taken:
            message = (
                f"{quote(key)} is {taken[key]}, which is taken out before matching; "
                "no descriptor can have it"
            )
            reports[node.position.file].error(node.position, f"{node.rule}", message)
    hidden = frozenset(node.key for node in nodes if node.is_sensitive)
    return Gathered(frozenset(taken), frozenset(calendars), hidden)


def _check_slot(limit: Limit, settings: DomainSettings, reports: Mapping[str, Report]) -> None:
    """Report a slot that takes out an entry which the domain needs for something else."""
    subjects = settings.subjects
    needed = {settings.partition_by: "`partition_by`"}
    if subjects is not None:
        needed |= {subjects.key: "the key of `subjects`", subjects.tier: "the tier entry"}
    if limit.slot in needed:
        message = (
            f"its slot {quote(limit.slot)} is also {needed[limit.slot]}; name an entry that "
            "tells one request from another, as `slot: request_id`"
        )
        reports[limit.position.file].error(limit.position, limit.rule, message)


def _report_no_subjects(limit: Limit, reports: Mapping[str, Report]) -> None:
    what = "names tiers" if limit.tiers else "counts by tier"
    message = f"{what}, and nobody says who is asking; add `subjects: {{key: api_key}}` at the top"
    reports[limit.position.file].error(limit.position, limit.rule, message)


def _nodes(exact: Mapping[str, Node]) -> Iterator[Node]:
    for node in exact.values():
        yield node
        yield from _nodes(node.exact)
