"""Whether a row was in the forget set: salted hashes, which name no row to whoever has none.

The hash is scrypt, slow and large in memory on purpose: whoever holds the statement can try
guesses, and each costs what it costs us. That protects texts that nobody can guess, and no others.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from unlearn_cli.api.data import Row

SCHEME = "scrypt-16384-8-1"
"""N, r and p: 16 MiB and some hundredths of a second for a guess."""
SALT_BYTES = 32


def row_text(row: Row) -> str:
    """What is hashed of a row: all turns, or prompt and answer."""
    return "\n".join((*(turn.content for turn in row.messages), row.prompt, row.answer))


def row_hash(text: str, salt: bytes) -> str:
    """The hash (64 hex digits) of a text, whatever its case, white space and Unicode form."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    bare = " ".join(folded.split()).encode("utf-8", "replace")
    return hashlib.scrypt(bare, salt=salt, n=16384, r=8, p=1, dklen=32).hex()


def hash_rows(rows: Iterable[Row], salt: bytes) -> dict[str, Any]:
    """The statement's part on the rows. The hashes are sorted, so that the order tells nothing."""
    with ThreadPoolExecutor() as pool:
        hashes = {*pool.map(lambda row: row_hash(row_text(row), salt), rows)}
    return {"scheme": SCHEME, "salt": salt.hex(), "hashes": sorted(hashes)}


def holds(part: Mapping[str, Any], text: str) -> bool:
    """Whether the text is one of the rows."""
    return row_hash(text, bytes.fromhex(part["salt"])) in part["hashes"]
