"""The nodes of a YAML file: raw text with its position, no guessed types."""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Scalar:
    """A leaf: its text, and whether it was written without quotes."""

    text: str
    is_plain: bool
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class ListNode:
    """A sequence."""

    items: tuple["YamlNode", ...]
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class MapNode:
    """A mapping: keys are unique, in the order of the file."""

    entries: tuple[tuple[Scalar, "YamlNode"], ...]
    line: int
    column: int

    def get(self, name: str) -> "YamlNode | None":
        """Return the value of key `name`, if there is one."""
        return next((value for key, value in self.entries if key.text == name), None)

    def key(self, name: str) -> Scalar | None:
        """Return the key `name` itself, for its position."""
        return next((key for key, _ in self.entries if key.text == name), None)


YamlNode: TypeAlias = Scalar | ListNode | MapNode
