"""Envoy's messages to requests and verdicts to Envoy's messages."""

from dataclasses import dataclass

from ratelimitd._proto.envoy.extensions.common.ratelimit.v3 import ratelimit_pb2
from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.decisions.request import Descriptor, Override, Request
from ratelimitd.decisions.verdict import Verdict
from ratelimitd.errors import InvalidRequest
from ratelimitd.policy.model import Unit
from ratelimitd.services.encode import encode_response


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestBounds:
    """How large a request may be; what is beyond is refused whole with INVALID_ARGUMENT.

    A request is one entry of a batch of at most 512 checks, and a gateway builds its descriptors
    from a few headers: nobody near these bounds is limiting a rate.
    """

    max_descriptors: int = 128
    max_entries: int = 64
    max_text_bytes: int = 16_384


def from_rls_request(message: rls_pb2.RateLimitRequest, bounds: RequestBounds) -> Request:
    """Return the request of a message; InvalidRequest says what breaks the protocol, and where."""
    if not message.domain:
        raise InvalidRequest("domain: is empty; name the policy's domain")
    _check_text("domain", message.domain, bounds)
    count = len(message.descriptors)
    if count == 0:
        raise InvalidRequest("descriptors: is empty; send at least one descriptor")
    if count > bounds.max_descriptors:
        raise InvalidRequest(f"descriptors: {count} sent, at most {bounds.max_descriptors} allowed")
    return Request(
        domain=message.domain,
        descriptors=tuple(
            [
                _from_descriptor(descriptor, f"descriptors[{index}]", bounds)
                for index, descriptor in enumerate(message.descriptors)
            ]
        ),
        hits_addend=message.hits_addend,
    )


def to_rls_response(verdict: Verdict) -> rls_pb2.RateLimitResponse:
    """Return the message that answers a request."""
    return rls_pb2.RateLimitResponse.FromString(encode_response(verdict))


def _from_descriptor(
    message: ratelimit_pb2.RateLimitDescriptor, path: str, bounds: RequestBounds
) -> Descriptor:
    if not message.entries:
        raise InvalidRequest(f"{path}.entries: is empty; a descriptor has at least one entry")
    if len(message.entries) > bounds.max_entries:
        raise InvalidRequest(
            f"{path}.entries: {len(message.entries)} sent, at most {bounds.max_entries} allowed"
        )
    entries = tuple([(entry.key, entry.value) for entry in message.entries])
    # A character is at most 4 bytes of UTF-8, so only long texts need to be measured.
    longest = bounds.max_text_bytes // 4
    for index, (key, value) in enumerate(entries):
        if not key:
            raise InvalidRequest(f"{path}.entries[{index}].key: is empty")
        if len(key) > longest:
            _check_text(f"{path}.entries[{index}].key", key, bounds)
        if len(value) > longest:
            _check_text(f"{path}.entries[{index}].value", value, bounds)
    return Descriptor(
        entries=entries,
        override=_from_override(message, path) if message.HasField("limit") else None,
        hits_addend=message.hits_addend.value if message.HasField("hits_addend") else None,
        is_negative_hits=message.is_negative_hits,
    )


def _from_override(message: ratelimit_pb2.RateLimitDescriptor, path: str) -> Override:
    unit = message.limit.unit
    if not Unit.UNKNOWN < unit <= Unit.YEAR:
        raise InvalidRequest(
            f"{path}.limit.unit: {unit} is not a unit; use SECOND, MINUTE, HOUR, DAY, MONTH or YEAR"
        )
    return Override(message.limit.requests_per_unit, Unit(unit))


def _check_text(path: str, text: str, bounds: RequestBounds) -> None:
    if len(text.encode()) > bounds.max_text_bytes:
        raise InvalidRequest(f"{path}: longer than {bounds.max_text_bytes} bytes of UTF-8")
