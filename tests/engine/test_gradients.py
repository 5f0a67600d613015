"""What goes around a method: sharpness, noise, saliency, entropy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.engine.test_train import FORGET, RowLoss, Setting, TokenLoss
from unlearn_cli.api.scores import Scores
from unlearn_cli.engine.forward import Scorer
from unlearn_cli.engine.gradients import Smoothing, salient, shifted
from unlearn_cli.engine.objective import entropy_term
from unlearn_cli.events import StepDone
from unlearn_cli.testing import tiny_model


def trained(folder: Path, smoothing: Smoothing | None, **options: Any) -> Setting:
    """A whole training with a smoothing."""
    setting = Setting(folder, **options)
    setting.trainer.smoothing = smoothing
    setting.trainer.fit()
    return setting


def assert_same_bits(one: Setting, other: Setting) -> None:
    for name, expected in one.weights().items():
        assert torch.equal(other.weights()[name], expected), name


@pytest.mark.parametrize(
    "smoothing", [Smoothing(sam_rho=0.0), Smoothing(noise_sigma=0.0, noise_samples=1)]
)
def test_no_distance_is_the_plain_run(tmp_path: Path, smoothing: Smoothing) -> None:
    """rho = 0 and sigma = 0 take the gradient where the plain run takes it: to the bit where the
    forget term is alone, and else but for the order of the sums, as it goes through by itself."""
    plain = trained(tmp_path / "plain", None, retain="none")
    assert_same_bits(plain, trained(tmp_path / "near", smoothing, retain="none"))
    double: dict[str, Any] = {"retain": "nll", "dtype": torch.float64}
    plain = trained(tmp_path / "plain-nll", None, **double)
    near = trained(tmp_path / "near-nll", smoothing, **double)
    for name, expected in plain.weights().items():
        torch.testing.assert_close(near.weights()[name], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("smoothing", [Smoothing(0.05), Smoothing(None, 0.01, 2)])
def test_a_distance_changes_the_weights_and_not_the_invariance(
    tmp_path: Path, smoothing: Smoothing
) -> None:
    """The run differs from the plain one, and micro-batches of 2 give the weights of one of 8."""
    double: dict[str, Any] = {"method": TokenLoss(), "dtype": torch.float64}
    plain = trained(tmp_path / "plain", None, **double)
    whole = trained(tmp_path / "whole", smoothing, **double)
    parts = trained(tmp_path / "parts", smoothing, micro_batch=2, **double)
    assert not torch.equal(plain.weights()["lm_head.weight"], whole.weights()["lm_head.weight"])
    for name, expected in whole.weights().items():
        torch.testing.assert_close(parts.weights()[name], expected, rtol=1e-6, atol=1e-8)


def test_the_sharp_gradient_is_that_uphill(tmp_path: Path) -> None:
    """By hand: g at theta, then the gradient at theta + rho g / |g|, with the bare model."""
    setting = Setting(tmp_path, TokenLoss(), retain="none", dtype=torch.float64)
    trainer, step = setting.trainer, setting.trainer.plan.steps[0]
    trainer.smoothing = Smoothing(sam_rho=0.1)

    def gradient(model: Any) -> list[Tensor]:
        scores = Scorer(model)([FORGET[row] for row in step.forget])
        loss = 0.5 * scores.token_logp.mean()  # gamma 0.5, token mean of log p
        return list(torch.autograd.grad(loss, list(model.parameters())))

    other = tiny_model().to(torch.float64)
    first = gradient(other)
    norm = torch.stack([g.norm() for g in first]).norm()
    with torch.no_grad():
        for parameter, g in zip(other.parameters(), first, strict=True):
            parameter += 0.1 * g / norm
    expected = gradient(other)
    trainer._add_gradients(step)
    for parameter, g in zip(setting.model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, g, rtol=1e-6, atol=1e-10)


def test_weights_are_restored_to_the_bit() -> None:
    """theta + e - e is not theta in floating point; a copy is."""
    parameter = nn.Parameter(torch.tensor([1e-8, 1.0, 3.3]))
    before = parameter.detach().clone()
    with shifted([parameter], [torch.full((3,), 1e3)]):
        assert parameter[0].item() == pytest.approx(1e3)
    assert torch.equal(parameter, before)


def test_the_noise_is_the_same_in_a_resumed_step_and_new_in_the_next(tmp_path: Path) -> None:
    """Two runs of the same spec end with the same bits; losses at equal weights differ by step."""
    noise = Smoothing(None, 0.05)
    one, two = (trained(tmp_path / name, noise) for name in ("a", "b"))
    assert_same_bits(one, two)


def test_the_most_salient_tensors_are_chosen(tmp_path: Path) -> None:
    """A tenth of the 21 tensors of the tiny model is 2: those with the largest root mean square of
    the gradient, computed with the bare model over the same rows."""
    setting = Setting(tmp_path, TokenLoss(), retain="none")
    trainer = setting.trainer
    steps = trainer.plan.steps[: trainer.plan.steps_per_epoch]
    chosen = salient(trainer.gradients, trainer.terms[0], steps, setting.model, 0.1)
    model = tiny_model()
    for step in steps:
        scores = Scorer(model)([FORGET[row] for row in step.forget])
        torch.autograd.backward(scores.token_logp.mean())
    pull = {
        n: p.grad.square().mean().item() for n, p in model.named_parameters() if p.grad is not None
    }
    assert len(pull) == 21
    assert set(chosen) == set(sorted(pull, key=lambda name: -pull[name])[:2])
    assert all(parameter.grad is None for parameter in setting.model.parameters())


def test_entropy_of_known_distributions() -> None:
    """Uniform over 4: ln 4; certain: 0."""
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [100.0, 0.0, 0.0, 0.0]])
    scores = Scores(
        logits.log_softmax(-1)[:, 0],
        torch.zeros(2).long(),
        torch.zeros(2).long(),
        1,
        lambda: logits,
    )
    values = entropy_term("retain", -0.25).values({"retain": scores}, {})
    assert values.tolist() == pytest.approx([1.3862943611, 0.0], abs=1e-6)


def test_the_entropy_enters_the_total_with_its_weight(tmp_path: Path) -> None:
    """total = .5 forget + 1 retain - .25 entropy of retain."""
    setting = Setting(tmp_path, RowLoss())
    term = entropy_term("retain", -0.25)
    setting.trainer.terms = [*setting.trainer.terms, term]
    setting.trainer.weights = {**setting.trainer.weights, term.name: term.weight}
    setting.trainer.fit()
    losses = setting.recorder.of(StepDone)[0].losses
    expected = 0.5 * losses["forget"] + losses["retain"] - 0.25 * losses["retain_entropy"]
    assert losses["total"] == pytest.approx(expected)
    assert 0 < losses["retain_entropy"] < 4.16  # ln 64, the vocabulary
