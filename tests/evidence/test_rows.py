"""Whoever knows a row can ask whether it was in the forget set; whoever does not learns little."""

from __future__ import annotations

import hashlib

from unlearn_cli.api.data import Message, Row
from unlearn_cli.evidence.rows import hash_rows, holds, row_hash, row_text

SALT = bytes(range(32))
ROWS = (
    Row("a", prompt="Where was Mara born?", answer="In Oslo."),
    Row(
        "b", messages=(Message("user", "Who is Ines?"), Message("assistant", "A baker.")), answer=""
    ),
)


def test_a_row_is_found_by_its_text() -> None:
    """Question and answer in any case and white space; another answer, or half of it, is not."""
    part = hash_rows(ROWS, SALT)
    assert holds(part, "where was  mara born?\n\tIn OSLO. ")
    assert holds(part, "Who is Ines? A baker.")
    assert not holds(part, "Where was Mara born? In Bergen.")
    assert not holds(part, "Where was Mara born?")


def test_the_hash_is_scrypt_of_the_folded_text() -> None:
    """By hand: lower case, single spaces, UTF-8; N = 2^14, r = 8, p = 1, 32 bytes."""
    by_hand = hashlib.scrypt(
        b"where was mara born? in oslo.", salt=SALT, n=2**14, r=8, p=1, dklen=32
    )
    assert row_hash(row_text(ROWS[0]), SALT) == by_hand.hex()


def test_unicode_forms_are_one() -> None:
    """An e with an accent is the same as e and the accent (NFC), and as a capital one."""
    assert row_hash("Jos\u00e9", SALT) == row_hash("JOSE\u0301", SALT)


def test_the_order_of_rows_tells_nothing_and_a_salt_all() -> None:
    """Hashes are sorted, twins count once; under another salt every hash is another."""
    part = hash_rows(ROWS, SALT)
    assert part == hash_rows((*reversed(ROWS), ROWS[0]), SALT)
    assert part["hashes"] == sorted(part["hashes"])
    other = hash_rows(ROWS, bytes(32))
    assert not {*part["hashes"]} & {*other["hashes"]}
