"""The certificate that a process shows, looked at once a second."""

from typing import Any

from ratelimitd.telemetry.counters import WorkerSeries
from ratelimitd.transport.tls_files import TlsReloader


def follow_certificate(files: TlsReloader[Any] | None, series: WorkerSeries) -> None:
    """Take files that changed into use, and leave for the next scrape when the certificate ends.

    Handshakes look by themselves; this is for a port that nobody calls, whose certificate would
    seem to end although it was replaced.
    """
    if files is not None:
        files.refresh()
        series.certificate_not_after_s = files.not_after_s
