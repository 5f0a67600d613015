"""Every evaluator keeps the contract: `check_evaluator`, the suite that third parties run."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.evaluators import test_lm_eval, test_muse
from tests.plugins.evaluators.faulty import AsksMore, AsksTwice, Idle, Measures, Swaps
from tests.plugins.metrics.faulty import Certain
from unlearn_cli import catalog
from unlearn_cli.testing import check_evaluator

OURS = [p.name for p in catalog.plugins("evaluator") if p.distribution == "unlearn-cli"]
HARNESSES = ("lm_eval", "wmdp")
SHORT = {"max_new_tokens": 4}
OPTIONS: dict[str, dict[str, Any]] = {
    "muse": {"verbmem_tokens": 4, "knowmem_tokens": 4},
    "qa": {**SHORT, "row_metrics": ("loss", "rouge", "leak_at_k"), "samples": 8},
    "tofu": {**SHORT, "gradient_norm": True},
}
DATA = {"muse": test_muse.BUNDLE}


@pytest.mark.parametrize("name", [name for name in OURS if name not in HARNESSES])
def test_an_evaluator_keeps_the_contract(name: str) -> None:
    """Well-formed questions, whole tables, the same bits twice, and the model left as it was."""
    evaluator = catalog.build("evaluator", name, OPTIONS.get(name, {}))
    inner = catalog.build("evaluator", "tofu", SHORT) if hasattr(evaluator, "of") else None
    check_evaluator(evaluator, data=DATA.get(name), inner=inner)


@pytest.mark.parametrize("name", HARNESSES)
@pytest.mark.skipif(find_spec("lm_eval") is None, reason="the extra `lm-eval` is not installed")
def test_a_harness_keeps_the_contract(name: str, tmp_path: Path) -> None:
    """The harness on questions of our own."""
    test_lm_eval.evaluator(tmp_path)
    options = {"tasks": ("letters", "wmdp_letters"), "include_path": str(tmp_path)}
    check_evaluator(catalog.build("evaluator", name, options))


@pytest.mark.parametrize(
    ("evaluator", "says"),
    [
        (AsksTwice(max_new_tokens=2), "asks a row of forget twice"),
        (AsksMore(max_new_tokens=2), "asks more and names no metrics of it"),
        (Measures("changes"), "leaves the model with other weights|gives other figures"),
        (Measures("nan"), "not finite|gives other figures"),
        (Measures("null"), "null without a reason"),
        (Measures("direction"), "has the direction 'up'"),
        (Measures("rows"), "rows have a.b, and no figure sums it up"),
        (Idle(), "the stress test changes no weight"),
        (Swaps(), "is rewritten as another"),
        (Certain(), "form of no evaluator"),
    ],
    ids=lambda value: type(value).__name__ if dataclasses.is_dataclass(value) else None,
)
def test_an_evaluator_that_breaks_a_claim_is_named(evaluator: Any, says: str) -> None:
    """The suite can fail, and says on which claim."""
    with pytest.raises(AssertionError, match=says):
        check_evaluator(evaluator)
