"""Requests that are alike but for one value, told by their bytes, without reading them.

A gateway sends a route's request again and again, each time with another caller in one place. Its
encoding before that value, all lengths included, and after it are the same bytes. So it is the
request that was read before, with another text there.

Rules:
- One descriptor, without a cost, a limit or a field that we do not know: the bytes are those that
  we would make of it ourselves (fields in the order of their numbers), so nothing hides in them.
- The value is as long as it was, in bytes; another length is another kind.
- What is no text is read after all, and refused as ever.
- A kind is learned at its second sight, and tried once. Bounded: MAX_KINDS of up to MAX_BODY bytes,
  of which at most MAX_HEADS are looked for in one request.
"""

from array import array
from collections.abc import Hashable
from typing import Final, Generic, NamedTuple, TypeVar

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2

MAX_KINDS: Final = 512
MAX_BODY: Final = 512
# Of heads that stand before the values of requests of one length.
MAX_HEADS: Final = 4
MAX_SIGHTS: Final = 4_096
_SIGHT: Final = MAX_SIGHTS - 1

K = TypeVar("K")


class _Kind(NamedTuple, Generic[K]):
    """What stands behind the value, and whatever is known of all requests of the kind."""

    tail: bytes
    known: K


class Alike(Generic[K]):
    """Maps the bytes of requests to what is known of their kind, and to the value in them."""

    def __init__(self) -> None:
        """Know no kind yet."""
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        # For each size of a request: how long its head is, and the kinds with such heads.
        self._by_size: dict[int, dict[int, dict[bytes, _Kind[K]]]] = {}
        self._count = 0
        self._sights = array("q", bytes(8 * MAX_SIGHTS))

    def __len__(self) -> int:
        """Return how many kinds are known."""
        return self._count

    def find(self, body: bytes) -> tuple[K, str] | None:
        """Return what is known of a request's kind, and its value; None if it must be read."""
        heads = self._by_size.get(len(body))
        if heads is None:
            return None
        for length, kinds in heads.items():
            kind = kinds.get(body[:length])
            if kind is not None and body.endswith(kind.tail):
                try:
                    return kind.known, body[length : len(body) - len(kind.tail)].decode()
                except UnicodeDecodeError:
                    return None
        return None

    def is_due(self, body: bytes, sign: Hashable) -> bool:
        """Tell whether to learn of a request: at the second sight of its `sign` and its size."""
        sight = hash((len(body), sign))
        place = sight & _SIGHT
        seen = self._sights[place]
        if seen == sight:
            # Tried once, whatever becomes of it.
            self._sights[place] = ~sight
            return len(body) <= MAX_BODY
        if seen != ~sight:
            self._sights[place] = sight
        return False

    def learn(self, body: bytes, message: rls_pb2.RateLimitRequest, at: int, known: K) -> None:
        """Remember `known` of requests like `body`, whose entry `at` has another value each time.

        Nothing is remembered of a request that is not as the rules say.
        """
        value = message.descriptors[0].entries[at].value
        size = len(value.encode())
        if not size or _with_value(message, at, value) != body:
            return
        # Where it stands is where another text makes a difference.
        low, high = (_with_value(message, at, text * size) for text in "\1\2")
        start = next(i for i, pair in enumerate(zip(low, high, strict=True)) if pair[0] != pair[1])
        if self._count >= MAX_KINDS:
            self.clear()
        heads = self._by_size.setdefault(len(body), {})
        if start not in heads and len(heads) >= MAX_HEADS:
            return
        kinds = heads.setdefault(start, {})
        self._count += body[:start] not in kinds
        kinds[body[:start]] = _Kind(body[start + size :], known)


def _with_value(message: rls_pb2.RateLimitRequest, at: int, value: str) -> bytes:
    """Return the bytes that we would make of a request, with another value in its entry `at`."""
    made = rls_pb2.RateLimitRequest(domain=message.domain)
    descriptor = made.descriptors.add()
    for number, entry in enumerate(message.descriptors[0].entries):
        descriptor.entries.add(key=entry.key, value=value if number == at else entry.value)
    return made.SerializeToString()
