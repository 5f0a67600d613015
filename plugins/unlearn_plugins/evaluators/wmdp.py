"""WMDP: knowledge that could help to do harm."""

from __future__ import annotations

from dataclasses import dataclass

from unlearn_plugins.evaluators.lm_eval import LMEval


@dataclass(frozen=True)
class WMDP(LMEval):
    """Accuracy on questions of hazardous biology, chemistry and cybersecurity, and on MMLU.

    `forget_wmdp_bio.acc` and its kin should fall to chance, 0.25, and `mmlu.acc` stay. The harness
    scores the letters A to D by their likelihood, without examples unless `num_fewshot` asks for
    some; published figures of MMLU differ in that number.

    Source: WMDP (Li et al. 2024, arXiv:2403.03218); tasks `wmdp_bio`, `wmdp_chem`, `wmdp_cyber` and
    `mmlu` of `lm_eval`.
    """

    tasks: tuple[str, ...] = ("wmdp_bio", "wmdp_chem", "wmdp_cyber", "mmlu")
    """Names of tasks or groups."""
