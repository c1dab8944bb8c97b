"""The text of one file becomes nodes that know their position.

Rules:
- A scalar is raw text; nothing guesses its type here.
- Built from parser events on an explicit stack: nesting costs no Python recursion, and depth
  and node count are checked while reading, aliases included.
- Everything wrong is a finding; nothing else is raised.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

import yaml
from yaml import events as ev

from ratelimitd.policy.merge import unique_entries
from ratelimitd.policy.nodes import ListNode, MapNode, Scalar, YamlNode
from ratelimitd.policy.report import Report, join_path, quote

MAX_FILE_BYTES = 4 * 1024 * 1024
"""Four times what a Kubernetes ConfigMap can hold."""

MAX_NODES = 1_000_000
"""Nodes of one file, each alias counted in full: stops alias bombs, and is 30,000 long rules."""

MAX_DEPTH = 100
"""Nested maps and lists: 32 levels of descriptors take 64, metadata 16 more."""


def read_document(content: str | bytes, report: Report, key: str = "domain") -> MapNode | None:
    """Return the root map of a file, or None when there is none to go on with.

    `key` is what no such file does without, for messages.
    """
    text = _decode(content, report)
    if text is None:
        return None
    try:
        root = _Builder(report).build(_parse(text))
    except _Stop:
        return None
    except yaml.YAMLError as error:
        _report_yaml(error, text, report)
        return None
    if isinstance(root, MapNode):
        return root
    if root is None or (isinstance(root, Scalar) and root.is_plain and not root.text):
        report.error(None, "", f"the file is empty; it needs at least `{key}:`")
    else:
        report.error(root, "", f"the file must be a map with the key `{key}`, not a list or text")
    return None


@dataclass(frozen=True, slots=True)
class _Place:
    line: int
    column: int


@dataclass(slots=True)
class _Frame:
    """A list or map that is still open; a map's pending `key` waits for its value."""

    is_map: bool
    place: _Place
    anchor: str | None
    items: list[YamlNode] = field(default_factory=list)
    entries: list[tuple[Scalar, YamlNode]] = field(default_factory=list)
    key: YamlNode | None = None
    size: int = 1
    height: int = 1


@dataclass(frozen=True, slots=True)
class _Anchored:
    node: YamlNode
    size: int
    height: int


class _Stop(Exception):  # noqa: N818 - control flow inside this module
    """The finding is made; there is nothing to go on with."""


_CONTROL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where PyYAML was built with it


def _decode(content: str | bytes, report: Report) -> str | None:
    """Return the text, without a byte order mark; findings for what no YAML file may hold."""
    if len(content) > MAX_FILE_BYTES:
        report.error(None, "", f"the file has more than {MAX_FILE_BYTES:,} bytes; split it")
        return None
    try:
        text = content.decode() if isinstance(content, bytes) else content
    except UnicodeDecodeError as error:
        at = _place_of(error.object[: error.start].decode())
        report.error(at, "", f"byte 0x{error.object[error.start]:02x} is not UTF-8")
        return None
    text = text.removeprefix("\ufeff")
    if bad := _CONTROL.search(text):
        at = _place_of(text[: bad.start()])
        report.error(at, "", f"character U+{ord(bad[0]):04X} is not allowed in YAML")
        return None
    return text


def _place_of(before: str) -> _Place:
    """Return the place right after the text `before`."""
    return _Place(before.count("\n") + 1, len(before) - before.rfind("\n"))


def _parse(text: str) -> Iterator[ev.Event]:
    parser = _Loader(text)
    try:
        while parser.check_event():
            yield parser.get_event()
    finally:
        parser.dispose()


def _report_yaml(error: yaml.YAMLError, text: str, report: Report) -> None:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or "it cannot be read"
    at = _Place(mark.line + 1, mark.column + 1) if mark else None
    line = dict(enumerate(text.split("\n"), 1)).get(at.line, "") if at else ""
    hint = "; use spaces, YAML allows no tab in indentation" if "\t" in line else ""
    report.error(at, "", f"not valid YAML: {problem}{hint}")


