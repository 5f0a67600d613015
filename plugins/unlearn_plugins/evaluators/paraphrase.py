"""Stress test: does it answer when it is asked in other words?"""

from __future__ import annotations

from dataclasses import dataclass, replace

from unlearn_cli.api import EvaluatorName, Message, Probe, Row


@dataclass(frozen=True)
class Paraphrase:
    """Ask every question in other words, and measure again.

    Rows without a paraphrased question are left out, in every set. What was unlearned in one
    wording alone shows here.

    Source: the column `paraphrased_question` of TOFU (Maini et al. 2024, arXiv:2401.06121).
    """

    of: EvaluatorName = "tofu"
    """The evaluator that measures, with the options that the spec gives it."""

    def rewrite(self, probe: Probe) -> Probe | None:
        """The probe with the question of its row replaced."""
        question = probe.row.paraphrased_question
        return None if question is None else replace(probe, row=_asked(probe.row, question))


def _asked(row: Row, question: str) -> Row:
    if not row.messages:
        return replace(row, prompt=question)
    return replace(row, messages=(*row.messages[:-1], Message("user", question)))
