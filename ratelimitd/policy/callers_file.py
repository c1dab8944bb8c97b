"""Reads `callers.yaml`, which says what callers may do, or finds everything wrong in it.

    callers:
      - san: spiffe://prod.example/ns/edge/sa/envoy     # or a list
        domains: [shop, login]                          # or `all`
        methods: [envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit]

Rules:
- Nothing is meant that is not written: each entry names its domains and its methods.
- `all` is the word itself, not an item of a list: there it is a name like any other.
- A name that no certificate can have is an error; what is probably not meant is a warning.
"""

import ipaddress
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final, TypeAlias, TypeGuard

from ratelimitd.policy.callers import DNS, EMAIL, URI, Callers, Entry, Names, San, to_key
from ratelimitd.policy.document import read_document
from ratelimitd.policy.fields import MAX_TEXT_CHARACTERS, is_null, read_list, value_of
from ratelimitd.policy.model import Position
from ratelimitd.policy.nodes import ListNode, MapNode, Scalar, YamlNode
from ratelimitd.policy.report import Report, join_path, quote
from ratelimitd.policy.schema import SUGGESTION_CUTOFF

MAX_SANS = 10_000
"""Names of one file: as many services as one fleet has."""

MAX_NAMES = 1_000
"""Domains, or methods, of one entry."""

MAX_GRANTED = 100_000
"""Domains and methods of all entries together; each worker keeps them."""

METHODS: Final = (
    "envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
)
"""What the gRPC port has; to allow another does nothing now."""

ALL: Final = "all"
_NEEDS: Final = {
    "san": "a name in its certificate, or a list of them",
    "domains": f"a list of domains, or `{ALL}`",
    "methods": f"a list of methods, or `{ALL}`",
}

_METHOD = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*/[A-Za-z_]\w*", re.ASCII)
_DNS = re.compile(r"[a-z0-9_*](?:[a-z0-9_*.-]{0,251}[a-z0-9_*])?", re.IGNORECASE | re.ASCII)
_EMAIL = re.compile(r"[!-?A-~]{1,64}@[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?", re.IGNORECASE | re.ASCII)
_URI = re.compile(r"[a-z][a-z0-9+.-]*:[!-~]+", re.IGNORECASE | re.ASCII)
_SPIFFE = re.compile(r"spiffe://[a-z0-9._-]{1,255}(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+)*")

# A text of the file, and its path there.
_Text: TypeAlias = tuple[Scalar, str]


@dataclass(slots=True)
class Reading:
    """What a file says, if its report has no errors; and where it names each domain first."""

    callers: Callers
    domains: dict[str, _Text]


def read_callers(content: str | bytes, report: Report) -> Reading:
    """Read the file; everything wrong with it is in `report`."""
    reader = _Reader(report)
    root = read_document(content, report, "callers")
    if root is not None:
        reader.file(root)
    return Reading(Callers(reader.entries, reader.sans), reader.domains)


def warn_unknown_domains(reading: Reading, known: Collection[str], report: Report) -> None:
    """Warn of domains that no policy file has: who may use them is never limited by them."""
    for name, (at, path) in reading.domains.items():
        if name not in known:
            message = f"no policy file has the domain {quote(name)}"
            report.warn(at, path, message + _suggest(name, known, report))


