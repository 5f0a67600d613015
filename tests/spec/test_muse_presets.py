"""The presets of MUSE."""

from __future__ import annotations

import pytest

from unlearn_cli.spec import load_spec


@pytest.mark.parametrize("corpus", ["News", "Books"])
def test_they_are_the_published_protocol(corpus: str) -> None:
    """MUSE's models and data under their public names, its recipe (ten epochs of batches of 32 at a
    constant 1e-5, no weight decay, 2048 tokens), and OpenUnlearning's SimNPO."""
    spec = load_spec(f"muse-{corpus.lower()}")
    assert spec.model.path == f"muse-bench/MUSE-{corpus}_target"
    assert spec.model.tokenizer == "meta-llama/Llama-2-7b-hf"
    assert spec.retain_reference.path == f"muse-bench/MUSE-{corpus}_retrain"
    assert spec.data.options["path"] == f"muse-bench/MUSE-{corpus}"
    assert (spec.data.dataset, spec.data.max_length) == ("muse", 2048)
    assert (spec.method.name, spec.method.gamma, spec.method.alpha) == ("simnpo", 0.125, 1.0)
    assert spec.method.options == {"beta": 4.5, "delta": 0.0}
    train = spec.train
    assert (train.epochs, train.batch_size, train.learning_rate) == (10.0, 32, 1e-5)
    assert (train.schedule, train.warmup_epochs, train.weight_decay) == ("constant", 0.0, 0.0)
    assert [table.evaluator for table in spec.evaluate] == ["muse"]
