"""Why a TLS handshake failed, as one word of a short fixed list.

OpenSSL's own names for errors are hundreds, change with its versions, and some of them are the
peer's choice; what an operator can do about them is this.
"""

import ssl
from typing import Final

NO_ALPN: Final = "no_alpn"
"""The handshake itself was well; the peer does not say that it speaks HTTP/2."""

TIMEOUT: Final = "timeout"
RESET: Final = "reset"
OTHER: Final = "other"
REFUSED: Final = "refused_by_peer"

REASONS: Final = (
    "no_certificate",
    "unknown_authority",
    "expired",
    "bad_certificate",
    "no_common_parameters",
    NO_ALPN,
    "not_tls",
    REFUSED,
    TIMEOUT,
    RESET,
    OTHER,
)

# X509_V_ERR_* of x509_vfy.h; no issuer that we know, or a signature that is not its own.
_BY_VERIFY_CODE: Final = {
    10: "expired",
    **dict.fromkeys((2, 4, 6, 7, 18, 19, 20, 21, 33), "unknown_authority"),
}

_BY_NAME: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no_certificate",
    **dict.fromkeys(
        (
            *("UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW", "NO_PROTOCOLS_AVAILABLE"),
            *("NO_SHARED_CIPHER", "NO_SUITABLE_KEY_SHARE", "NO_SUITABLE_GROUPS"),
            *("NO_SUITABLE_SIGNATURE_ALGORITHM", "NO_SHARED_SIGNATURE_ALGORITHMS"),
            *("INAPPROPRIATE_FALLBACK", "BAD_PROTOCOL_VERSION_NUMBER"),
        ),
        "no_common_parameters",
    ),
    **dict.fromkeys(("HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "WRONG_VERSION_NUMBER"), "not_tls"),
}


def reason_of(error: BaseException) -> str:
    """Return which of REASONS the error of a handshake is."""
    match error:
        case ssl.SSLCertVerificationError(verify_code=code):
            return _BY_VERIFY_CODE.get(code, "bad_certificate")
        case ssl.SSLEOFError():
            return RESET
        case ssl.SSLError(reason=str(name)):
            # `SSLV3_ALERT_CERTIFICATE_EXPIRED`: the peer says what it does not like about us.
            return _BY_NAME.get(name) or (REFUSED if "_ALERT_" in name else OTHER)
        # How the loop tells that the peer was silent for too long.
        case ConnectionAbortedError() | TimeoutError():
            return TIMEOUT
        case ConnectionError():
            return RESET
    return OTHER
