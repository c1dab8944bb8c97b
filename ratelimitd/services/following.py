"""Where requests of the usual kind lead: who asks, and which path they take through the policy.

Rules:
- The usual kind brings no limit and no cost of its own in a descriptor, matches something with each
  entry, and has no entry of a key of which some value is blocked.
- A path is all that a plan depends on but the values of a request: keys, rules, how they were
  reached, and the tier and the overrides of who asks. Two requests with one path have one outline.
- A path on which metrics show values, or whose limit has named slots, is none of the usual kind.
- A subject that the directory does not know is followed without a record, and named as missing.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.decisions.facts import Facts
from ratelimitd.decisions.subject import Subject
from ratelimitd.decisions.subject_entry import LONG_KEY
from ratelimitd.decisions.who import NOBODY, Who, subject_field, who_asks
from ratelimitd.policy.match import Step, take_attributes, walk
from ratelimitd.policy.model import Domain
from ratelimitd.services.convert import RequestBounds
from ratelimitd.services.directory import Directory
from ratelimitd.services.subject_cache import UNKNOWN

# A gateway's request has a few entries.
MAX_PATH_ENTRIES: Final = 16
# A longer key is matched by a pattern, and may be another one each time.
MAX_KEY: Final = 256

Entries = list[tuple[str, str]]
NO_ATTRIBUTES: Final[Mapping[str, str]] = MappingProxyType({})


class Asked(NamedTuple):
    """The entries of each descriptor, the field of its subject, and what is known of those."""

    entries: list[Entries]
    fields: list[str]
    subjects: dict[str, Subject | None]
    missing: list[str]


class Followed(NamedTuple):
    """Where a usual request leads; `entries` are without attributes, `tiers` of who asks."""

    path: tuple[object, ...]
    entries: list[Entries]
    tiers: list[str]


class Follower:
    """Follows requests through domains, under one set of facts."""

    def __init__(
        self, bounds: RequestBounds, hash_secret: bytes, facts: Facts, directory: Directory
    ) -> None:
        """Ask `directory` who is who."""
        # A text of so many characters is within the bound whatever they are.
        self.short = bounds.max_text_bytes // 4
        self._hash_secret = hash_secret
        self._facts = facts
        self._directory = directory

    def ask(self, domain: Domain | None, message: rls_pb2.RateLimitRequest) -> Asked:
        """Return what is asked, with what the directory says of each subject that is named."""
        every = [
            [(entry.key, entry.value) for entry in descriptor.entries]
            for descriptor in message.descriptors
        ]
        asked = Asked(every, [], {}, [])
        if domain is not None and domain.subjects is not None:
            self.look_up(domain, asked)
        return asked

    def look_up(self, domain: Domain, asked: Asked) -> None:
        """Add the subjects that are named, and their records."""
        subjects = asked.subjects
        for entries in asked.entries:
            field = subject_field(domain, entries, self._hash_secret)
            asked.fields.append(field)
            if field and field not in subjects:
                record = self._directory.get(field)
                if record is UNKNOWN:
                    asked.missing.append(field)
                    record = None
                subjects[field] = record

    def who(self, domain: Domain, asked: Asked, at: int, attributes: Mapping[str, str]) -> Who:
        """Return who asks with the descriptor `at`."""
        field = asked.fields[at]
        return who_asks(domain, field, attributes, asked.subjects.get(field), self._facts.now_us)

    def follow(
        self, domain: Domain, message: rls_pb2.RateLimitRequest, asked: Asked
    ) -> Followed | None:
        """Return where a usual request leads, or None for any other."""
        path: list[object] = [domain.name]
        every: list[Entries] = []
        tiers: list[str] = []
        short = self.short
        blocked = self._facts.blocks.keys.get(domain.name, ())
        if len(message.descriptors) > MAX_PATH_ENTRIES or LONG_KEY in blocked:
            return None
        count = 0
        for at, descriptor in enumerate(message.descriptors):
            if (
                descriptor.is_negative_hits
                or descriptor.HasField("limit")
                or descriptor.HasField("hits_addend")
            ):
                return None
            entries = asked.entries[at]
            for key, value in entries:
                if len(value) > short or not key or len(key) > MAX_KEY or key in blocked:
                    return None
            attributes, who = NO_ATTRIBUTES, NOBODY
            if domain.attributes:
                rest, attributes = take_attributes(domain, entries)
                entries = list(rest)
            if domain.subjects is not None:
                who = self.who(domain, asked, at, attributes)
            count += len(entries)
            steps = walk(domain, entries) if count <= MAX_PATH_ENTRIES else []
            if not _is_usual(steps, len(entries)):
                return None
            for (key, _), (node, how) in zip(entries, steps, strict=True):
                path += (key, id(node), how)
            path.append(sign_of(who))
            every.append(entries)
            tiers.append(who.tier)
        return Followed(tuple(path), every, tiers)


def sign_of(who: Who) -> object:
    """Return what a path depends on of who asks."""
    return None if who is NOBODY else (who.tier, who.overrides)


def _is_usual(steps: Sequence[Step], entries: int) -> bool:
    """Tell whether all entries matched, and a limit is reached that only the path decides about."""
    if not steps or len(steps) < entries:
        return False
    node = steps[-1][0]
    return not node.needs_metric_walk and not any(limit.slot for limit in node.limits)
