"""Gradient ascent and gradient difference: the forget term is the token's log-probability."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from unlearn_plugins.methods.grad_ascent import GradAscent
from unlearn_plugins.methods.grad_diff import GradDiff

from unlearn_cli.api.scores import Scores

Make = Callable[[Sequence[Sequence[float]]], Scores]


@pytest.mark.parametrize("method", [GradAscent(), GradDiff()])
def test_the_mean_over_tokens_is_minus_the_token_loss(
    make: Make, method: GradAscent | GradDiff
) -> None:
    """One value a token: (-1 - 2 - 3 - 6) / 4 = -3, though the mean of the rows' means is -4."""
    loss = method.forget_loss(make([[-1.0, -2.0, -3.0], [-6.0]]))

    assert loss.shape == (4,)
    assert loss.mean().item() == pytest.approx(-3.0)


@pytest.mark.parametrize("method", [GradAscent(), GradDiff()])
def test_every_token_is_pushed_alike(make: Make, method: GradAscent | GradDiff) -> None:
    """The gradient is 1 for a likely and an unlikely token: nothing ever stops the ascent."""
    forget = make([[-0.01, -2.0], [-50.0]])

    (found,) = torch.autograd.grad(method.forget_loss(forget).sum(), forget.token_logp)

    assert found.tolist() == [1.0, 1.0, 1.0]


def test_they_differ_in_the_retain_term() -> None:
    """Ascent retains nothing; the difference descends on retain with weights of 1."""
    assert GradAscent.defaults.retain == "none"
    assert (GradDiff.defaults.gamma, GradDiff.defaults.alpha) == (1.0, 1.0)
    assert GradDiff.defaults.retain == "nll"
