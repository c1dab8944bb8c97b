"""The taxonomy of errors, sorted by who must act.

    RatelimitError
    |- ConfigError          the operator: a policy file, a flag, a variable
    |  `- PolicyError       every finding of a policy at once, each with its position
    |- NotReady             the operator: no policy was ever loaded
    |- InvalidRequest       the caller: the request can never be answered
    |- UnknownService       the caller: the health of something that is not here was asked for
    |- NotPermitted         the caller: its certificate does not allow that
    |- NotFound             the caller: what it names is not there
    |- Conflict             the caller: what it read was changed before it wrote
    |- NoRoom               the caller: there are as many of them as there may be
    `- StoreError           nobody's request is wrong: the store did not answer
       |- StoreUnavailable  nothing was sent, so nothing was spent
       |  `- StoreOverloaded  more waits for it than may
       `- StoreReplyLost    it was sent and no answer came: perhaps spent

Over-limit is a value, not an error. transport/errors.py holds the one table of status codes;
what a server of the store says is mapped in store/ only.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class RatelimitError(Exception):
    """The root; never raised itself."""


class ConfigError(RatelimitError):
    """Something that an operator wrote is wrong; the message says where, what and what is right."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong in a policy: `line` and `column` count from 1, 0 where there is none."""

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        """Return the finding as `file:line:column: path: message`."""
        position = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return (
            f"{position}: {self.path}: {self.message}"
            if self.path
            else f"{position}: {self.message}"
        )


class PolicyError(ConfigError):
    """A policy with errors: all of them, of all files, in file order."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        """Keep `findings`; the text is one line for each."""
        super().__init__("\n".join(map(str, findings)))
        self.findings = tuple(findings)


class NotReady(RatelimitError):  # noqa: N818 - reads as what is the case
    """No policy was ever loaded, so nothing can be decided; UNAVAILABLE."""


class InvalidRequest(RatelimitError):  # noqa: N818 - the name of the gRPC status it becomes
    """The caller's request breaks the protocol; INVALID_ARGUMENT."""


class UnknownService(RatelimitError):  # noqa: N818 - reads as what is the case
    """The caller asks how a service is that is not here; NOT_FOUND."""


class NotPermitted(RatelimitError):  # noqa: N818 - reads as what is the case
    """The caller is known, or not, and may not do what it asks for; PERMISSION_DENIED."""


class NotFound(RatelimitError):  # noqa: N818 - the name of the gRPC status it becomes
    """What the caller names is not there; NOT_FOUND."""


class Conflict(RatelimitError):  # noqa: N818 - reads as what is the case
    """Somebody else wrote meanwhile, and nothing was changed; ABORTED: read again, then write."""


class NoRoom(RatelimitError):  # noqa: N818 - reads as what is the case
    """There are as many as there may be; RESOURCE_EXHAUSTED."""


class StoreError(RatelimitError):
    """The store gave no decision; the failure policy of each rule decides."""


class StoreUnavailable(StoreError):  # noqa: N818 - reads as what happened
    """The store could not be asked: nothing was sent, nothing was spent."""


class StoreOverloaded(StoreUnavailable):
    """The queue of the store is full: it is slower than what arrives; RESOURCE_EXHAUSTED."""


class StoreReplyLost(StoreError):  # noqa: N818 - reads as what happened
    """The batch was sent and its answer did not come: it is perhaps spent, and never sent again."""
