"""The type of a JSON value, for metadata that passes through untouched."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias, Union

JsonValue: TypeAlias = Union[bool, int, float, str, "Sequence[JsonValue]", "JsonObject", None]
JsonObject: TypeAlias = Mapping[str, JsonValue]
