"""Blocks and parameters by name patterns, and forward passes that stop at a block."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    ModernBertDecoderConfig,
    PreTrainedConfig,
)

from tests.engine.test_pack import SHAPE, WIDE
from unlearn_cli.api.hidden import Hidden
from unlearn_cli.engine.forward import Scorer
from unlearn_cli.engine.layers import blocks, find_layers, find_parameters, train_only, up_to
from unlearn_cli.errors import UsageError
from unlearn_cli.testing import made_up_rows, tiny_model

FIRST, SECOND = "model.layers.0", "model.layers.1"


def test_a_pattern_means_one_block() -> None:
    """`*.layers.0` is the first block of the two that the tiny model has."""
    model = tiny_model()
    assert list(blocks(model)) == [FIRST, SECOND]
    assert find_layers(model, ["*.layers.0"]) == {"*.layers.0": FIRST}


@pytest.mark.parametrize(
    ("pattern", "says"), [("*.layers.7", "means none"), ("*.layers.*", "means 2 blocks")]
)
def test_a_pattern_of_none_or_several_blocks_is_refused(pattern: str, says: str) -> None:
    """The error names the pattern and the blocks that there are."""
    with pytest.raises(UsageError, match=says) as caught:
        find_layers(tiny_model(), [pattern])
    assert "model.layers.0 to model.layers.1" in str(caught.value.hint)


def test_parameters_are_found_in_the_order_of_the_model() -> None:
    """Patterns may overlap; each parameter comes once."""
    found = find_parameters(tiny_model(), ["*.layers.[01].mlp.down_proj.weight", "*.layers.0.mlp*"])
    assert found == [
        f"{FIRST}.mlp.gate_proj.weight",
        f"{FIRST}.mlp.up_proj.weight",
        f"{FIRST}.mlp.down_proj.weight",
        f"{SECOND}.mlp.down_proj.weight",
    ]


def test_a_pattern_that_names_no_parameter_is_refused() -> None:
    """The error lists what is there."""
    with pytest.raises(UsageError, match="names no parameter") as caught:
        find_parameters(tiny_model(), ["*.lora_A"])
    assert "model.embed_tokens.weight" in str(caught.value.hint)


def test_parameters_behind_the_block_that_is_read_are_refused() -> None:
    """A loss on block 0 depends on the embeddings and block 0; `*` alone means just these."""
    model = tiny_model()
    with pytest.raises(UsageError, match=r"does not depend on model\.layers\.1\.mlp"):
        find_parameters(model, ["*.down_proj.weight"], FIRST)
    everything = find_parameters(model, ["*"], FIRST)
    assert everything[0] == "model.embed_tokens.weight"
    assert all(name.startswith(FIRST) for name in everything[1:])


def _hidden(model: Any, layers: dict[str, str]) -> Hidden:
    found = Scorer(model.eval())(made_up_rows(4), layers)
    assert isinstance(found, Hidden)
    return found


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**WIDE),
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4),
        BloomConfig(**SHAPE | {"n_layer": 2, "n_head": 4}),
        MixtralConfig(**WIDE, num_local_experts=2, output_router_logits=True),
        # Its `get_decoder` gives its output layer.
        ModernBertDecoderConfig(**SHAPE, intermediate_size=64),
    ],
    ids=lambda config: config.model_type,
)
def test_activations_are_those_of_a_whole_pass(config: PreTrainedConfig) -> None:
    """The output of block 0 in a pass that stops there equals transformers' `hidden_states[1]`,
    row by row and without padding, whatever the architecture."""
    torch.manual_seed(0)
    model, rows = AutoModelForCausalLM.from_config(config).eval(), made_up_rows(4)
    found = _hidden(model, {"a": next(iter(blocks(model)))})
    expected = []
    for item in rows:
        ids = torch.from_numpy(item.input_ids.astype("int64"))[None]
        expected.append(model(ids, output_hidden_states=True).hidden_states[1][0])
    torch.testing.assert_close(found.layers["a"], torch.cat(expected), rtol=1e-4, atol=1e-5)
    assert torch.bincount(found.row).tolist() == [len(item.input_ids) for item in rows]


def test_activations_have_the_order_of_the_patterns_and_not_of_the_blocks() -> None:
    """The reference store numbers them so: named from behind, each pattern still has its block."""
    scorer, batch = Scorer(tiny_model()), made_up_rows(3)
    forward = scorer(batch, {"a": FIRST, "b": SECOND})
    backward = scorer(batch, {"b": SECOND, "a": FIRST})
    assert list(backward.layers) == ["b", "a"]
    assert all(torch.equal(backward.layers[key], forward.layers[key]) for key in "ab")


def test_tokens_that_predict_an_answer_are_marked() -> None:
    """As many as there are answer tokens in each row, ending one before the last token."""
    rows, found = made_up_rows(4), _hidden(tiny_model(), {"a": FIRST})
    for number, item in enumerate(rows):
        marked = found.at_answer[found.row == number].nonzero()[:, 0].tolist()
        assert marked == list(range(item.start - 1, item.end - 1))


def test_no_block_behind_the_last_one_read_runs() -> None:
    """Block 1 is not called, and is there again afterwards; the output layer is, for one place."""
    model, called, heads = tiny_model(), [], []
    _hidden(model, {"a": FIRST})  # the first pass of a model tries out more
    model.model.layers[1].register_forward_hook(lambda *_: called.append(1))
    model.lm_head.register_forward_hook(lambda *seen: heads.append(seen[2].shape[:-1]))
    _hidden(model, {"a": FIRST})
    assert not called
    assert heads == [(1, 1)]
    assert len(model.model.layers) == 2


def test_the_model_is_whole_again_after_an_error() -> None:
    """An exception within the shortened pass leaves all blocks in place."""
    model = tiny_model()

    def fail() -> None:
        with up_to(model, FIRST):
            assert len(model.model.layers) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(model.model.layers) == 2


def test_only_what_is_trained_holds_gradients() -> None:
    """After a backward pass from block 1, `down_proj` of block 0 has a gradient, nothing else."""
    model = tiny_model()
    train_only(model, [f"{FIRST}.mlp.down_proj.weight"])
    torch.autograd.backward(_hidden(model, {"a": SECOND}).layers["a"].square().sum())
    held = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert held == [f"{FIRST}.mlp.down_proj.weight"]
