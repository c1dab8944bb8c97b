"""Dynamic metadata: what a request was, and the metadata of the rules that let it pass.

The rules' own metadata is copied, never referenced: what is merged into an answer must not
show up in the next one.
"""

from collections.abc import Mapping

from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import DescriptorPlan, Plan
from ratelimitd.decisions.request import Descriptor
from ratelimitd.decisions.verdict import Code, Status
from ratelimitd.json_value import JsonObject, JsonValue

# Where an answer that the store did not decide says so.
FAILURE_KEY = "store_failure"


def to_metadata(
    plan: Plan, statuses: tuple[Status, ...], options: DecisionOptions, failed_by: str
) -> JsonObject | None:
    """Return the answer's metadata, or None where there is nothing to say."""
    if not options.has_dynamic_metadata:
        return {FAILURE_KEY: failed_by} if failed_by else None
    told: dict[str, JsonValue] = {
        "domain": plan.request.domain,
        "descriptors": [
            _descriptor(sent, planned)
            for sent, planned in zip(plan.request.descriptors, plan.descriptors, strict=True)
        ],
    }
    if plan.request.hits_addend:
        told["hitsAddend"] = plan.request.hits_addend
    merged: dict[str, JsonValue] = {}
    for descriptor, status in zip(plan.descriptors, statuses, strict=True):
        if descriptor.limit and descriptor.limit.metadata and status.code is Code.OK:
            _merge(merged, descriptor.limit.metadata)
    if merged:
        told["metadata"] = merged
    limits = [
        _limit(status)
        for status in statuses
        if status.limit is not None and not status.limit.has_upstream_override
    ]
    if limits:
        told["limits"] = limits
    if failed_by:
        told[FAILURE_KEY] = failed_by
    return told


def _limit(status: Status) -> JsonObject:
    """Tell where a limit of ours stands, exactly: a status has whole seconds and 32 bits."""
    limit = status.limit
    assert limit is not None, "the caller looked"
    told: dict[str, JsonValue] = {
        "rule": limit.name or limit.rule,
        "scope": limit.scope.value,
        "limit": limit.requests_per_unit,
        "remaining": status.remaining,
        "reset_us": status.reset_us,
    }
    if status.code is not Code.OK:
        told["retry_after_us"] = status.wait_us
    return told


def _descriptor(sent: Descriptor, planned: DescriptorPlan) -> JsonObject:
    told: dict[str, JsonValue] = {"entries": [f"{key}={value}" for key, value in planned.entries]}
    if sent.override is not None:
        override = sent.override
        told["limit"] = f"requests_per_unit:{override.requests_per_unit} unit:{override.unit.name}"
    if sent.hits_addend is not None:
        told["hitsAddend"] = sent.hits_addend
    return told


def _merge(into: dict[str, JsonValue], more: JsonObject) -> None:
    """Add what `into` lacks; the first value of a name wins, objects merge recursively."""
    for name, value in more.items():
        if name not in into:
            into[name] = _copy(value)
            continue
        present = into[name]
        if isinstance(present, dict) and isinstance(value, Mapping):
            _merge(present, value)


def _copy(value: JsonValue) -> JsonValue:
    if isinstance(value, Mapping):
        return {name: _copy(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(member) for member in value]
    return value
