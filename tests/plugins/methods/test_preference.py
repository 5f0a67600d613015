"""NPO, SimNPO and DPO: values and gradients, derived by hand from their formulas.

Throughout, sigma(x) = 1 / (1 + exp(-x)) is evaluated with `math`, not with torch. The answers have
2, 3 and 1 tokens, so that sums and means over tokens cannot be mistaken for each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from unlearn_plugins.methods.dpo import DPO
from unlearn_plugins.methods.npo import NPO
from unlearn_plugins.methods.simnpo import SimNPO

from unlearn_cli.api.scores import Scores

Make = Callable[[Sequence[Sequence[float]]], Scores]

ANSWERS = [[-0.5, -1.5], [-0.25, -0.25, -1.0], [-3.0]]
"""S = 2, 1.5, 3 nats; M = 1, 0.5, 3 nats a token."""
REFERENCE = [[-0.5, -0.5], [-0.5, -0.5, -1.5], [-1.0]]
"""S = 1, 2.5, 1 nats."""
ALTERNATE = [[-4.0], [-1.0, -1.0], [-0.5, -0.5]]
"""S = 4, 2, 1 nats."""
ALTERNATE_REFERENCE = [[-3.0], [-2.0, -1.0], [-1.0, -1.0]]
"""S = 3, 3, 2 nats."""


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def gradient(loss: Tensor, scores: Scores) -> list[float]:
    """d(sum of the loss) / d(log-probability) of each answer token."""
    (found,) = torch.autograd.grad(loss.sum(), scores.token_logp, retain_graph=True)
    return [float(value) for value in found]


def values(loss: Tensor) -> list[float]:
    return [float(value) for value in loss.detach()]


def close(expected: Sequence[float]) -> Any:
    """To a few units of float32."""
    return pytest.approx(list(expected), rel=2e-6, abs=1e-6)


def test_npo_and_dpo_start_at_two_over_beta_log_two(make: Make) -> None:
    """With the model still the reference every row costs (2 / beta) ln 2 = 13.862943611."""
    forget, alternate = make(ANSWERS), make(ALTERNATE)

    npo = NPO(beta=0.1).forget_loss(forget, forget)
    dpo = DPO(beta=0.1).forget_loss(forget, alternate, forget, alternate)

    assert npo.shape == dpo.shape == (3,)
    assert values(npo) == close([13.862943611] * 3)
    assert values(dpo) == close([13.862943611] * 3)


def test_npo_starts_as_gradient_ascent_on_sums(make: Make) -> None:
    """At the start the gradient is that of -S_i: 1 for every token, whatever the length or beta."""
    forget, reference = make(ANSWERS), make(ANSWERS)

    assert gradient(NPO(beta=0.7).forget_loss(forget, reference), forget) == close([1.0] * 6)


def test_npo_is_its_formula(make: Make) -> None:
    """(2 / beta) ln(1 + (p / p_ref)^beta), the paper's other form, on sums over tokens."""
    beta, ratios = 0.5, [math.exp(-2 + 1), math.exp(-1.5 + 2.5), math.exp(-3 + 1)]

    loss = NPO(beta=beta).forget_loss(make(ANSWERS), make(REFERENCE))

    assert values(loss) == close([2 / beta * math.log(1 + ratio**beta) for ratio in ratios])


def test_npo_weighs_an_answer_by_how_likely_it_still_is(make: Make) -> None:
    """The gradient is ascent times W = 2 p^beta / (p^beta + p_ref^beta), in (0, 2), a row."""
    beta = 0.5
    p = [math.exp(-s * beta) for s in (2, 1.5, 3)]
    ref = [math.exp(-s * beta) for s in (1, 2.5, 1)]
    w = [2 * a / (a + b) for a, b in zip(p, ref, strict=True)]
    forget = make(ANSWERS)

    found = gradient(NPO(beta=beta).forget_loss(forget, make(REFERENCE)), forget)

    assert found == close([w[0]] * 2 + [w[1]] * 3 + [w[2]])


def test_npo_with_small_beta_is_gradient_ascent(make: Make) -> None:
    """L = 2 ln 2 / beta - (S - S_ref) + O(beta): the remainder is beta (S - S_ref)^2 / 4."""
    beta, excess = 1e-3, [1.0, -1.0, 2.0]

    loss = NPO(beta=beta).forget_loss(make(ANSWERS), make(REFERENCE))

    expected = [2 * math.log(2) / beta - e + beta * e**2 / 4 for e in excess]
    assert values(loss) == close(expected)


