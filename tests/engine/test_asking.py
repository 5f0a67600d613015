"""What it takes to ask a model, counted on tensors without data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    LlamaConfig,
    MambaConfig,
    ModernBertDecoderConfig,
    PreTrainedConfig,
)

from tests.engine.test_imagined import FREE
from unlearn_cli.engine.asking import Asking
from unlearn_cli.engine.score import Asked

WORDS, ROWS, LENGTH = 50_000, 4, 60
SHAPE = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2}
HEADS = SHAPE | {"num_attention_heads": 4, "intermediate_size": 64}


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**HEADS),
        LlamaConfig(**HEADS, attn_implementation="eager"),
        BloomConfig(**SHAPE, n_head=4),
        MambaConfig(**SHAPE, state_size=4),
        ModernBertDecoderConfig(**HEADS, pad_token_id=0),  # its `get_decoder` gives its head
    ],
    ids=["forest", "padded", "bloom", "mamba", "modernbert"],
)
def test_an_answer_begins_with_the_logits_of_one_token(config: PreTrainedConfig) -> None:
    """Whatever the architecture: the logits after each prompt are there at once, in float32, and
    what is there besides is less than those of two tokens more; never those of the 60."""
    skeleton = AutoModelForCausalLM.from_config(config)
    prompts = [np.arange(LENGTH, dtype=np.int32)] * ROWS
    found = Asking(skeleton, torch.device("cpu"), FREE).cost(Asked([], [(prompts, 10)], []))
    last = ROWS * WORDS * 4
    assert last <= found.memory < 3 * last
