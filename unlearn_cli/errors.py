"""What went wrong, where, and what would work: one class, and one exit code, a family.

Every error that a user can cause is one of these. The command prints its text and nothing else;
any other exception is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence

from unlearn_cli.safe_text import redact

FAULTS = (Exception, SystemExit)
"""What a plugin may raise where it is called; `sys.exit(0)` would else end the tool as if all had
worked."""


class UnlearnError(Exception):
    """An error that a user can act on. It holds no token (`safe_text.py`).

    Args:
        what: what is wrong, one sentence without a full stop.
        where: file, line, key or folder; empty when the whole command is meant.
        hint: what would work; empty when there is nothing to say.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = redact(what), redact(where), redact(hint)
        super().__init__(self.line())

    def line(self) -> str:
        """The error as one line: `where: what; hint`."""
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}; {self.hint}" if self.hint else text


class UsageError(UnlearnError):
    """A wrong call: a flag, a name or a folder that cannot be used (exit code 2)."""

    exit_code = 2


class SpecError(UsageError):
    """A spec that cannot run; holds everything that is wrong with it (exit code 2)."""

    def __init__(self, problems: Sequence[UnlearnError]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problem.line() for problem in problems))


class PluginError(UsageError):
    """A plugin that is missing, broken, or claimed by two distributions (exit code 2)."""


class DataError(UnlearnError):
    """Data that cannot be read or used (exit code 1)."""


class ModelError(UnlearnError):
    """A model or tokenizer that cannot be loaded or used (exit code 1)."""


class RunError(UnlearnError):
    """A run that had to stop: loss not finite, nothing moved, disk full (exit code 1)."""


class Interrupted(UnlearnError):  # noqa: N818 - the user's wish, not a fault
    """The user stopped the run; it can be resumed (exit code 130; 143 for SIGTERM, 129 for SIGHUP).

    Args:
        what: as above.
        where: as above.
        hint: as above.
        by: number of the signal.
    """

    def __init__(
        self, what: str, *, where: str = "", hint: str = "", by: int = signal.SIGINT
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.by, self.exit_code = by, 128 + by


class Terminated(KeyboardInterrupt):
    """SIGTERM, or the signal of the number that is given, interrupting at once as Ctrl-C does."""


def signal_of(error: BaseException | None) -> int:
    """Number of the signal behind an interrupt."""
    if isinstance(error, Interrupted):
        return error.by
    if isinstance(error, Terminated):
        return int(next(iter(error.args), signal.SIGTERM))
    return signal.SIGINT
