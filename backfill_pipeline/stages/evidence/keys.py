"""Keys that sign evidence: Ed25519, in PEM files as other tools read and write them.

Belongs here: making, reading and naming keys, signing and checking bytes; nothing else knows `cryptography`.
Does not: what is signed (`evidence.py`, `evidence_check.py`).
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from backfill_pipeline.errors import UsageError

KEY_VARIABLE: Final = "BACKFILL_EVIDENCE_PASSPHRASE"
"""Encrypts a private key; secrets come from the environment alone."""

PUBLIC_SUFFIX: Final = ".pub"


def make_key(path: Path) -> str:
    """Makes a pair: the private key at `path`, for its owner's eyes only, the public one beside it.

    Returns:
        The fingerprint of the public key.

    Raises:
        UsageError: one of the files is there already, or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    passphrase = _passphrase()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption()
        if passphrase is None
        else serialization.BestAvailableEncryption(passphrase),
    )
    public = _public_pem(key.public_key())
    public_path = path.with_name(path.name + PUBLIC_SUFFIX)
    if public_path.exists():
        raise UsageError(f"{public_path} is there already: name another file, a key is never overwritten")
    try:
        _write_new(path, private, 0o600)
        _write_new(public_path, public, 0o644)
    except FileExistsError as error:
        raise UsageError(
            f"{error.filename} is there already: name another file, a key is never overwritten"
        ) from None
    except OSError as error:
        raise UsageError(f"cannot write the key {path}: {error.strerror}") from error
    return fingerprint(public)


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """The key that signs.

    Raises:
        UsageError: there is none, it is of another kind, or its passphrase is missing or wrong.
    """
    passphrase = _passphrase()
    content = _read(path)
    try:
        key = serialization.load_pem_private_key(content, passphrase)
    except TypeError:  # encrypted and no passphrase, or the other way round
        if passphrase is not None:
            key = serialization.load_pem_private_key(content, None)
        else:
            raise UsageError(f"the key {path} is encrypted: set {KEY_VARIABLE} to its passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        wrong = "" if passphrase is None else f", or {KEY_VARIABLE} is not its passphrase"
        raise UsageError(
            f"{path} is no private key in PEM form{wrong}: make one with evidence keygen"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path} is a key of another kind than Ed25519: make one with evidence keygen")
    return key


def read_public_key(path: Path) -> bytes:
    """The PEM bytes of a public key.

    Raises:
        UsageError: there is none, or it is of another kind.
    """
    content = _read(path)
    if _load_public(content) is None:
        raise UsageError(
            f"{path} is no Ed25519 public key in PEM form: evidence keygen writes one beside the private key,"
            f" with the ending {PUBLIC_SUFFIX}"
        )
    return content


def sign(key: Ed25519PrivateKey, content: bytes) -> tuple[bytes, bytes]:
    """The signature of `content`, and the PEM bytes of the public key that it can be checked with."""
    return key.sign(content), _public_pem(key.public_key())


def is_signed(content: bytes, signature: bytes, public_pem: bytes) -> bool:
    """Whether this signature of this content was made with that key's private half."""
    key = _load_public(public_pem)
    if key is None:
        return False
    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True


def same_key(one: bytes, other: bytes) -> bool:
    """Whether two PEM texts hold the same public key."""
    keys = [_load_public(pem) for pem in (one, other)]
    return keys[0] is not None and keys[1] is not None and _public_pem(keys[0]) == _public_pem(keys[1])


def fingerprint(public_pem: bytes) -> str:
    """A short name of a public key, to compare by eye: SHA-256 of its raw bytes."""
    key = _load_public(public_pem)
    assert key is not None
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()


def _load_public(pem: bytes) -> Ed25519PublicKey | None:
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, Ed25519PublicKey) else None


def _public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _passphrase() -> bytes | None:
    return os.environ.get(KEY_VARIABLE, "").encode() or None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the key {path}: {error.strerror}") from error


def _write_new(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
