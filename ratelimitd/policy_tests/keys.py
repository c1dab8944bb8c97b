"""Which keys a map of a test file may have."""

from collections.abc import Sequence

from ratelimitd.policy.nodes import MapNode
from ratelimitd.policy.report import Report, join_path


def check_keys(node: MapNode, path: str, known: Sequence[str], report: Report) -> None:
    """Report every key of a map that is none of `known`."""
    for key, _ in node.entries:
        if key.text not in known:
            message = f"unknown key; known here: {', '.join(sorted(known))}"
            report.error(key, join_path(path, key.text), message)
