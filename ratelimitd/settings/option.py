"""What an option is: a flag, its variable, and what both accept."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, kw_only=True)
class Option(Generic[T_co]):
    """One thing to set; a `is_switch` flag takes no value: `--name` or `--no-name`."""

    name: str
    help: str
    parse: Callable[[str], T_co]
    default: T_co
    metavar: str = "TEXT"
    panel: str = "Listening"
    is_switch: bool = False
    is_secret: bool = False

    @property
    def flag(self) -> str:
        """Return the flag as it is typed."""
        return f"--{self.name}"

    @property
    def variable(self) -> str:
        """Return the name of the environment variable."""
        return f"RATELIMITD_{self.parameter.upper()}"

    @property
    def parameter(self) -> str:
        """Return the name as an identifier."""
        return self.name.replace("-", "_")