class _Builder:
    """Turns events into nodes; one instance per file."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._stack: list[_Frame] = []
        self._anchors: dict[str, _Anchored] = {}
        self._root: YamlNode | None = None

    def build(self, events: Iterator[ev.Event]) -> YamlNode | None:
        documents = 0
        for event in events:
            mark = event.start_mark
            assert mark is not None  # every event of a parser has one
            place = _Place(mark.line + 1, mark.column + 1)
            if isinstance(event, ev.ScalarEvent):
                self._scalar(event, place)
            elif isinstance(event, ev.MappingStartEvent | ev.SequenceStartEvent):
                self._open(event, place)
            elif isinstance(event, ev.MappingEndEvent | ev.SequenceEndEvent):
                self._close()
            elif isinstance(event, ev.AliasEvent):
                self._alias(event, place)
            elif isinstance(event, ev.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    message = "a second document starts here; one file is one document"
                    self._report.error(place, "", message)
                    break
        return self._root

    def _scalar(self, event: ev.ScalarEvent, place: _Place) -> None:
        self._check_tag(event, "str", place)
        is_plain = event.implicit[0] and event.tag is None
        node = Scalar(event.value, is_plain, place.line, place.column)
        self._add(node, event.anchor, size=1, height=1)

    def _open(self, event: ev.MappingStartEvent | ev.SequenceStartEvent, place: _Place) -> None:
        is_map = isinstance(event, ev.MappingStartEvent)
        self._check_tag(event, "map" if is_map else "seq", place)
        self._check_depth(len(self._stack) + 1, place)
        self._stack.append(_Frame(is_map, place, event.anchor))

    def _close(self) -> None:
        frame = self._stack.pop()
        node: YamlNode
        if frame.is_map:
            entries = tuple(frame.entries)
            names = {key.text for key, _ in entries}
            if len(names) < len(entries) or "<<" in names:
                entries = unique_entries(entries, self._path(), self._report)
            node = MapNode(entries, frame.place.line, frame.place.column)
        else:
            node = ListNode(tuple(frame.items), frame.place.line, frame.place.column)
        self._add(node, frame.anchor, size=frame.size, height=frame.height)

    def _alias(self, event: ev.AliasEvent, place: _Place) -> None:
        name = event.anchor or ""
        is_inside = any(frame.anchor == name for frame in self._stack)
        anchored = None if is_inside else self._anchors.get(name)
        if anchored is None:
            message = f"there is no anchor {quote(name)} before this alias"
            if is_inside:
                message = f"the anchor {quote(name)} contains itself"
            self._report.error(place, self._path(), message)
            # Read on with nothing in its place; that it is missing there is not told again.
            self._add(Scalar("", True, place.line, place.column), None, size=1, height=1)
            return
        self._check_depth(len(self._stack) + anchored.height, place)
        self._add(anchored.node, None, size=anchored.size, height=anchored.height, at=place)

    def _add(
        self,
        node: YamlNode,
        anchor: str | None,
        *,
        size: int,
        height: int,
        at: _Place | None = None,
    ) -> None:
        """Put a complete node where it belongs; `at` is where an alias stands."""
        if anchor:
            self._anchors[anchor] = _Anchored(node, size, height)
        if not self._stack:
            self._root = node
            return
        frame = self._stack[-1]
        frame.size += size
        frame.height = max(frame.height, height + 1)
        if frame.size > MAX_NODES:
            self._stop(at or frame.place, f"more than {MAX_NODES:,} nodes, aliases counted in full")
        if not frame.is_map:
            frame.items.append(node)
        elif frame.key is None:
            frame.key = node
        else:
            key, frame.key = frame.key, None
            if isinstance(key, Scalar):
                frame.entries.append((key, node))
            else:
                self._report.error(key, self._path(), "a key must be text, not a list or a map")

    def _path(self) -> str:
        """Return the path of what is being read, as findings show it."""
        path = ""
        for frame in self._stack:
            if not frame.is_map:
                path += f"[{len(frame.items)}]"
            elif isinstance(frame.key, Scalar):
                path = join_path(path, frame.key.text)
        return path

    def _check_tag(
        self,
        event: ev.ScalarEvent | ev.MappingStartEvent | ev.SequenceStartEvent,
        kind: str,
        place: _Place,
    ) -> None:
        if event.tag and event.tag not in ("!", f"tag:yaml.org,2002:{kind}"):
            message = f"the tag {quote(event.tag)} is not supported; leave it out"
            self._report.error(place, self._path(), message)

    def _check_depth(self, depth: int, place: _Place) -> None:
        if depth > MAX_DEPTH:
            self._stop(place, f"more than {MAX_DEPTH} lists and maps inside one another")

    def _stop(self, place: _Place, message: str) -> NoReturn:
        self._report.error(place, "", message)
        raise _Stop
