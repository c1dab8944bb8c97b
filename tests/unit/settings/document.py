"""The table of variables in docs/migration.md, made from the code; run as a module to write it."""

import re
from pathlib import Path

from ratelimitd.settings.upstream_table import UPSTREAM_VARIABLES, Fate

DOCUMENT = Path(__file__).parents[3] / "docs" / "migration.md"
_SECTION = re.compile(r"(?<=^## Variables\n\n).*?(?=^## )", re.DOTALL | re.MULTILINE)

_INTRODUCTION = """\
Every variable of the reference server, and what becomes of it. A flag wins over our own
variable (`--log-level` is `RATELIMITD_LOG_LEVEL`), and that over these. Booleans and durations
are written as there (`true`, `1`, `10s`, `24h`).

- **honoured**: it means what it meant.
- **refused**: it changes what is enforced, where it is counted or who may call, and cannot be
  done here. Set to anything but the value in the table, the daemon does not start (exit code 2)
  and says why.
- **ignored**: nothing that is enforced depends on it. A line in the log names it.
"""


def variables_section() -> str:
    """Return the section's text, without its heading."""
    rows = [
        f"| `{each.name}` | {_fate(each.fate, each.harmless)} | {each.note} |"
        for each in UPSTREAM_VARIABLES
    ]
    return "\n".join([_INTRODUCTION, "| variable | | here |", "|---|---|---|", *rows, "", ""])


def with_section(text: str) -> str:
    """Return the document `text` with the section as it should be."""
    assert _SECTION.search(text) or "## Variables\n\n## " in text, "the heading is missing"
    return _SECTION.sub(lambda _: variables_section(), text, count=1)


def _fate(fate: Fate, harmless: frozenset[str]) -> str:
    if fate is Fate.REFUSED:
        return f"refused, but {' and '.join(f'`{value}`' for value in sorted(harmless))}"
    return fate.value


if __name__ == "__main__":
    DOCUMENT.write_text(with_section(DOCUMENT.read_text("utf-8")), "utf-8")
