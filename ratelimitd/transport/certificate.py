"""When a certificate ends, read from its bytes: the standard library shows only a peer's.

Certificate     SEQUENCE { tbsCertificate, ... }
tbsCertificate  SEQUENCE { [0] version (may be absent), serial, signature, issuer, validity, .. }
validity        SEQUENCE { notBefore, notAfter }, each a UTCTime or a GeneralizedTime
"""

import re
from base64 import b64decode
from datetime import UTC, datetime
from typing import Final

_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_VERSION, _UTC_TIME, _GENERALIZED_TIME = 0xA0, 0x17, 0x18
_LONG_LENGTH: Final = 0x80
# RFC 5280, 4.1.2.5.1: a year of two digits is of the twentieth century from here on.
_PIVOT: Final = "50"


def not_after_s(pem: bytes) -> int | None:
    """Return the Unix time at which the first certificate in `pem` ends; None if it is unreadable.

    The first one is the one that a server shows.
    """
    found = _PEM.search(pem)
    if found is None:
        return None
    try:
        data = b64decode(found[1])
        certificate, _ = _content(data, 0)
        at, _ = _content(data, certificate)
        before = ("version", "serial", "signature", "issuer")
        for _ in before if data[at] == _VERSION else before[1:]:
            _, at = _content(data, at)
        validity, _ = _content(data, at)
        _, not_after = _content(data, validity)
        start, end = _content(data, not_after)
        return _to_unix(data[not_after], data[start:end].decode("ascii"))
    except (IndexError, ValueError):
        return None


def _content(data: bytes, at: int) -> tuple[int, int]:
    """Return where the content of the element at `at` begins, and where it ends."""
    length, start = data[at + 1], at + 2
    if length >= _LONG_LENGTH:
        count = length - _LONG_LENGTH
        length, start = int.from_bytes(data[start : start + count], "big"), start + count
    if start + length > len(data):
        raise ValueError("an element ends beyond the certificate")
    return start, start + length


def _to_unix(tag: int, text: str) -> int:
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= _PIVOT else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("not a time")
    return int(datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp())
