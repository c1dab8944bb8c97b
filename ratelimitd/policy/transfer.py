"""A compiled policy becomes frames, which another process puts together bit by bit.

Rules:
- Each frame is small enough that to read it costs a request next to nothing; a tree of any size
  is many frames. Nodes come after their children, so that a node is complete once it is read.
- Frames are pickles: they are for our own processes alone, never for anything from outside.
- Reading is the same whether the frames came through a pipe or were made a moment ago.
"""

import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeAlias, assert_never

from ratelimitd.errors import Finding, PolicyError
from ratelimitd.policy.callers import Callers, Entry, San
from ratelimitd.policy.compile import Compiled, CompileOptions, compile_policy
from ratelimitd.policy.dump import to_json, to_rlconfig
from ratelimitd.policy.loaded import Listing, Loaded, RuleNames
from ratelimitd.policy.match import limit_metric_key
from ratelimitd.policy.model import Domain, Node, Policy, Wildcard

NODES_PER_FRAME = 50
"""About a millisecond to read, on a slow core."""

NAMES_PER_FRAME = 2_000
"""Of callers, or of domains and methods; the last entry of a frame may take it beyond."""

PIECE_BYTES = 64 * 1024
"""Of a page; what one write to a socket takes."""

MAX_WARNINGS = 50
MAX_ERRORS = 100
"""A policy with more of either has one cause; `ratelimitd validate` shows all."""


@dataclass(frozen=True, slots=True)
class _Record:
    """A node without children: those are the nodes before it that are one level deeper.

    `wildcards` are the pieces and names of those of them that hold a `*`.
    """

    node: Node
    depth: int
    wildcards: tuple[tuple[tuple[str, ...], str], ...]


@dataclass(frozen=True, slots=True)
class _Nodes:
    records: list[_Record]


@dataclass(frozen=True, slots=True)
class _EndOfDomain:
    """The last node was the root of this domain, which comes without it."""

    domain: Domain


@dataclass(frozen=True, slots=True)
class _Entries:
    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class _Sans:
    sans: dict[San, int]


@dataclass(frozen=True, slots=True)
class _Piece:
    page: str
    text: bytes


@dataclass(frozen=True, slots=True)
class _End:
    revision: str
    warnings: tuple[str, ...]
    more_warnings: int


@dataclass(frozen=True, slots=True)
class _Errors:
    findings: tuple[Finding, ...]


_Frame: TypeAlias = _Nodes | _EndOfDomain | _Entries | _Sans | _Piece | _End | _Errors


def compile_to_frames(
    files: Mapping[str, str | bytes], options: CompileOptions | None = None
) -> Iterator[bytes]:
    """Compile `files`; a policy with errors becomes one frame, with the first MAX_ERRORS."""
    try:
        compiled = compile_policy(files, options)
    except PolicyError as error:
        findings = error.findings
        if len(findings) > MAX_ERRORS:
            more = f"and {len(findings) - MAX_ERRORS:,} more errors; see `ratelimitd validate`"
            findings = (*findings[:MAX_ERRORS], Finding("policy", 0, 0, "", more))
        yield pickle.dumps(_Errors(findings))
    else:
        for frame in _to_frames(compiled):
            yield pickle.dumps(frame, pickle.HIGHEST_PROTOCOL)


def load(frames: Iterable[bytes]) -> Loaded:
    """Put all `frames` together at once; raises PolicyError if that is what they hold."""
    assembly = Assembly()
    for frame in frames:
        assembly.add(frame)
    return assembly.finish()


