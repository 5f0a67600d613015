"""Where methods meet each other, where they start, and that nothing overflows at the extremes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from unlearn_plugins.methods.ce_u import CEU
from unlearn_plugins.methods.flat import FLAT
from unlearn_plugins.methods.ihl import IHL
from unlearn_plugins.methods.npo import NPO
from unlearn_plugins.methods.satimp import SatImp
from unlearn_plugins.methods.tnpo import TNPO
from unlearn_plugins.methods.undial import UNDIAL
from unlearn_plugins.methods.wga import WGA
from unlearn_plugins.methods.wtnpo import WTNPO

from tests.plugins.methods.conftest import Make
from unlearn_cli import catalog
from unlearn_cli.api.scores import Scores
from unlearn_cli.engine.method import inspect_method


def from_logits(logits: Tensor, *labels: int) -> Scores:
    """Scores of one answer, a token a line of `logits`."""
    index = torch.tensor(labels)
    logp = logits.log_softmax(-1)[torch.arange(len(labels)), index]
    return Scores(logp, torch.zeros_like(index), index, 1, lambda: logits)


def slope(loss: Tensor, by: Tensor) -> list[Any]:
    (found,) = torch.autograd.grad(loss.sum(), by)
    return found.tolist()


@pytest.mark.parametrize(
    ("name", "needed", "per", "logits"),
    [
        ("kl_min", ("forget",), "token", False),
        ("idk_nll", ("alternate",), "token", False),
        ("undial", ("forget", "reference"), "token", True),
        ("ce_u", ("forget",), "token", False),
        ("wga", ("forget",), "token", False),
        ("tnpo", ("forget", "reference"), "token", False),
        ("wtnpo", ("forget", "reference"), "token", False),
        ("satimp", ("forget",), "token", False),
        ("ihl", ("forget",), "token", False),
        ("flat", ("forget", "alternate"), "row", False),
    ],
)
def test_what_a_method_needs(name: str, needed: tuple[str, ...], per: str, logits: bool) -> None:
    """No more is computed than the formula reads; the reference keeps logits for UNDIAL alone."""
    needs = inspect_method(catalog.build("method", name, {}), name)
    assert (needs.parameters, needs.per, needs.reference_logits) == (needed, per, logits)


def test_undial_of_a_large_beta_is_ce_u_at_the_start() -> None:
    """A logit lowered by 1e4 has probability 0, as one of -infinity: same value, same slope."""
    logits = torch.tensor([[1.0, 0.5, -1.0], [0.0, 2.0, 1.0]], requires_grad=True)
    now, before = from_logits(logits, 0, 2), from_logits(logits.detach(), 0, 2)
    undial = UNDIAL(beta=1e4).forget_loss(now, before)
    ce_u = CEU(ignore_first_n_answer_tokens=0).forget_loss(now)
    torch.testing.assert_close(undial, ce_u)
    assert slope(undial, logits) == slope(ce_u, logits)


def test_ce_u_of_a_uniform_distribution() -> None:
    """p = 1/4: the target is 1/3 on each of three tokens, each at -ln(1/4); the sum is ln 4."""
    loss = CEU(ignore_first_n_answer_tokens=0).forget_loss(from_logits(torch.zeros(1, 4), 3))
    assert loss.tolist() == pytest.approx([math.log(4)])


def test_ignored_tokens_of_ce_u_have_no_gradient() -> None:
    """The first line of logits gets none, though its value would have."""
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    first, second = slope(CEU().forget_loss(from_logits(logits, 0, 0)), logits)
    p = math.e / (math.e + 1)
    assert first == [0.0, 0.0]
    assert second == pytest.approx([p, -p])  # two tokens: -p_v p_y / (1 - p_y) = -p_y


def test_the_teacher_of_undial_has_no_gradient() -> None:
    """q is constant even where reference and model are one tensor: the slope is p - q, here
    (1/2, 1/2) - (1/4, 3/4)."""
    logits = torch.zeros(1, 2, requires_grad=True)
    scores = from_logits(logits, 0)
    loss = UNDIAL(beta=math.log(3)).forget_loss(scores, scores)
    assert slope(loss, logits)[0] == pytest.approx([0.25, -0.25])


def test_ihl_pushes_against_the_strongest_rival_alone() -> None:
    """With p = (1/2, 1/3, 1/6) and y = 0: 1 + 1/2 - 1/3, and by the logits the slope is
    p_y (e_y - p) - p_r (e_r - p) = (1/4 + 1/6, -1/6 - 2/9, -1/12 + 1/18)."""
    logits = torch.tensor([[3.0, 2.0, 1.0]]).log().requires_grad_()
    loss = IHL().forget_loss(from_logits(logits, 0))
    assert loss.tolist() == pytest.approx([7 / 6])
    assert slope(loss, logits)[0] == pytest.approx([5 / 12, -7 / 18, -1 / 36])


@pytest.mark.parametrize(
    ("divergence", "of_forget", "of_alternate"),
    [
        ("total_variation", (1 - math.tanh(0.5) ** 2) / 2, -(1 - math.tanh(0.25) ** 2) / 2),
        ("kl", math.exp(0.5 - 1), -1.0),
        ("pearson", 0.5 / 2 + 1, -1.0),
        ("jensen_shannon", 1 / (1 + math.exp(-0.5)), -1 / (1 + math.exp(0.25))),
    ],
)
def test_flat_lowers_the_true_answer_and_raises_the_alternate(
    make: Make, divergence: Any, of_forget: float, of_alternate: float
) -> None:
    """dL/dP at P_f = .5 and P_e = .25, from the table by hand; dP / d log p = p / n, so each of
    two tokens of probability P has dL/dP P / 2."""
    forget, alternate = make([[math.log(0.5)] * 2]), make([[math.log(0.25)] * 2])
    loss = FLAT(divergence).forget_loss(forget, alternate)
    down, up = torch.autograd.grad(loss.sum(), [forget.token_logp, alternate.token_logp])
    assert down.tolist() == pytest.approx([of_forget * 0.25] * 2, rel=1e-6)
    assert up.tolist() == pytest.approx([of_alternate * 0.125] * 2, rel=1e-6)


def test_length_normalised_npo_starts_as_ascent_on_means(make: Make) -> None:
    """(2 / beta) ln 2 for every length; the slope is 1 / n_i a token, where sums have 1."""
    scores, before = make([[-1.0, -2.0], [-3.0]]), make([[-1.0, -2.0], [-3.0]])
    loss = NPO(beta=0.7, length_normalized=True).forget_loss(scores, before)
    assert loss.tolist() == pytest.approx([2 / 0.7 * math.log(2)] * 2)
    assert slope(loss, scores.token_logp) == pytest.approx([0.5, 0.5, 1.0])


def test_the_weight_of_tnpo_lies_between_0_and_2(make: Make) -> None:
    """Where p^beta and p_ref^beta are both below the smallest float their ratio still decides:
    1 where they are equal, 2 and 0 where one is far above the other."""
    now, before = make([[-900.0, -900.0, -950.0]]), make([[-900.0, -950.0, -900.0]])
    found = slope(TNPO().forget_loss(now, before), now.token_logp)
    assert found == pytest.approx([1.0, 2.0, 0.0])


@pytest.mark.parametrize("logp", [0.0, -1e-8, -5000.0])
def test_weighted_ascent_stays_finite(make: Make, logp: float) -> None:
    """Certain and hopeless tokens give finite losses and slopes."""
    now, before = make([[logp]]), make([[-1.0]])
    losses = [
        WGA().forget_loss(now),
        SatImp(beta2=0.1).forget_loss(now),
        TNPO().forget_loss(now, before),
        WTNPO().forget_loss(now, before),
    ]
    assert all(math.isfinite(loss.item()) for loss in losses)
    assert all(math.isfinite(slope(loss, now.token_logp)[0]) for loss in losses)


@pytest.mark.parametrize("true", [0, 1])
def test_losses_on_logits_stay_finite(true: int) -> None:
    """A logit 1000 above the rest, on the true token and on another."""
    logits = torch.tensor([[1000.0, 0.0, 0.0]], requires_grad=True)
    now, before = from_logits(logits, true), from_logits(logits.detach(), true)
    losses = [
        CEU(ignore_first_n_answer_tokens=0).forget_loss(now),
        UNDIAL().forget_loss(now, before),
        IHL().forget_loss(now),
    ]
    assert all(math.isfinite(loss.item()) for loss in losses)
    assert all(math.isfinite(g) for loss in losses for g in slope(loss, logits)[0])


@pytest.mark.parametrize(
    ("name", "option", "wrong"),
    [
        ("flat", "divergence", "hellinger"),
        ("npo", "length_normalized", 1),
        ("ce_u", "ignore_first_n_answer_tokens", -1),
        ("ce_u", "ignore_first_n_answer_tokens", 0.5),
        ("undial", "beta", -1.0),
        ("wtnpo", "exponent", -0.5),
        ("satimp", "beta2", -1.0),
    ],
)
def test_what_an_option_cannot_be(name: str, option: str, wrong: object) -> None:
    """Refused by the source alone, before anything is imported."""
    problems = catalog.check_options(catalog.find("method", name), {option: wrong})
    assert [problem.key for problem in problems] == [option]
