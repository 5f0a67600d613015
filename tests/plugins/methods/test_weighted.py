"""Methods on single tokens: values derived by hand, identities, gradients by the logits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from unlearn_plugins.methods.ce_u import CEU
from unlearn_plugins.methods.flat import FLAT
from unlearn_plugins.methods.grad_ascent import GradAscent
from unlearn_plugins.methods.idk_nll import IdkNLL
from unlearn_plugins.methods.ihl import IHL
from unlearn_plugins.methods.kl_min import KLMin
from unlearn_plugins.methods.npo import NPO
from unlearn_plugins.methods.satimp import SatImp
from unlearn_plugins.methods.tnpo import TNPO
from unlearn_plugins.methods.undial import UNDIAL
from unlearn_plugins.methods.wga import WGA
from unlearn_plugins.methods.whp import WHP
from unlearn_plugins.methods.wtnpo import WTNPO

from tests.plugins.methods.conftest import Make
from unlearn_cli.api.scores import Scores

ANSWERS = [[math.log(0.5), math.log(0.25)], [math.log(0.9)]]
"""Two answers, of tokens with probabilities .5, .25 and .9."""


def gradient(loss: Tensor, scores: Scores) -> Tensor:
    (found,) = torch.autograd.grad(loss.sum(), scores.token_logp)
    return found


def from_logits(logits: Tensor, labels: list[int], rows: list[int] | None = None) -> Scores:
    """Scores of one token a line of `logits`, all of one answer unless `rows` says otherwise."""
    row = torch.tensor(rows or [0] * len(labels))
    index = torch.tensor(labels)
    logp = logits.log_softmax(-1)[torch.arange(len(labels)), index]
    return Scores(logp, row, index, int(row.max()) + 1, lambda: logits)


def test_kl_min_is_ascent(make: Make) -> None:
    """log p itself, with slope 1: the KL is the retain term."""
    scores = make(ANSWERS)
    assert KLMin().forget_loss(scores).tolist() == pytest.approx([*ANSWERS[0], *ANSWERS[1]])
    assert gradient(KLMin().forget_loss(scores), scores).tolist() == [1, 1, 1]


def test_idk_nll_learns_the_alternate(make: Make) -> None:
    """-log p of the alternate's tokens."""
    assert IdkNLL().forget_loss(make([[math.log(0.25)]])).tolist() == pytest.approx([math.log(4)])


def test_wga_weighs_with_the_probability(make: Make) -> None:
    """p^2 log p at .5: .25 ln .5; the weight has no gradient, so the slope is p^2."""
    scores = make(ANSWERS)
    loss = WGA(beta=2.0).forget_loss(scores)
    assert loss[0].item() == pytest.approx(0.25 * math.log(0.5))
    assert gradient(loss, scores).tolist() == pytest.approx([0.25, 0.0625, 0.81])


def test_wga_without_weight_is_ascent(make: Make) -> None:
    """beta 0, value and slope."""
    scores = make(ANSWERS)
    loss, plain = WGA(beta=0.0).forget_loss(scores), GradAscent().forget_loss(scores)
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(gradient(loss, scores), gradient(plain, scores))


def test_satimp_weighs_saturation_and_importance(make: Make) -> None:
    """p^2 (1 - p)^3 at .25: .0625 * .421875."""
    scores = make(ANSWERS)
    slope = gradient(SatImp(beta1=2.0, beta2=3.0).forget_loss(scores), scores)
    assert slope[1].item() == pytest.approx(0.0625 * 0.421875)


def test_satimp_contains_wga_and_ascent(make: Make) -> None:
    """beta2 = 0 is WGA, both 0 ascent, a certain token included (0^0 = 1)."""
    scores = make([[math.log(0.5), 0.0]])
    torch.testing.assert_close(
        SatImp(beta1=5.0, beta2=0.0).forget_loss(scores), WGA(beta=5.0).forget_loss(scores)
    )
    torch.testing.assert_close(
        SatImp(beta1=0.0, beta2=0.0).forget_loss(scores), GradAscent().forget_loss(scores)
    )


def test_tnpo_starts_as_ascent(make: Make) -> None:
    """At the reference the weight 2 / (1 + 1) is 1."""
    now, before = make(ANSWERS), make(ANSWERS)
    assert gradient(TNPO().forget_loss(now, before), now).tolist() == pytest.approx([1, 1, 1])


def test_tnpo_weighs_by_both_probabilities(make: Make) -> None:
    """2 p^2 / (p^2 + p_ref^2) with p = .25, p_ref = .5: 2 * .0625 / .3125 = .4."""
    now, before = make([[math.log(0.25)]]), make([[math.log(0.5)]])
    slope = gradient(TNPO(beta=2.0).forget_loss(now, before), now)
    assert slope.item() == pytest.approx(0.4)


def test_wtnpo_adds_a_power_of_the_probability(make: Make) -> None:
    """p^1 times the weight of TNPO: .25 * .4; with exponent 0 it is TNPO."""
    now, before = make([[math.log(0.25)]]), make([[math.log(0.5)]])
    slope = gradient(WTNPO(beta=2.0, exponent=1.0).forget_loss(now, before), now)
    assert slope.item() == pytest.approx(0.1)
    torch.testing.assert_close(
        WTNPO(beta=2.0, exponent=0.0).forget_loss(now, before),
        TNPO(beta=2.0).forget_loss(now, before),
    )


