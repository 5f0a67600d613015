"""The TOFU evaluation: is it forgotten, and what did it cost?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt

from unlearn_cli.api import Bundle, Decoding, Probe, Row
from unlearn_cli.api.evaluate import Answer

MEMORISATION = ("extraction_strength", "exact_memorization")
ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus")


@dataclass(frozen=True)
class TOFUEvaluator:
    """Forget quality and model utility, with everything they are made of.

    The forget set gets probability, ROUGE-L recall, truth ratio, extraction strength, exact
    memorisation and fluency; every other set counts as utility and gets the first three, retain
    fluency besides. Where there is a holdout, membership inference is tried between it and the
    forget set. Data without false answers works too: its truth ratios, and what follows from them,
    are null with that reason.

    Source: TOFU (Maini et al. 2024, arXiv:2401.06121), section 2.2.

    Differences: (1) generation is limited in new tokens, not in total length. (2) All rows are
    evaluated, not the first 300; `rows = 300` gives the source's numbers.
    """

    max_new_tokens: Annotated[int, Gt(0)] = 200
    """Longest generation, tokens."""
    rows: Annotated[int, Gt(0)] | None = None
    """Evaluate the first so many rows of each set; all where it is not given."""
    generate: bool = True
    """Generate answers; without them there is neither ROUGE nor model utility, but much less to
    compute."""
    attacks: bool = True
    """Try membership inference where there is a holdout."""
    gradient_norm: bool = False
    """Try also the attack by gradients: a backward pass for each row."""
    truth_ratio: Literal["geometric", "arithmetic"] = "geometric"
    """How the truth ratio averages the false answers."""

    def probes(self, data: Bundle) -> Sequence[Probe]:
        """The rows of each set, in order: forget, retain, then the others."""
        asked = [
            Probe(name, row, _answers(row), self._decoding if row.kind != "text" else None)
            for name in _sets(data)
            for row in data.rows(name)[: self.rows]
        ]
        strangers = data.rows("holdout")[: self.rows] if self._attacks(data) else ()
        return [*asked, *(Probe("holdout", row, generate=None) for row in strangers)]

    @property
    def _decoding(self) -> Decoding | None:
        return Decoding(self.max_new_tokens) if self.generate else None

    def metrics(self, data: Bundle) -> Mapping[str, Sequence[str]]:
        """The row metrics of each set that has rows."""
        found = {name: _metrics(name, data.rows(name)[: self.rows]) for name in _sets(data)}
        if attacks := self._attacks(data):
            found["forget"] = (*found["forget"], *attacks)
            found["holdout"] = attacks
        return found

    def metric_options(self) -> Mapping[str, Mapping[str, object]]:
        """How the truth ratio is averaged."""
        return {"truth_ratio": {"aggregation": self.truth_ratio}}

    def summaries(self) -> Sequence[str]:
        """Forget quality and model utility, and what the attacks found."""
        return ("forget_quality", "model_utility", *(("mia",) if self.attacks else ()))

    def _attacks(self, data: Bundle) -> tuple[str, ...]:
        if not self.attacks or not data.rows("holdout") or not data.rows("forget"):
            return ()
        return (*ATTACKS, *(("gradient_norm",) if self.gradient_norm else ()))


def _sets(data: Bundle) -> list[str]:
    names = dict.fromkeys(("forget", "retain", *data.evaluation))
    return [name for name in names if name != "holdout" and data.rows(name)]


def _answers(row: Row) -> tuple[Answer, ...]:
    paraphrase: tuple[Answer, ...] = ("paraphrase",) if row.paraphrase else ()
    perturbed: tuple[Answer, ...] = ("perturbed",) if row.perturbed else ()
    return ("answer", *paraphrase, *perturbed)


def _metrics(name: str, rows: Sequence[Row]) -> tuple[str, ...]:
    if name == "forget":
        return ("probability", "rouge", "truth_ratio", *MEMORISATION, "fluency")
    options = any(row.perturbed for row in rows) and not any(row.paraphrase for row in rows)
    first = "normalized_probability" if options else "probability"
    return (first, "rouge", "truth_ratio", *(("fluency",) if name == "retain" else ()))
