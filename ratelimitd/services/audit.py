"""The trail of what operators change: one line for each entry, whatever the log level."""

import logging
from typing import Final

from ratelimitd.decisions.subject import Subject
from ratelimitd.decisions.subject_entry import shown
from ratelimitd.services.context import CallContext
from ratelimitd.telemetry.logs import AUDIT_LOGGER, fields

_UNKNOWN_PEER: Final = "unknown"
_log = logging.getLogger(AUDIT_LOGGER)


class Trail:
    """Writes who did what to which entries, and why; a secret value is in no line."""

    def __init__(self, context: CallContext, domain: str, reason: str) -> None:
        """Speak of one call."""
        self._peer = context.address or _UNKNOWN_PEER
        self._domain = domain
        self._reason = reason

    def write(self, what: str, field: str, **values: object) -> None:
        """Log that `what` was done to the entry that is stored as `field`."""
        extra = fields(
            peer=self._peer,
            domain=self._domain,
            entry=shown(field),
            **values,
            reason=self._reason,
        )
        _log.info("%s", what, extra=extra)

    def write_record(self, what: str, field: str, subject: Subject) -> None:
        """Log a record that was written."""
        overrides = ",".join(f"{one.limit}={one.amount}" for one in subject.overrides)
        self.write(what, field, tier=subject.tier, overrides=overrides)
