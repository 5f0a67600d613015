"""What a step takes, against sizes by hand and against what torch really allocates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from unlearn_cli.engine.estimate import Estimate, Ledger, estimate_step, imagine
from unlearn_cli.engine.objective import nll_term
from unlearn_cli.engine.plan import make_plan
from unlearn_cli.engine.speed import Speed
from unlearn_cli.testing import made_up_rows, tiny_model

ROWS = {"rows": made_up_rows(8, seed=5)}
FLOAT = 4


def estimated(
    micro_batch: int = 8,
    *,
    frozen: bool = False,
    dtype: torch.dtype = torch.float32,
    speed: Speed | None = None,
) -> tuple[nn.Module, Estimate]:
    """Of plain fine-tuning of the tiny model on 8 rows."""
    model = tiny_model().to(dtype)
    model.model.embed_tokens.requires_grad_(not frozen)
    return model, estimate_step(
        lambda: (imagine(model, torch.device("cpu")), [nll_term("rows", 1.0)]),
        ROWS,
        make_plan(forget=8, retain=0, batch_size=8, seed=0, epochs=1),
        Accelerator(),
        micro_batch=micro_batch,
        optimizer="adamw",
        speed=speed,
    )


def test_the_ledger_counts_what_is_alive() -> None:
    """y = relu(x W): while y is made, x W is alive; afterwards y alone is. Views count once."""
    with FakeTensorMode(), Ledger() as ledger:
        x, w = torch.empty(4, 8), torch.empty(8, 16)
        start = ledger.alive
        y = F.relu(x @ w).view(-1)
        assert start == (4 * 8 + 8 * 16) * FLOAT
        assert ledger.alive - start == 4 * 16 * FLOAT
        assert ledger.peak - start == 2 * 4 * 16 * FLOAT
        del y
        assert ledger.alive == start


def test_weights_gradients_and_optimizer_are_those_of_the_model() -> None:
    """AdamW keeps two moments of each trained value and a step number of each tensor."""
    model, found = estimated()
    size = sum(p.numel() for p in model.parameters()) * FLOAT
    buffers = sum(b.nbytes for b in model.buffers())
    assert found.weights == pytest.approx(size + buffers, rel=0.01)
    assert found.gradients == size
    assert found.optimizer == 2 * size + len(list(model.parameters())) * FLOAT


def test_what_is_not_trained_takes_no_gradient() -> None:
    """A frozen embedding: its values have neither gradient nor moments."""
    (model, whole), (_, part) = estimated(), estimated(frozen=True)
    frozen = model.get_input_embeddings().weight.nbytes  # type: ignore[operator]
    assert whole.gradients - part.gradients == frozen
    assert whole.optimizer - part.optimizer == 2 * frozen + FLOAT
    assert whole.weights == part.weights


def test_smaller_micro_batches_keep_fewer_activations() -> None:
    """Activations grow with the rows that are in a forward pass together."""
    found = [estimated(rows)[1].activations for rows in (1, 4, 8)]
    assert found == sorted(found)
    assert found[0] < found[2] / 2


def test_half_precision_halves_the_weights() -> None:
    """bfloat16 weights, gradients and moments take 2 bytes a value."""
    whole, half = estimated()[1], estimated(dtype=torch.bfloat16)[1]
    assert half.gradients * 2 == whole.gradients
    assert half.weights == pytest.approx(whole.weights / 2, rel=0.01)


def test_activations_are_what_the_backward_pass_keeps() -> None:
    """Against autograd's own account: the bytes of tensors saved by the real forward pass, each
    storage once and the weights left out, are within a tenth of the estimate."""
    model, found = estimated()
    saved: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    from unlearn_cli.engine.forward import Scorer

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = Scorer(model).score(ROWS["rows"]).token_logp.sum()
    assert loss.requires_grad
    logits = sum(item.end - item.start for item in ROWS["rows"]) * 64 * FLOAT
    assert found.activations == pytest.approx(sum(saved.values()) - logits, rel=0.1)


def test_the_time_is_that_of_the_slowest_part() -> None:
    """Of a product that is held up by computing and one that is held up by memory; each has its
    call besides."""
    speed = Speed(operations=100.0, bytes=10.0, call=1.0)
    assert speed.seconds(operations=1000, moved=10) == 1 + 10
    assert speed.seconds(operations=10, moved=1000) == 1 + 100


def test_the_time_grows_with_the_operations() -> None:
    """On a machine where nothing but products of matrices takes time, twice as fast is half."""
    slow, fast = (
        estimated(speed=Speed(operations=rate, bytes=float("inf"), call=0))[1].seconds
        for rate in (1e6, 2e6)
    )
    assert slow == pytest.approx(2 * fast)
    assert slow > 0


def test_the_imagined_model_shares_what_the_model_shares(tmp_path: Path) -> None:
    """Tied embeddings stay one tensor, and nothing of the model itself is touched."""
    model = tiny_model(tied=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with FakeTensorMode(allow_non_fake_inputs=True):
        made = imagine(model, torch.device("cpu"))
        assert made.get_input_embeddings().weight is made.get_output_embeddings().weight
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
