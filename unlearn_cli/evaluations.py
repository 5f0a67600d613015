"""The evaluation file: every number of one evaluation of one model, and a value for every row.

Imports no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unlearn_cli.api.evaluate import Number, Table
from unlearn_cli.errors import RunError
from unlearn_cli.files import parse_json, plain, read_text

FORMAT = 1
"""Version of the evaluation file; raised whenever an older reader would misread it."""

INSIDE = "inside"
"""Key of the settings of a stress test: those of the evaluator inside."""

_EVALUATE_AGAIN = "make it again with `unlearn evaluate`"


@dataclass(frozen=True)
class Generated:
    """What a model answered to the question of one row."""

    set: str
    id: str
    question: str
    truth: str
    generation: str


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one model, as stored."""

    evaluator: str
    label: str
    """As in `events.EvaluationDone`."""
    step: int
    table: Table
    model: str
    """Fingerprint of the weights."""
    data: str
    """Fingerprint of the rows that were scored."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Options of the evaluator, and whatever else decides the numbers."""
    samples: tuple[Generated, ...] = ()
    """Every generated row."""
    format: int = FORMAT

    @property
    def under_stress(self) -> bool:
        """Whether a stress test made it, which has another evaluator inside."""
        return isinstance(self.settings.get(INSIDE), Mapping)

    def finite(self) -> Evaluation:
        """With the figures that are read back: one that is not finite is null, with its reason."""
        numbers = {name: _finite(number) for name, number in self.table.numbers.items()}
        return replace(self, table=replace(self.table, numbers=numbers))

    def to_json(self) -> str:
        """The file's text."""
        text = json.dumps(plain(self.finite()), ensure_ascii=False, allow_nan=False, indent=1)
        return text + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "evaluation") -> Evaluation:
        """Read `to_json` back.

        Raises:
            RunError: naming `where`, for another format version or a damaged file.
        """
        from pydantic import TypeAdapter, ValidationError

        _check_format(parse_json(text, where), where)
        try:
            return TypeAdapter(cls).validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            what = f"not a stored evaluation: {key}: {first['msg']}"
            raise RunError(what, where=where, hint=_EVALUATE_AGAIN) from None

    @classmethod
    def read(cls, path: Path) -> Evaluation:
        """Read the file at `path`; RunError naming it where it cannot be read."""
        return cls.from_json(read_text(path), str(path))


def _check_format(parsed: Any, where: str) -> None:
    found = parsed.get("format") if isinstance(parsed, dict) else None
    if found is None:
        raise RunError("not a stored evaluation of this tool", where=where, hint=_EVALUATE_AGAIN)
    if found != FORMAT:
        what = f"evaluation format {found!r}, this version reads {FORMAT}"
        raise RunError(what, where=where, hint=_EVALUATE_AGAIN)


def _finite(number: Number) -> Number:
    if number.value is None:
        return number
    if math.isfinite(number.value):
        return replace(number, value=float(number.value))  # as it is read back: 0.0 where it is 0
    return replace(number, value=None, reason=number.reason or f"the value was {number.value}")
