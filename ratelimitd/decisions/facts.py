"""What a plan depends on besides the policy, the request and the options: time, blocks, subjects.

Rules:
- A plan is made of facts that were gathered before; making it asks nobody.
- `subjects` has what the registry says of each subject of the request, by its field. One that is
  missing there is unknown: the request is planned as if the registry had no record of it.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from ratelimitd.decisions.subject import EMPTY, Blocks, Subject

NOBODY: Final[Mapping[str, Subject | None]] = MappingProxyType({})


class Facts(NamedTuple):
    """`now_us` is microseconds since the Unix epoch; it chooses periods, and ends what expires."""

    now_us: int = 0
    blocks: Blocks = EMPTY
    subjects: Mapping[str, Subject | None] = NOBODY


NO_FACTS = Facts()
