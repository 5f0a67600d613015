"""Text that others wrote, made safe: to show (`clean`), and to keep and pass on (`redact`).

Whatever a model, a data set or a plugin wrote goes through `clean` on its way to a terminal or a
report. Errors, events, manifests and specs go through `redact`, so that no token leaves the
process. What models and data say is kept as it is, or a report could not show that a leaked
password is forgotten; such files lose only the tokens of this process itself (`without_own`).
Libraries write to stderr on their own: what they log and warn of goes through both (`guard`).
"""

from __future__ import annotations

import logging
import os
import re
import unicodedata
import warnings
from pathlib import Path
from typing import Any

HIDDEN = "[hidden]"
VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HUGGINGFACE_TOKEN")
SHORTEST = 8
"""Characters; what is shorter is no token, and hiding it would spoil the text around it."""

_HUB_TOKEN = re.compile(r"\bhf_(?:[A-Za-z0-9]{16,}|(?:oauth|jwt)_[\w.-]{15,}\w)")
_CREDENTIALS = re.compile(
    r"(?<=://)(?:"
    r"[^\s/?#:@\"'<>]*:[^\s\"'<>]*@"  # user:password, whatever stands in it, to the last @
    r"|[^\s/?#\"'<>]+@"  # what stands for both
    r")"
)
_format_warning = warnings.formatwarning

_ESCAPE_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: cursor, colours, erase
    # OSC, DCS: to the end; of one that has none its beginning alone, or it would hide the rest
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])"
    r"(?:[^\x07\x1b\x9c\x9d\x90\x98\x9e\x9f]*(?:\x07|\x1b\\|\x9c))?"
    r"|\x1b[ -/]*[0-~]"  # two-character sequences
)
_JOINERS = "\u200c\u200d"  # format characters that scripts and emoji need
_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def clean(text: str, limit: int | None = None, *, keep_newlines: bool = False) -> str:
    """Untrusted text made safe for a terminal: no escape sequences, control or bidi characters.

    Runs of white space become one space unless `keep_newlines`; text longer than `limit`
    characters is cut and ends with an ellipsis.
    """
    text = _ESCAPE_SEQUENCE.sub("", text)
    if not keep_newlines:
        text = " ".join(text.split())
    text = "".join(char for char in text if _is_safe(char, keep_newlines=keep_newlines))
    return text if limit is None or len(text) <= limit else text[: limit - 1].rstrip() + "…"


def _is_safe(char: str, *, keep_newlines: bool) -> bool:
    if char in _JOINERS or (keep_newlines and char in "\n\t"):
        return True
    return unicodedata.category(char) not in _UNSAFE


def redact(text: str) -> str:
    """The text without tokens: those of this process, those of the hub by their shape, and what
    stands before the @ of a URL."""
    return _CREDENTIALS.sub(f"{HIDDEN}@", _HUB_TOKEN.sub(HIDDEN, without_own(text)))


def without_own(text: str) -> str:
    """The text without the tokens that this process holds: in its environment, or in the file that
    the hub's login wrote."""
    for token in _own():
        text = text.replace(token, HIDDEN)
    return text


def has_token() -> bool:
    """Whether this process holds one."""
    return bool(_own())


def _own() -> list[str]:
    """The longest first, so that none is left in part."""
    found = {os.environ.get(name, "").strip() for name in VARIABLES} | _stored()
    return sorted((token for token in found if len(token) >= SHORTEST), key=len, reverse=True)


def _stored() -> set[str]:
    """What the hub's token file holds, if there is one, where its own library looks for it."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", f"{cache}/huggingface")
    file = os.environ.get("HF_TOKEN_PATH", f"{home}/token")
    try:
        return {Path(os.path.expandvars(file)).expanduser().read_text("utf-8").strip()}
    except (OSError, ValueError, RuntimeError):
        return set()


def guard() -> None:
    """From now on no library logs or warns of a token, or steers the terminal."""
    logging.setLogRecordFactory(_Record)
    warnings.formatwarning = _safe_warning


class _Record(logging.LogRecord):
    """A record made safe before any handler has it, a library's own ones included."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        try:
            said = self.getMessage()
        except Exception:  # noqa: BLE001 - a format that does not fit would be shown with its values
            said = str(self.msg)
        self.msg, self.args = _safe(said), ()
        if self.exc_info:  # formatters take a text that is there already
            self.exc_text = _safe(logging.Formatter().formatException(self.exc_info))
        if self.stack_info:
            self.stack_info = _safe(self.stack_info)


def _safe_warning(*args: Any, **more: Any) -> str:
    return _safe(_format_warning(*args, **more))


def _safe(text: str) -> str:
    return clean(redact(text), keep_newlines=True)


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
