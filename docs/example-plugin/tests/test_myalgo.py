"""The loss by hand, the contract of every method, and the plugin as `unlearn` finds it."""

import math
from importlib.metadata import entry_points

import torch
from unlearn_cli.api.scores import Scores
from unlearn_cli.testing import check_method

from unlearn_myalgo.myalgo import Myalgo


def scores(*logp: float) -> Scores:
    """One answer whose tokens have these log-probabilities."""
    token_logp = torch.tensor(logp, requires_grad=True)
    tokens = torch.zeros(len(logp), dtype=torch.long)
    return Scores(token_logp=token_logp, row=tokens, labels=tokens, rows=1)


def test_loss_is_what_is_missing_to_the_ceiling() -> None:
    """A certain token is the whole ceiling away, a token at the ceiling or beyond nothing."""
    loss = Myalgo(ceiling=2.0).forget_loss(scores(0.0, -0.5, -2.0, -7.0))

    assert loss.tolist() == [2.0, 1.5, 0.0, 0.0]


def test_only_tokens_below_the_ceiling_are_pushed() -> None:
    """The gradient with respect to a log-probability is 1 below the ceiling and 0 above it."""
    forget = scores(math.log(0.9), -7.0)
    torch.autograd.backward(Myalgo(ceiling=2.0).forget_loss(forget).sum())

    assert forget.token_logp.grad is not None
    assert forget.token_logp.grad.tolist() == [1.0, 0.0]


def test_it_keeps_the_contract() -> None:
    """Finite, independent of the micro-batch, resumable, and it forgets."""
    check_method(Myalgo())


def test_unlearn_finds_it() -> None:
    """The entry point leads to the class."""
    (entry,) = entry_points(group="unlearn.methods", name="myalgo")

    assert entry.load() is Myalgo
