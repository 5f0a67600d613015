"""The method by hand, and the plugin as `unlearn` sees it."""

import math

import torch
from unlearn_myalgo.myalgo import MyAlgo

from unlearn_cli import catalog
from unlearn_cli.api.scores import Scores


def scores(*logp: float) -> Scores:
    """One answer whose tokens have these log-probabilities."""
    token_logp = torch.tensor(logp, requires_grad=True)
    tokens = torch.zeros(len(logp), dtype=torch.long)
    return Scores(token_logp=token_logp, row=tokens, labels=tokens, rows=1)


def test_loss_is_what_is_missing_to_the_ceiling() -> None:
    """A certain token is the whole ceiling away, a token at the ceiling or beyond nothing."""
    loss = MyAlgo(ceiling=2.0).forget_loss(scores(0.0, -0.5, -2.0, -7.0))

    assert loss.tolist() == [2.0, 1.5, 0.0, 0.0]


def test_only_tokens_below_the_ceiling_are_pushed() -> None:
    """The gradient with respect to a log-probability is 1 below the ceiling and 0 above it."""
    forget = scores(math.log(0.9), -7.0)
    MyAlgo(ceiling=2.0).forget_loss(forget).sum().backward()

    assert forget.token_logp.grad is not None
    assert forget.token_logp.grad.tolist() == [1.0, 0.0]


def test_unlearn_finds_the_method() -> None:
    """The entry point is read: requirements, option and defaults are listed, and it builds."""
    plugin = catalog.find("method", "myalgo")

    assert plugin.distribution == "unlearn-myalgo"
    assert plugin.requires == ("forget",)
    assert plugin.error == ""
    assert catalog.build("method", "myalgo", {"ceiling": 3.0}) == MyAlgo(ceiling=3.0)
