"""The guides tell about each flag and variable what the code does with it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.settings.document import MIGRATION, OPERATIONS, with_flags, with_variables


@pytest.mark.parametrize(
    ("document", "change"), [(MIGRATION, with_variables), (OPERATIONS, with_flags)]
)
def test_guide_has_its_table(document: Path, change: Callable[[str], str]) -> None:
    text = document.read_text("utf-8")

    assert text == change(text), "run: python -m tests.unit.settings.document"
