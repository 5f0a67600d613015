"""Signatures: Ed25519 in a DSSE envelope, as in-toto has it. Needs the extra `sign`."""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearn_cli.errors import UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

PAYLOAD = "application/vnd.in-toto+json"
MAKE_KEY = "make one with: openssl genpkey -algorithm ed25519 -out key.pem"
MAKE_PUBLIC = "make it with: openssl pkey -in key.pem -pubout -out key.pub.pem"


def sign(payload: bytes, key: Path) -> dict[str, Any]:
    """The payload in an envelope, signed with the private key in a PEM file.

    Raises:
        UsageError: `cryptography` is missing, or the file is no Ed25519 private key.
    """
    private = _private_key(key)
    signature = private.sign(encode(PAYLOAD, payload))
    signed = {"keyid": keyid(private.public_key()), "sig": b64encode(signature).decode()}
    return {
        "payloadType": PAYLOAD,
        "payload": b64encode(payload).decode(),
        "signatures": [signed],
    }


def is_signed(envelope: Mapping[str, Any], key: Path) -> bool:
    """Whether one of the signatures is by the key whose public half is in a PEM file.

    Raises:
        UsageError: `cryptography` is missing, or the file is no Ed25519 public key.
    """
    from cryptography.exceptions import InvalidSignature

    public = _public_key(key)
    message = encode(PAYLOAD, b64decode(envelope["payload"]))
    for signature in envelope["signatures"]:
        try:
            public.verify(b64decode(signature["sig"]), message)
        except InvalidSignature:
            continue
        return True
    return False


def encode(kind: str, body: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding of type and payload."""
    name = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(body), body)


def keyid(public: Ed25519PublicKey) -> str:
    """SHA-256 (hex) of a public key as DER: a name to tell keys apart."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _private_key(path: Path) -> Ed25519PrivateKey:
    pem = _read(path, MAKE_KEY)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        what, hint = "is locked by a password", "unlock it with: openssl pkey -in KEY -out PLAIN"
        raise UsageError(what, where=str(path), hint=hint) from None
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError("is no private key in PEM", where=str(path), hint=MAKE_KEY) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError("is no Ed25519 key", where=str(path), hint=MAKE_KEY)
    return key


def _public_key(path: Path) -> Ed25519PublicKey:
    pem = _read(path, MAKE_PUBLIC)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError("is no public key in PEM", where=str(path), hint=MAKE_PUBLIC) from None
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError("is no Ed25519 key", where=str(path), hint=MAKE_KEY)
    return key


def _read(path: Path, hint: str) -> bytes:
    if find_spec("cryptography") is None:
        install = "pip install 'unlearn-cli[sign]'"
        raise UsageError("signatures need cryptography", where=str(path), hint=install)
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path), hint=hint) from None
