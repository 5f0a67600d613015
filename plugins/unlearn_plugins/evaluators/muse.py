"""The MUSE evaluation: six questions to an unlearned model, of which it answers four."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from annotated_types import Gt

from unlearn_cli.api import Bundle, Decoding, Probe, Row

STOP = ("\n\n", "\nQuestion", "Question:")
METRICS: Mapping[str, str] = {
    "forget_verbmem": "rouge_f1",
    "forget_knowmem": "rouge_f1",
    "retain_knowmem": "rouge_f1",
    "forget_privleak": "min_k",
    "holdout_privleak": "min_k",
}
RETRAINED_AUC: Mapping[str, float] = {"news": 1 - 0.4772, "books": 1 - 0.5393}
"""AUC of `min_k` of MUSE's own retrained models: the official code's is of the other side."""


@dataclass(frozen=True)
class MUSEEvaluator:
    """Verbatim and knowledge memorisation, privacy leakage and utility.

    `forget_verbmem.rouge_f1` is verbatim memorisation (the text goes on as it was learned),
    `forget_knowmem.rouge_f1` knowledge memorisation, `retain_knowmem.rouge_f1` utility, and
    `privleak` privacy leakage. Scalability and sustainability are these four over the folds of the
    data. For data with sets of these names, as the data set `muse` has.

    Source: MUSE (Shi et al. 2024, arXiv:2407.06460), sections 3.1 and 3.2.

    Differences from the official code: (1) ROUGE is in [0, 1], there in percent. (2) The true
    continuation is cut after words, `truth_words`, there after 128 tokens, the first of them BOS;
    what is generated is cut after 128 tokens in both. (3) Privacy leakage is measured against the
    retain reference of the run; `corpus` takes the constants of the official code instead.
    """

    corpus: Literal["news", "books"] | None = None
    """Measure privacy leakage against MUSE's own retrained model of this corpus, by the AUC that
    was published; against the retain reference where it is not given."""
    rows: Annotated[int, Gt(0)] | None = None
    """Evaluate the first so many rows of each set; all where it is not given."""
    verbmem_tokens: Annotated[int, Gt(0)] = 128
    """Longest continuation, tokens."""
    truth_words: Annotated[int, Gt(0)] | None = 96
    """Compare it with so many words of the true one; of English, three words are about four
    tokens."""
    knowmem_tokens: Annotated[int, Gt(0)] = 32
    """Longest answer to a question, tokens."""

    def probes(self, data: Bundle) -> Sequence[Probe]:
        """The rows of each set, in order."""
        return [self._probe(name, row) for name in METRICS for row in data.rows(name)[: self.rows]]

    def metrics(self, data: Bundle) -> Mapping[str, Sequence[str]]:
        """One of each set that has rows."""
        return {name: (metric,) for name, metric in METRICS.items() if data.rows(name)}

    def metric_options(self) -> Mapping[str, Mapping[str, object]]:
        """Between which sets privacy leaks, and against what."""
        known = {} if self.corpus is None else {"reference_auc": RETRAINED_AUC[self.corpus]}
        sets = {"members": "forget_privleak", "nonmembers": "holdout_privleak"}
        return {"privleak": {**sets, **known}}

    def summaries(self) -> Sequence[str]:
        """Privacy leakage."""
        return ("privleak",)

    def _probe(self, name: str, row: Row) -> Probe:
        if METRICS[name] == "min_k":
            return Probe(name, row, generate=None)
        if name == "forget_verbmem":
            row = replace(row, answer=first_words(row.answer, self.truth_words))
            return Probe(name, row, (), Decoding(self.verbmem_tokens))
        return Probe(name, row, (), Decoding(self.knowmem_tokens, STOP))


def first_words(text: str, count: int | None) -> str:
    """The text up to the end of so many words, what stands between them kept; all where `count` is
    None."""
    ends = [word.end() for word in re.finditer(r"\S+", text)]
    return text if count is None or len(ends) <= count else text[: ends[count - 1]]