@dataclass(slots=True)
class _Reader:
    """What grows while the file is read."""

    report: Report
    entries: list[Entry] = field(default_factory=list)
    sans: dict[San, int] = field(default_factory=dict)
    domains: dict[str, _Text] = field(default_factory=dict)
    granted: int = 0

    def file(self, root: MapNode) -> None:
        report = self.report
        self._check_keys(root, ("callers",), "")
        value = value_of(root, "callers")
        if value is None or (isinstance(value, ListNode) and not value.items):
            report.error(
                root.key("callers") or root,
                "callers",
                "names nobody; list who may call, or take the file away to let everybody",
            )
        for index, item in enumerate(read_list(root, "callers", "", report)):
            path = f"callers[{index}]"
            self._entry(item, path)
            if len(self.sans) > MAX_SANS or self.granted > MAX_GRANTED:
                found = f"{len(self.sans):,} callers and {self.granted:,} domains and methods"
                most = f"at most {MAX_SANS:,} and {MAX_GRANTED:,} are accepted"
                report.error(item, path, f"up to here there are {found}; {most}")
                return

    def _entry(self, item: YamlNode, path: str) -> None:
        report = self.report
        if not isinstance(item, MapNode):
            report.error(item, path, "must be a map with `san`, `domains` and `methods`")
            return
        self._check_keys(item, tuple(_NEEDS), path)
        sans = self._texts(item, "san", path) or ()
        domains = self._texts(item, "domains", path)
        methods = self._texts(item, "methods", path)
        for scalar, below in domains or ():
            self.domains.setdefault(scalar.text, (scalar, below))
        for scalar, below in methods or ():
            self._check_method(scalar, below)
        position = Position(report.file, item.line, item.column)
        self.entries.append(Entry(_to_names(domains), _to_names(methods), position))
        self.granted += len(domains or ()) + len(methods or ())
        for scalar, below in sans:
            self._add(scalar, below)

    def _add(self, scalar: Scalar, path: str) -> None:
        """Let one name stand for the last entry."""
        text = scalar.text
        kind, wrong = _kind(text)
        if wrong:
            self.report.error(scalar, path, f"{quote(text)} {wrong}")
            return
        if "*" in text:
            message = f"{quote(text)} is no pattern: it is a certificate's name to the letter"
            self.report.warn(scalar, path, message)
        number = len(self.entries) - 1
        before = self.sans.setdefault(to_key(kind, text), number)
        if before != number:
            position = self.entries[before].position
            message = f"{quote(text)} has an entry at {position}; say there all that it may do"
            self.report.error(scalar, path, message)

    def _check_method(self, scalar: Scalar, path: str) -> None:
        name = scalar.text
        if not _METHOD.fullmatch(name):
            message = f"{quote(name)} is not written `package.Service/Method`"
            self.report.error(scalar, path, message + _suggest_method(name, self.report))
        elif name not in METHODS:
            message = f"the gRPC port has no method {quote(name)}"
            self.report.warn(scalar, path, message + _suggest_method(name, self.report))

    def _texts(self, entry: MapNode, key: str, path: str) -> list[_Text] | None:
        """Return the texts under `key`, None for all there are; none after an error."""
        report, value = self.report, value_of(entry, key)
        below = join_path(path, key)
        if isinstance(value, ListNode) and value.items:
            most = MAX_SANS if key == "san" else MAX_NAMES
            if len(value.items) > most:
                message = f"has {len(value.items):,} items; at most {most:,} are accepted"
                report.error(value, below, message)
            return [
                (item, f"{below}[{index}]")
                for index, item in enumerate(value.items[:most])
                if self._is_text(item, f"{below}[{index}]")
            ]
        if key == "san" and isinstance(value, Scalar):
            return [(value, below)] if self._is_text(value, below) else []
        if isinstance(value, Scalar) and value.text == ALL:
            return None
        message = "is missing or empty; write" if _is_empty(value) else "must be"
        report.error(value or entry.key(key) or entry, below, f"{message} {_NEEDS[key]}")
        return []

    def _is_text(self, item: YamlNode, path: str) -> TypeGuard[Scalar]:
        if not isinstance(item, Scalar) or not item.text or is_null(item):
            self.report.error(item, path, "must be text, and not empty")
            return False
        if len(item.text) > MAX_TEXT_CHARACTERS:
            message = f"has {len(item.text):,} characters; at most {MAX_TEXT_CHARACTERS:,} are"
            self.report.error(item, path, f"{message} accepted")
            return False
        return True

    def _check_keys(self, node: MapNode, known: Sequence[str], path: str) -> None:
        for key, _ in node.entries:
            below = join_path(path, key.text)
            if key.text in known:
                continue
            if key.text == "domain" and not path:
                message = "this file says who may call; a policy file needs another name"
                self.report.error(key, below, message)
                continue
            hint = _suggest(key.text, known, self.report) or f"; known here: {', '.join(known)}"
            self.report.error(key, below, f"unknown key{hint}")


def _to_names(texts: Sequence[_Text] | None) -> Names:
    return None if texts is None else frozenset(scalar.text for scalar, _ in texts)


def _is_empty(value: YamlNode | None) -> bool:
    return value is None or (isinstance(value, ListNode) and not value.items)


def _kind(text: str) -> tuple[str, str]:
    """Return the kind of a name, and what is wrong with it, if anything is.

    A URI has a `:`, an email address an `@`, a DNS name neither.
    """
    if _is_address(text):
        return "", "is an IP address; write a DNS name, a URI or an email address"
    if ":" in text:
        if text.lower().startswith("spiffe:") and not _SPIFFE.fullmatch(text):
            wrong = "is no SPIFFE ID; write `spiffe://trust-domain/path`, the trust domain in"
            return URI, f"{wrong} lower case, and no `/` at the end"
        return URI, "" if _URI.fullmatch(text) else "is no URI"
    if "@" in text:
        return EMAIL, "" if _EMAIL.fullmatch(text) else "is no email address"
    return DNS, "" if _DNS.fullmatch(text) else "is no DNS name as certificates have them"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _suggest_method(name: str, report: Report) -> str:
    """Return which method is meant: the one of that name in any service, or the most alike."""
    same = [method for method in METHODS if method.endswith(f"/{name}")]
    return f"; did you mean {quote(same[0])}?" if same else _suggest(name, METHODS, report)


def _suggest(name: str, known: Collection[str], report: Report) -> str:
    """Return which name is meant, or nothing."""
    if not report.may_suggest():
        return ""
    near = get_close_matches(name[:200], known, 1, SUGGESTION_CUTOFF)
    return f"; did you mean {quote(near[0])}?" if near else ""
