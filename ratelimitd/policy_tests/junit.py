"""What was played as JUnit's XML, for the pages of a build.

A suite is a file, a case a case; the text of a failure is what people are told. Characters that XML
has no way to write become escapes.
"""

import re
from itertools import groupby
from xml.etree import ElementTree as ET

from ratelimitd.policy_tests.files import Results
from ratelimitd.policy_tests.run import FailedStep
from ratelimitd.policy_tests.told import to_lines

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(results: Results) -> bytes:
    """Return the whole file."""
    root = ET.Element("testsuites", _counts(results))
    for file, group in groupby(results.played, key=lambda one: one.file):
        own = Results(list(group))
        suite = ET.SubElement(root, "testsuite", {"name": _text(file), **_counts(own)})
        for one in own.played:
            names = {"name": _text(one.case.name), "classname": _text(file)}
            case = ET.SubElement(suite, "testcase", names)
            if not one.is_passed:
                failure = ET.SubElement(case, "failure", message=_message(one.failed))
                failure.text = _text("\n".join(to_lines(one)))
    ET.indent(root)
    written: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return written


def _counts(results: Results) -> dict[str, str]:
    return {"tests": str(len(results.played)), "failures": str(results.failed), "errors": "0"}


def _message(failed: tuple[FailedStep, ...]) -> str:
    """Return the first difference, which many pages show alone."""
    number, _, (difference, *_) = failed[0]
    field, expected, got = difference
    return _text(f"step {number + 1}: {field}: expected {expected}, got {got}")


def _text(text: str) -> str:
    return _NOT_XML.sub(lambda found: ascii(found[0])[1:-1], text)
