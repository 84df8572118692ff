"""Secrets at rest: webhook secrets and custom headers, encrypted with Fernet.

Whoever reads the database alone (a backup, a replica) can sign nothing.
Fernet is AES-128-CBC with HMAC-SHA256 (https://github.com/fernet/spec).
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SECRET_PREFIX = "whsec_"
# Standard Webhooks: between 24 and 64 bytes.
MIN_SECRET_BYTES = 24
MAX_SECRET_BYTES = 64
# As long as the digest of HMAC-SHA256; more adds nothing (RFC 2104, section 3).
_NEW_SECRET_BYTES = 32


class UnreadableSecret(Exception):
    """A stored secret was written with a key that is not configured.

    That is the portal's fault and nobody else's, so the text says what its operator is to do.
    """


def derived_key(site_secret: str) -> str:
    """Derive a Fernet key from CKAN's ``SECRET_KEY`` (RFC 5869).

    :param site_secret: any text; the same text gives the same key
    """
    derivation = HKDF(SHA256(), length=32, salt=None, info=b"ckanext-webhooks secrets")
    return base64.urlsafe_b64encode(derivation.derive(site_secret.encode())).decode()


def encrypt(text: str, keys: Sequence[str]) -> str:
    """Encrypt with the first of ``keys``.

    :raises ValueError: a key is not 32 bytes in urlsafe base64
    """
    return _fernet(tuple(keys)).encrypt(text.encode()).decode()


def decrypt(token: str, keys: Sequence[str]) -> str:
    """Decrypt with whichever of ``keys`` fits.

    :raises UnreadableSecret: none fits
    """
    try:
        return _fernet(tuple(keys)).decrypt(token.encode()).decode()
    except InvalidToken:
        raise UnreadableSecret(
            "stored under a key that is neither among ckanext.webhooks.secret_keys nor comes from"
            " SECRET_KEY: the portal's operator is to add the old key at the end of that option"
        ) from None


def is_readable(token: str, keys: Sequence[str]) -> bool:
    """Tell whether any of ``keys`` fits."""
    try:
        decrypt(token, keys)
    except UnreadableSecret:
        return False
    return True


# Three signatures' worth of time for each secret of a worker's webhooks. An entry is
# less than 1 KB, of which the process has the key in any case.
@lru_cache(maxsize=4096)
def decrypt_again(token: str, keys: tuple[str, ...]) -> str:
    """Do as :func:`decrypt` for what is read again and again.

    :raises UnreadableSecret: none fits
    """
    return decrypt(token, keys)


def reencrypt(token: str, keys: Sequence[str]) -> str:
    """Write with the first of ``keys`` what any of them can read.

    :raises UnreadableSecret: none fits
    """
    return encrypt(decrypt(token, keys), keys)


def new_secret() -> str:
    """Make a signing secret in the form of the Standard Webhooks spec."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_NEW_SECRET_BYTES)).decode()


@lru_cache(maxsize=4096)
def secret_bytes(secret: str) -> bytes:
    """Give the key that a secret stands for.

    :raises ValueError: the text says what is wrong with the secret
    """
    if not secret.startswith(SECRET_PREFIX):
        raise ValueError(f"must start with {SECRET_PREFIX}")
    try:
        key = base64.b64decode(secret[len(SECRET_PREFIX) :], validate=True)
    except ValueError:
        raise ValueError(f"must be base64 after {SECRET_PREFIX}") from None
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise ValueError(
            f"must stand for {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes, not {len(key)}"
        )
    return key


@lru_cache(maxsize=8)  # the portal's, and those of tests
def _fernet(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])
