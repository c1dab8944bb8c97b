"""What an option is: a flag, its variable, and what both accept."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)

DURATION = "DURATION"
_US_PER_UNIT = {"h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000, "ms": 1_000, "us": 1}


def format_duration(duration_us: int) -> str:
    """Return a duration in the largest unit that holds it whole: `24h`, `250ms`."""
    unit = next(unit for unit, size_us in _US_PER_UNIT.items() if duration_us % size_us == 0)
    return f"{duration_us // _US_PER_UNIT[unit]}{unit}"


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
    def default_text(self) -> str:
        """Return the default as it would be typed; nothing for a switch that is off."""
        if self.default is None or self.default is False or self.default in ("", ()):
            return ""
        if self.is_switch:
            return "on"
        if self.metavar == DURATION and isinstance(self.default, int):
            return format_duration(self.default)
        return str(self.default)

    @property
    def parameter(self) -> str:
        """Return the name as an identifier."""
        return self.name.replace("-", "_")