def test_length_normalised_npo_compares_means(make: Make) -> None:
    """Mean log-ratio of the first answer (ln .5 - ln .25) / 2 = ln 2 / 2: with beta 1 the loss is
    2 ln(1 + sqrt 2); at the reference (2 / beta) ln 2."""
    now, before = make([[math.log(0.5), 0.0]]), make([[math.log(0.25), 0.0]])
    method = NPO(beta=1.0, length_normalized=True)
    assert method.forget_loss(now, before).item() == pytest.approx(2 * math.log(1 + math.sqrt(2)))
    assert method.forget_loss(now, now).item() == pytest.approx(2 * math.log(2))


def test_the_gradient_of_ce_u_by_the_logits() -> None:
    """p_y at y and -p_v p_y / (1 - p_y) elsewhere, which sums to 0."""
    logits = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64, requires_grad=True)
    p = logits.detach().softmax(-1)[0]
    CEU(ignore_first_n_answer_tokens=0).forget_loss(from_logits(logits, [0])).sum().backward()  # type: ignore[no-untyped-call]
    expected = torch.stack([p[0], -p[1] * p[0] / (1 - p[0]), -p[2] * p[0] / (1 - p[0])])
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[0], expected)


def test_ce_u_leaves_the_first_tokens_of_each_answer_alone() -> None:
    """One ignored: of answers with two tokens and one, only the second of the first counts."""
    logits = torch.zeros(3, 4)
    loss = CEU(ignore_first_n_answer_tokens=1).forget_loss(
        from_logits(logits, [0, 1, 2], rows=[0, 0, 1])
    )
    assert loss.tolist() == pytest.approx([0.0, math.log(4), 0.0])


def test_undial_without_strength_changes_nothing() -> None:
    """beta 0 and the model at its reference: the gradient by the logits is 0 and the loss is the
    entropy."""
    logits = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64, requires_grad=True)
    scores, before = from_logits(logits, [0]), from_logits(logits.detach(), [0])
    loss = UNDIAL(beta=0.0).forget_loss(scores, before)
    p = logits.detach().softmax(-1)
    torch.testing.assert_close(loss.detach(), -(p * p.log()).sum(-1))
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.abs().max().item() < 1e-15


def test_undial_lowers_the_logit_of_the_true_token() -> None:
    """Uniform over 2 at the start, lowered by ln 3: q = (1/4, 3/4), cross-entropy with uniform
    ln 2, gradient p - q = (1/4, -1/4)."""
    logits = torch.zeros(1, 2, requires_grad=True)
    scores, before = from_logits(logits, [0]), from_logits(logits.detach(), [0])
    loss = UNDIAL(beta=math.log(3)).forget_loss(scores, before)
    assert loss.item() == pytest.approx(math.log(2))
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([0.25, -0.25])


def test_ihl_of_known_distributions() -> None:
    """Uniform 1; certain of the true token 2; certain of another 0."""
    logits = torch.tensor([[0.0, 0.0, 0.0], [99.0, 0.0, 0.0], [0.0, 99.0, 0.0]])
    loss = IHL().forget_loss(from_logits(logits, [0, 0, 0]))
    assert loss.tolist() == pytest.approx([1.0, 2.0, 0.0], abs=1e-6)


@pytest.mark.parametrize(
    ("divergence", "expected"),
    [
        ("total_variation", (math.tanh(0.375) - math.tanh(0.9)) / 2),
        ("kl", -0.9 + math.exp(0.375 - 1)),
        ("pearson", -0.9 + 0.375**2 / 4 + 0.375),
        (
            "jensen_shannon",
            math.log(1 + math.exp(-0.9))
            - math.log(2)
            + 0.375
            + math.log(1 + math.exp(-0.375))
            - math.log(2),
        ),
    ],
)
def test_flat_of_known_probabilities(make: Make, divergence: str, expected: float) -> None:
    """P_f = (.5 + .25) / 2 = .375 and P_e = .9, put into the table of the paper."""
    forget, alternate = make(ANSWERS[:1]), make(ANSWERS[1:])
    loss = FLAT(divergence=divergence).forget_loss(forget, alternate)  # type: ignore[arg-type]
    assert loss.tolist() == pytest.approx([expected])


def test_total_variation_of_equals_is_zero(make: Make) -> None:
    """P_e = P_f: nothing to separate yet."""
    scores = make(ANSWERS)
    assert FLAT(divergence="total_variation").forget_loss(scores, scores).tolist() == pytest.approx(
        [0.0, 0.0]
    )


def test_whp_learns_what_the_reinforced_model_does_not_raise() -> None:
    """Of logits 0, 1, 2 the reinforced model raises the second by 2 and lowers the third, which
    does not count: generic are 0, 1 - 3 * 2, 2, the third wins, and the loss is its -log p."""
    reference = from_logits(torch.tensor([[0.0, 1.0, 2.0]]), [1])
    reinforced = from_logits(torch.tensor([[0.0, 3.0, 1.0]]), [1])
    now = from_logits(torch.zeros(1, 3), [1])
    now.logits[0, 2] = math.log(2)  # its probability is 1/2
    (loss,) = WHP(strength=3.0).forget_loss(now, reference, reinforced).tolist()
    assert loss == pytest.approx(math.log(2))


def test_whp_against_a_model_that_raised_the_true_token_is_undial() -> None:
    """If reinforcing raised the true logit by 1 and no other, softmax labels are UNDIAL's."""
    logits = torch.tensor([[0.3, -1.2, 2.0], [1.0, 0.0, 0.5]])
    labels = [2, 0]
    reference, now = from_logits(logits, labels), from_logits(logits.flip(0), labels)
    raised = logits.clone()
    raised[[0, 1], labels] += 1
    whp = WHP(strength=4.0, labels="softmax")
    found = whp.forget_loss(now, reference, from_logits(raised, labels))
    assert torch.allclose(found, UNDIAL(beta=4.0).forget_loss(now, reference))
