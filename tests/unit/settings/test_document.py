"""The migration guide tells about each variable what the code does with it."""

from tests.unit.settings.document import DOCUMENT, with_section


def test_migration_guide_has_the_table_of_variables() -> None:
    text = DOCUMENT.read_text("utf-8")

    assert text == with_section(text), "run: python -m tests.unit.settings.document"
