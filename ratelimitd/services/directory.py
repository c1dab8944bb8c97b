"""What the services need of the registry: its records of subjects, and what is blocked."""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final, Protocol

from ratelimitd.decisions.subject import NO_BLOCKS, Blocks, Subject


class Unknown(Enum):
    """What is known of a subject that nobody asked the store about yet."""

    UNKNOWN = 0


UNKNOWN: Final = Unknown.UNKNOWN


class Directory(Protocol):
    """The registry as this process sees it; a change is another object."""

    @property
    def blocks(self) -> Blocks:
        """Return what is blocked."""
        ...

    def get(self, field: str, /) -> Subject | Unknown | None:
        """Return the record of a subject, None if it has none, or that it is not known."""
        ...

    def want(self, fields: Sequence[str], done: Callable[[], None], /) -> None:
        """Ask the store about subjects; `done` is told once, also if it does not answer."""
        ...


class NoDirectory:
    """Nobody is registered, and nothing is blocked."""

    blocks = NO_BLOCKS

    def get(self, field: str, /) -> Subject | Unknown | None:
        """Return that there is no record."""
        del field
        return None

    def want(self, fields: Sequence[str], done: Callable[[], None], /) -> None:
        """Tell at once."""
        del fields
        done()