@dataclass(slots=True)
class Assembly:
    """Puts frames together in the order in which they were made."""

    _levels: list[dict[str, Node]] = field(default_factory=list)
    _parts: list[object] = field(default_factory=list)
    _domains: dict[str, Domain] = field(default_factory=dict)
    _keys: set[tuple[str, str]] = field(default_factory=set)
    _rules: set[str] = field(default_factory=set)
    _limits: int = 0
    _entries: list[Entry] = field(default_factory=list)
    _sans: dict[San, int] = field(default_factory=dict)
    _pages: dict[str, list[bytes]] = field(default_factory=lambda: {"document": [], "rlconfig": []})
    _end: _End | None = None

    def add(self, frame: bytes) -> None:
        """Take the next frame; raises PolicyError for a policy with errors."""
        content: _Frame = pickle.loads(frame)  # noqa: S301 - made by our own program
        match content:
            case _Nodes(records):
                for record in records:
                    self._add_node(record)
            case _EndOfDomain(domain):
                self._end_domain(domain)
            case _Entries(entries):
                self._entries += entries
            case _Sans(sans):
                self._sans |= sans
            case _Piece(page, text):
                self._pages[page].append(text)
            case _End():
                self._end = content
            case _Errors(findings):
                raise PolicyError(findings)
            case _:
                assert_never(content)

    @property
    def is_complete(self) -> bool:
        """Whether the last frame was added."""
        return self._end is not None

    def finish(self) -> Loaded:
        """Return the policy; to be called once it is complete."""
        end = self._end
        assert end is not None
        assert not any(self._levels)
        return Loaded(
            policy=Policy(end.revision, self._domains),
            # A file of callers names at least one.
            callers=Callers(self._entries, self._sans) if self._entries else None,
            names=RuleNames(self._keys, self._rules, self._limits),
            listing=Listing(tuple(self._pages["document"]), tuple(self._pages["rlconfig"])),
            warnings=end.warnings,
            more_warnings=end.more_warnings,
            parts=self._parts,
        )

    def _add_node(self, record: _Record) -> None:
        node, depth, levels = record.node, record.depth, self._levels
        while len(levels) < depth + 2:
            levels.append({})
        if levels[depth + 1]:
            # Filled child by child, so that a level of thousands is no work for its parent.
            exact, levels[depth + 1] = levels[depth + 1], {}
            wildcards = tuple(Wildcard(pieces, exact[name]) for pieces, name in record.wildcards)
            node = replace(node, exact=exact, wildcards=wildcards)
        levels[depth][node.name] = node
        self._parts.append(node)
        for limit in node.limits:
            key = (limit.domain, limit_metric_key(node.metric_key, node.limits, limit))
            self._limits += 1
            self._keys.add(key)
            self._parts.append(key)
            self._rules.add(limit.rule)

    def _end_domain(self, domain: Domain) -> None:
        (root,) = self._levels[0].values()
        self._levels[0].clear()
        self._domains[domain.name] = replace(domain, root=root)


_NO_CHILDREN: dict[str, Node] = {}


def _to_frames(compiled: Compiled) -> Iterator[_Frame]:
    policy = compiled.policy
    for domain in policy.domains.values():
        records = _records(domain.root, 0)
        while batch := list(islice(records, NODES_PER_FRAME)):
            yield _Nodes(batch)
        yield _EndOfDomain(replace(domain, root=_without_children(domain.root)))
    if compiled.callers is not None:
        yield from _caller_frames(compiled.callers)
    for page, text in (("document", to_json(policy)), ("rlconfig", to_rlconfig(policy))):
        data = text.encode("utf-8", "replace")
        for at in range(0, len(data), PIECE_BYTES):
            yield _Piece(page, data[at : at + PIECE_BYTES])
    yield _End(
        policy.revision,
        tuple(str(finding) for finding in compiled.warnings[:MAX_WARNINGS]),
        max(0, len(compiled.warnings) - MAX_WARNINGS),
    )


def _caller_frames(callers: Callers) -> Iterator[_Frame]:
    batch: list[Entry] = []
    names = 0
    for entry in callers.entries:
        batch.append(entry)
        names += 1 + len(entry.domains or ()) + len(entry.methods or ())
        if names >= NAMES_PER_FRAME:
            yield _Entries(batch)
            batch, names = [], 0
    yield _Entries(batch)
    sans = iter(callers.sans.items())
    while part := dict(islice(sans, NAMES_PER_FRAME)):
        yield _Sans(part)


def _records(node: Node, depth: int) -> Iterator[_Record]:
    """Yield the nodes from the leaves to `node` itself."""
    for child in node.exact.values():
        yield from _records(child, depth + 1)
    wildcards = tuple((wildcard.pieces, wildcard.node.name) for wildcard in node.wildcards)
    yield _Record(_without_children(node), depth, wildcards)


def _without_children(node: Node) -> Node:
    return replace(node, exact=_NO_CHILDREN, wildcards=())