def test_simnpo_at_the_margin(make: Make) -> None:
    """Where M_i = delta the loss is (2 / beta) ln 2, and dL/dM = -1: 1 / n_i for each token."""
    forget = make([[-0.5, -1.5], [-1.0]])

    loss = SimNPO(beta=4.5, delta=1.0).forget_loss(forget)

    assert values(loss) == close([2 / 4.5 * math.log(2)] * 2)
    assert gradient(loss, forget) == close([0.5, 0.5, 1.0])


def test_simnpo_is_its_formula(make: Make) -> None:
    """-(2 / beta) ln sigma(beta (M - delta)) on means over tokens, M = 1, 0.5 and 3."""
    loss = SimNPO(beta=2.5, delta=0.75).forget_loss(make(ANSWERS))

    expected = [-2 / 2.5 * math.log(sigmoid(2.5 * (m - 0.75))) for m in (1, 0.5, 3)]
    assert values(loss) == close(expected)


def test_simnpo_gradient_does_not_grow_with_length(make: Make) -> None:
    """dL/dM = -2 sigma(-beta (M - delta)), shared evenly by the tokens of an answer."""
    forget = make(ANSWERS)
    slope = [2 * sigmoid(-2.5 * m) for m in (1, 0.5, 3)]

    found = gradient(SimNPO(beta=2.5).forget_loss(forget), forget)

    assert found == close([slope[0] / 2] * 2 + [slope[1] / 3] * 3 + [slope[2]])


def test_a_larger_delta_pushes_harder(make: Make) -> None:
    """Every row costs more and is pushed harder than with the margin at 0."""
    near, far = make(ANSWERS), make(ANSWERS)
    small, large = SimNPO().forget_loss(near), SimNPO(delta=0.5).forget_loss(far)

    assert bool((large > small).all())
    assert all(a > b for a, b in zip(gradient(large, far), gradient(small, near), strict=True))


def test_dpo_is_its_formula(make: Make) -> None:
    """-(2 / beta) ln sigma(beta [(S - S_ref) - (A - A_ref)]); the bracket is 0, 0 and 3 here."""
    beta, brackets = 0.5, [(2 - 1) - (4 - 3), (1.5 - 2.5) - (2 - 3), (3 - 1) - (1 - 2)]

    loss = DPO(beta=beta).forget_loss(
        forget=make(ANSWERS),
        alternate=make(ALTERNATE),
        reference=make(REFERENCE),
        alternate_reference=make(ALTERNATE_REFERENCE),
    )

    assert values(loss) == close([-2 / beta * math.log(sigmoid(beta * b)) for b in brackets])


def test_dpo_lowers_the_true_answer_and_raises_the_alternate(make: Make) -> None:
    """Opposite gradients of size 2 sigma(-beta x): 1 where x = 0, less where it is preferred."""
    forget, alternate = make(ANSWERS), make(ALTERNATE)
    weights = [1.0, 1.0, 2 * sigmoid(-0.5 * 3)]

    loss = DPO(beta=0.5).forget_loss(forget, alternate, make(REFERENCE), make(ALTERNATE_REFERENCE))
    down, up = torch.autograd.grad(loss.sum(), [forget.token_logp, alternate.token_logp])

    assert down.tolist() == close([weights[0]] * 2 + [weights[1]] * 3 + [weights[2]])
    assert up.tolist() == close([-weights[0]] + [-weights[1]] * 2 + [-weights[2]] * 2)


def test_dpo_with_an_alternate_that_does_not_move_is_npo(make: Make) -> None:
    """Where the alternate keeps its probability its terms cancel, and NPO is what remains."""
    forget, reference, alternate = make(ANSWERS), make(REFERENCE), make(ALTERNATE)

    dpo = DPO(beta=0.3).forget_loss(forget, alternate, reference, alternate)

    assert values(dpo) == close(values(NPO(beta=0.3).forget_loss(forget, reference)))


@pytest.mark.parametrize("logp", [-1e-8, -5000.0])
def test_losses_stay_finite_at_the_extremes(make: Make, logp: float) -> None:
    """A certain and a hopeless answer give finite losses and gradients: no overflow in exp."""
    forget, other = make([[logp]]), make([[-1.0]])
    losses = [
        NPO(beta=2.0).forget_loss(forget, other),
        SimNPO().forget_loss(forget),
        DPO(beta=2.0).forget_loss(forget, other, other, other),
    ]

    assert all(math.isfinite(value) for loss in losses for value in values(loss))
    assert all(math.isfinite(g) for loss in losses for g in gradient(loss, forget))
