"""The signature of the Standard Webhooks specification, scheme v1.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence

from .. import encryption


def sign(webhook_id: str, timestamp: int, body: bytes, secret: str) -> str:
    """Give ``v1,`` and the base64 of the HMAC-SHA256 of id, time and body.

    :param timestamp: seconds since 1970 of this attempt
    :param secret: ``whsec_…``
    :raises ValueError: the secret has another form
    """
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    digest = hmac.digest(encryption.secret_bytes(secret), signed, "sha256")
    return "v1," + base64.b64encode(digest).decode()


def headers(webhook_id: str, timestamp: int, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """Give the three headers; there is one signature for each secret."""
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(sign(webhook_id, timestamp, body, s) for s in secrets),
    }
