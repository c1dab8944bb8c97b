"""What a plain YAML scalar means to the reference server, whose files must go on to work.

Rules:
- Text fields take the scalar as it is written; only numbers and truth values are read here.
- YAML 1.1: `yes` and `on` are true, `010` is octal, `1_000` is a thousand.
- A float is nobody's field, so `value: 1.10` without quotes is an error, there and here.
"""

import math
import re
from typing import TypeAlias

Resolved: TypeAlias = str | bool | int | float | None

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE"), True),
    **dict.fromkeys(("on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE"), False),
    **dict.fromkeys(("off", "Off", "OFF"), False),
}
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_INTEGER = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")

LARGEST_INTEGER = 2**63 - 1
"""Beyond 64 bits an integer is no integer to the reference server."""

INTEGER_CHARACTERS = 70
"""Sign, prefix and 64 binary digits; longer text is not worth parsing as an integer."""


def resolve(text: str) -> Resolved:
    """Return what the plain scalar `text` is; an integer beyond 64 bits is a float."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789":
        return text
    if _SPECIAL_FLOAT.fullmatch(text):
        return math.inf
    return _resolve_number(text if text[0] == "." else text.replace("_", ""), text)


def is_octal(text: str) -> bool:
    """Tell whether `text` is an integer that a reader takes for decimal and YAML for octal."""
    digits = text.replace("_", "").lstrip("+-")
    return len(digits) > 1 and digits[0] == "0" and digits.isdigit()


def _resolve_number(digits: str, text: str) -> int | float | str:
    if len(digits) <= INTEGER_CHARACTERS and _INTEGER.fullmatch(digits):
        integer = _parse_integer(digits)
        return integer if -LARGEST_INTEGER <= integer <= LARGEST_INTEGER else float(integer)
    if _FLOAT.fullmatch(digits):
        number = float(digits)
        return number if math.isfinite(number) else text
    return text


def _parse_integer(digits: str) -> int:
    sign = -1 if digits[0] == "-" else 1
    magnitude = digits.lstrip("+-")
    if len(magnitude) > 1 and magnitude[0] == "0" and magnitude[1].isdigit():
        return sign * int(magnitude, 8)
    return sign * int(magnitude, 0)
