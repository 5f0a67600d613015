"""Signatures are Ed25519 over DSSE's encoding: anybody's tools can make and check them."""

from __future__ import annotations

import shutil
import subprocess
from base64 import b64decode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.evidence.conftest import make_key
from unlearn_cli.errors import UsageError
from unlearn_cli.evidence.signing import encode, is_signed, sign


def test_the_encoding_is_that_of_dsse() -> None:
    """The example of the DSSE protocol, version 1."""
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert encode("http://example.com/HelloWorld", b"hello world") == expected


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the command openssl")
def test_openssl_agrees(tmp_path: Path) -> None:
    """With keys made as `unlearn certify --help` says, our signature is one that openssl verifies
    over the same bytes."""
    key, public = tmp_path / "key.pem", tmp_path / "key.pub.pem"
    make = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(key)]
    subprocess.run(make, check=True)
    subprocess.run(["openssl", "pkey", "-in", str(key), "-pubout", "-out", str(public)], check=True)
    envelope = sign(b"payload", key)
    (tmp_path / "message").write_bytes(encode("application/vnd.in-toto+json", b"payload"))
    (tmp_path / "sig").write_bytes(b64decode(envelope["signatures"][0]["sig"]))
    command: list[str | Path] = [
        "openssl",
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        public,
        "-rawin",
    ]
    files: list[str | Path] = ["-in", tmp_path / "message", "-sigfile", tmp_path / "sig"]
    subprocess.run([*command, *files], check=True, capture_output=True)


def test_the_wrong_key_and_a_changed_payload_are_told(tmp_path: Path) -> None:
    """Only the very bytes, and only the very key, verify; one of several signatures is enough."""
    (key, public), (other, other_public) = make_key(tmp_path, "a"), make_key(tmp_path, "b")
    envelope = sign(b"payload", key)
    assert is_signed(envelope, public)
    assert not is_signed(envelope, other_public)
    assert not is_signed(envelope | {"payload": sign(b"Payload", key)["payload"]}, public)
    both = [*sign(b"payload", other)["signatures"], *envelope["signatures"]]
    assert is_signed(envelope | {"signatures": both}, public)
    assert not is_signed(envelope | {"signatures": []}, public)


def test_what_is_no_key_is_one_line(tmp_path: Path) -> None:
    """Garbage, a key of another kind, a private one for a public one, no file: each is named."""
    key, _ = make_key(tmp_path, "key")
    x25519, x25519_public = make_key(tmp_path, "other", X25519PrivateKey.generate())
    (tmp_path / "garbage").write_bytes(b"\xff\x00 garbage")
    with pytest.raises(UsageError, match="is no private key in PEM; make one with: openssl"):
        sign(b"", tmp_path / "garbage")
    with pytest.raises(UsageError, match="is no Ed25519 key"):
        sign(b"", x25519)
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        sign(b"", tmp_path / "nothing")
    envelope = sign(b"", key)
    for path, what in ((key, "is no public key"), (x25519_public, "is no Ed25519 key")):
        with pytest.raises(UsageError, match=what):
            is_signed(envelope, path)


def test_a_locked_key_is_named(tmp_path: Path) -> None:
    """A key with a password is refused, with what unlocks it."""
    key, _ = make_key(tmp_path, "locked", password=b"word")
    with pytest.raises(UsageError, match="is locked by a password"):
        sign(b"", key)
