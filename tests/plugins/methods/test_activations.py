"""Methods on activations, with changing weights, and by editing: values derived by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from unlearn_plugins.methods._direction import random_direction
from unlearn_plugins.methods.adaptive_rmu import AdaptiveRMU
from unlearn_plugins.methods.pdu import PDU
from unlearn_plugins.methods.rmu import RMU
from unlearn_plugins.methods.rr import RR
from unlearn_plugins.methods.task_vector import TaskVector

from unlearn_cli.api import Progress, Weights
from unlearn_cli.api.hidden import Hidden
from unlearn_cli.api.scores import Scores


def hidden(**layers: Tensor) -> Hidden:
    """Activations of one row."""
    tokens = len(next(iter(layers.values())))
    return Hidden(layers, torch.ones(tokens, dtype=torch.bool), torch.zeros(tokens).long(), 1)


def progress(step: int, total: int, losses: dict[str, float], weights: Weights) -> Progress:
    """A training with ten steps an epoch that began with gamma 10 and alpha 20."""
    return Progress(step, total, step / 10, Weights(10.0, 20.0), weights, losses)


def test_the_direction_is_a_positive_unit_vector_that_the_seed_decides() -> None:
    """Uniform in [0, 1) before it is normalised: no value is negative, the length is 1."""
    like = torch.zeros(3, 64)
    first = random_direction(like, 0)
    assert first.shape == (64,)
    assert (first >= 0).all()
    assert first.norm().item() == pytest.approx(1.0)
    assert torch.equal(first, random_direction(like, 0))
    assert not torch.equal(first, random_direction(like, 1))


def test_rmu_is_the_squared_distance_to_the_target() -> None:
    """At h = 0 the mean square over d values is c^2 / d, because u has length 1; at h = c u it
    is 0."""
    method = RMU(layer="a", coefficient=3.0)
    u = random_direction(torch.zeros(8), 0)
    loss = method.forget_loss(hidden(a=torch.stack([torch.zeros(8), 3.0 * u])))
    torch.testing.assert_close(loss, torch.tensor([9.0 / 8, 0.0]))


def test_adaptive_rmu_takes_its_length_from_the_reference() -> None:
    """With |h_ref| = 5 and scale 2 the target has length 10: at h = 0 the loss is 100 / d."""
    method = AdaptiveRMU(layer="a", scale=2.0)
    before = torch.tensor([[3.0, 4.0, 0.0, 0.0]])
    loss = method.forget_loss(hidden(a=torch.zeros(1, 4)), hidden(a=before))
    assert loss.tolist() == pytest.approx([100 / 4])


def test_rr_is_the_positive_part_of_the_cosine() -> None:
    """Parallel 1, at 60 degrees 1/2, opposite 0; the mean over two blocks."""
    sixty = [math.cos(math.pi / 3), math.sin(math.pi / 3)]
    now = hidden(a=torch.tensor([[2.0, 0.0], [-1.0, 0.0]]), b=torch.tensor([sixty, [-1.0, 0.0]]))
    before = hidden(a=torch.tensor([[1.0, 0.0]] * 2), b=torch.tensor([[1.0, 0.0]] * 2))
    loss = RR(read=("a", "b"), tilt=0.0).forget_loss(now, before)
    assert loss.tolist() == pytest.approx([(1 + 0.5) / 2, 0.0], abs=1e-6)


def test_the_tilt_gives_rr_a_gradient_at_the_start() -> None:
    """At the reference itself the cosine is at its maximum: without the tilt nothing pulls."""
    here = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    for tilt, pulls in ((0.0, False), (0.01, True)):
        now = here.clone().requires_grad_()
        RR(read=("a",), tilt=tilt).forget_loss(hidden(a=now), hidden(a=here)).sum().backward()  # type: ignore[no-untyped-call]
        assert now.grad is not None
        assert (now.grad.norm().item() > 1e-5) == pulls


@pytest.mark.parametrize(("step", "expected"), [(0, (10, 0)), (50, (7.5, 5)), (100, (5, 10))])
def test_rr_goes_from_forget_alone_to_half_and_half(
    step: int, expected: tuple[float, float]
) -> None:
    """gamma (1 - t / 2T) and alpha t / 2T with gamma 10, alpha 20, T 100."""
    weights = RR().weights(progress(step, 100, {}, Weights(0.0, 0.0)))
    assert (weights.gamma, weights.alpha) == pytest.approx(expected)


def test_pdu_is_zero_for_uniform_logits() -> None:
    """(max - mean)^2: of logits (1, 1, 1) it is 0, of (3, 0, 0) it is (3 - 1)^2."""
    logits = torch.tensor([[1.0, 1.0, 1.0], [3.0, 0.0, 0.0]])
    scores = Scores(
        logits.log_softmax(-1)[:, 0],
        torch.zeros(2).long(),
        torch.zeros(2).long(),
        1,
        lambda: logits,
    )
    assert PDU().forget_loss(scores).tolist() == pytest.approx([0.0, 4.0])


@pytest.mark.parametrize(
    ("step", "retain", "expected"),
    [(9, 1.3, 20.0), (11, 1.3, 20 + 5 * 1.0), (11, 0.1, 20 - 5 * 0.2), (11, 0.3, 20.0)],
)
def test_pdu_moves_lambda_by_the_violation(step: int, retain: float, expected: float) -> None:
    """lambda + eta (loss - epsilon), eta 5, epsilon .3, after one epoch of ten steps."""
    method = PDU(warmup_epochs=1.0)
    weights = method.weights(progress(step, 100, {"retain": retain}, Weights(10.0, 20.0)))
    assert weights.alpha == pytest.approx(expected)
    assert weights.gamma == 10.0


def test_lambda_of_pdu_is_never_negative() -> None:
    """A constraint that holds by far switches the term off; it does not reverse it."""
    method = PDU(epsilon=9.0, warmup_epochs=0.0)
    assert method.weights(progress(1, 9, {"retain": 0.0}, Weights(1.0, 1.0))).alpha == 0.0


def test_a_task_vector_is_negated() -> None:
    """From 1 tuned to 3, with scale .5: 1 - .5 * 2 = 0; scale 1 mirrors to -1."""
    before, after = torch.tensor([1.0]), torch.tensor([3.0])
    assert TaskVector(scale=0.5).edit(before, after).tolist() == [0.0]
    assert TaskVector(scale=1.0).edit(before, after).tolist() == [-1.0]
