"""Tables in docs/ that are made from the code; run as a module to write them."""

import re
from itertools import groupby
from pathlib import Path

from ratelimitd.settings.options import OPTIONS
from ratelimitd.settings.upstream_table import UPSTREAM_VARIABLES, Fate

_DOCS = Path(__file__).parents[3] / "docs"
MIGRATION = _DOCS / "migration.md"
OPERATIONS = _DOCS / "operations.md"

_VARIABLES = """\
Every variable of the reference server, and what becomes of it. A flag wins over our own
variable (`--log-level` is `RATELIMITD_LOG_LEVEL`), and that over these. Booleans and durations
are written as there (`true`, `1`, `10s`, `24h`).

- **honoured**: it means what it meant.
- **refused**: it changes what is enforced, where it is counted or who may call, and cannot be
  done here. Set to anything but the value in the table, the daemon does not start (exit code 2)
  and says why.
- **ignored**: nothing that is enforced depends on it. A line in the log names it.
"""
_FLAGS = """\
Those of `ratelimitd serve`. Each has a variable: `--log-level` is `RATELIMITD_LOG_LEVEL`, and the
flag wins. A switch is turned off by `--no-...`, and its variable is `true` or `false`. `dev` has
some of them, with the data in `./.ratelimitd` and the policy in `./policy`.
"""


def with_variables(text: str) -> str:
    """Return the migration guide `text` with the table of variables as it should be."""
    rows = [
        f"| `{each.name}` | {_fate(each.fate, each.harmless)} | {each.note} |"
        for each in UPSTREAM_VARIABLES
    ]
    return _with_section(
        text, "Variables", [_VARIABLES, "| variable | | here |", "|---|---|---|", *rows]
    )


def with_flags(text: str) -> str:
    """Return the operations guide `text` with the table of flags as it should be."""
    lines = [_FLAGS, "| flag | default | meaning |", "|---|---|---|"]
    panels = list(dict.fromkeys(option.panel for option in OPTIONS))
    ordered = sorted(OPTIONS, key=lambda option: panels.index(option.panel))
    for panel, options in groupby(ordered, key=lambda option: option.panel):
        lines.append(f"| **{panel}** | | |")
        for option in options:
            typed = option.flag if option.is_switch else f"{option.flag} {option.metavar}"
            default = f"`{option.default_text}`" if option.default_text else ""
            if option.is_switch:
                default = option.default_text or "off"
            lines.append(f"| `{typed.replace('|', chr(92) + '|')}` | {default} | {option.help} |")
    return _with_section(text, "Flags", lines)


def _with_section(text: str, heading: str, lines: list[str]) -> str:
    """Replace what stands between a heading and the next one, or the end."""
    section = re.compile(rf"(?<=^## {heading}\n\n).*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
    assert section.search(text), f"the heading {heading} is missing"
    changed = section.sub(lambda _: "\n".join([*lines, "", ""]), text, count=1)
    return changed.rstrip("\n") + "\n"


def _fate(fate: Fate, harmless: frozenset[str]) -> str:
    if fate is Fate.REFUSED:
        return f"refused, but {' and '.join(f'`{value}`' for value in sorted(harmless))}"
    return fate.value


if __name__ == "__main__":
    for document, change in ((MIGRATION, with_variables), (OPERATIONS, with_flags)):
        document.write_text(change(document.read_text("utf-8")), "utf-8")
