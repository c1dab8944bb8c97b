"""What the services need of the registry: its records of subjects, and what is blocked."""

from collections.abc import Collection
from typing import Protocol

from ratelimitd.decisions.subject import EMPTY, Blocks
from ratelimitd.services.subject_cache import Cached
from ratelimitd.services.subject_reads import OnRead


class Directory(Protocol):
    """The registry as this process sees it; a change is another object."""

    @property
    def blocks(self) -> Blocks:
        """Return what is blocked."""
        ...

    @property
    def timeout_s(self) -> float:
        """Return the seconds in which whoever wants something is told."""
        ...

    def get(self, field: str, /) -> Cached:
        """Return the record of a subject, None if it has none, or UNKNOWN."""
        ...

    def want(self, fields: Collection[str], done: OnRead, /) -> None:
        """Ask the store about subjects; `done` is told once, also if it does not answer."""
        ...


class NoDirectory:
    """Nobody is registered, and nothing is blocked."""

    blocks = EMPTY
    timeout_s = 0.0

    def get(self, field: str, /) -> Cached:
        """Return that there is no record."""
        del field
        return None

    def want(self, fields: Collection[str], done: OnRead, /) -> None:
        """Tell at once."""
        del fields
        done(None)
