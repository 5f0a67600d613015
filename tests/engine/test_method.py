"""What the engine finds out about a method."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from torch import Tensor

from unlearn_cli.api.scores import Scores
from unlearn_cli.engine.method import inspect_method
from unlearn_cli.errors import PluginError


@dataclass(frozen=True)
class PerToken:
    """Reads logits of the reference, returns one value a token."""

    def forget_loss(self, forget: Scores, reference: Scores) -> Tensor:
        return forget.token_logp - reference.logits.logsumexp(-1)


@dataclass(frozen=True)
class PerRow:
    """Reads alternates, returns one value a row."""

    def forget_loss(self, forget: Scores, alternate: Scores, reference: Scores) -> Tensor:
        return forget.answer_logp - alternate.answer_logp - reference.answer_logp


@dataclass(frozen=True)
class Mean:
    """Returns a mean, which the engine cannot normalise globally."""

    def forget_loss(self, forget: Scores) -> Tensor:
        return forget.token_logp.mean()


@dataclass(frozen=True)
class Unknown:
    """Asks for something that does not exist."""

    def forget_loss(self, forget: Scores, oracle: Scores) -> Tensor:
        return forget.token_logp


def test_parameter_names_are_the_requirements() -> None:
    """What a method names is what it needs; reading reference logits is noticed."""
    token, row = inspect_method(PerToken(), "a"), inspect_method(PerRow(), "b")
    assert (token.per, token.references, token.reference_logits) == ("token", ("forget",), True)
    assert not token.alternates
    assert (row.per, row.references, row.reference_logits) == ("row", ("forget",), False)
    assert row.alternates


@pytest.mark.parametrize(
    ("method", "says"),
    [(Mean(), "never a mean"), (Unknown(), "oracle"), (object(), "no forget_loss")],
)
def test_a_method_that_breaks_the_contract_is_refused(method: object, says: str) -> None:
    """The error says which part of the contract is broken."""
    with pytest.raises(PluginError, match=says):
        inspect_method(method, "m")
