"""Every method keeps the contract: `check_method`, the suite that third parties run on theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from torch import Tensor

from unlearn_cli import catalog
from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores
from unlearn_cli.testing import check_method

OURS = [p.name for p in catalog.plugins("method") if p.distribution == "unlearn-cli"]
FITTING: dict[str, dict[str, Any]] = {
    "rmu": {"layer": "*.layers.1"},
    "adaptive_rmu": {"layer": "*.layers.1"},
    "rr": {"read": ["*.layers.0", "*.layers.1"]},
}
"""Patterns of the default are of models with more blocks than the tiny one."""
PARAMETERS = MethodDefaults(
    alpha=100.0, retain="hidden", parameters=("*.layers.[01].mlp.down_proj.weight",)
)


@pytest.mark.parametrize("name", OURS)
def test_a_method_keeps_the_contract(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finite, invariant, indifferent to padding, resumable, and it forgets."""
    method = catalog.build("method", name, FITTING.get(name, {}))
    if name.endswith("rmu"):
        monkeypatch.setattr(type(method), "defaults", PARAMETERS)
    check_method(method)


@dataclass(frozen=True)
class Learns:
    """Raises the forget answers."""

    defaults: ClassVar[MethodDefaults] = MethodDefaults(retain="none")

    def forget_loss(self, forget: Scores) -> Tensor:
        return -forget.token_logp


@dataclass(frozen=True)
class MeansOfMeans:
    """Divides by what the micro-batch holds, so that this decides the result."""

    defaults: ClassVar[MethodDefaults] = MethodDefaults(retain="none")

    def forget_loss(self, forget: Scores) -> Tensor:
        return forget.token_logp / len(forget.token_logp)


@pytest.mark.parametrize(
    ("method", "says"), [(Learns(), "the forget answers rose"), (MeansOfMeans(), "micro-batches")]
)
def test_a_method_that_breaks_a_claim_is_named(method: Any, says: str) -> None:
    """The suite can fail, and says on which claim."""
    with pytest.raises(AssertionError, match=says):
        check_method(method)
