"""Keys and values of prompts, against the library's own cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    DynamicCache,
    Gemma4TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    PreTrainedConfig,
)

from unlearn_cli.engine import keys_values, pack
from unlearn_cli.engine.keys_values import read, reads, token_bytes
from unlearn_cli.testing import tiny_model

BEGINNING = list(range(3, 15))
PROMPTS = [
    np.array([*BEGINNING, *rest], np.int32) for rest in ([20, 21, 22, 23], [30], [40, 41, 42])
]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # 2 of keys and values, blocks, heads of these, values of a head, 4 bytes.
        (LlamaConfig(num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=2,
                     hidden_size=64), 2 * 3 * 2 * 8 * 4),
        (LlamaConfig(num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=8,
                     hidden_size=64, head_dim=16), 2 * 3 * 8 * 16 * 4),
        (GPT2Config(n_layer=2, n_head=4, n_embd=32), 2 * 2 * 4 * 8 * 4),
        (MambaConfig(), 0),
        # Five layers of two heads of 8, one of one head of 16.
        (Gemma4TextConfig(num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2,
                          head_dim=8, global_head_dim=16, num_global_key_value_heads=1,
                          attention_k_eq_v=True), 2 * (5 * 2 * 8 + 16) * 4),
    ],
    ids=["grouped", "wide heads", "gpt2", "no attention", "mixed"],
)  # fmt: skip
def test_bytes_of_a_token(config: PreTrainedConfig, expected: int) -> None:
    """By hand; nothing is known of a model without attention."""

    class Model:
        dtype = torch.float32

    model: Any = Model()
    model.config = config
    assert token_bytes(model) == expected


@pytest.mark.parametrize("one_mask", [False, True])
def test_prompts_have_the_keys_and_values_of_padded_rows(
    one_mask: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all their tokens but the last; rows stand as if they were padded on the left. By nodes and
    with one mask."""
    if one_mask:
        monkeypatch.setattr(
            "unlearn_cli.engine.pack.attention",
            lambda forest, device: pack.Attention(forest, whole=pack._whole_mask(forest)),
        )
    model = tiny_model().eval()
    with torch.no_grad():
        found = read(model, PROMPTS, 20)
        for row, prompt in enumerate(PROMPTS):
            expected = DynamicCache(config=model.config)
            ids = torch.from_numpy(prompt[:-1].astype(np.int64))[None]
            model(ids, past_key_values=expected, use_cache=True)
            for one, other in zip(found.layers, expected.layers, strict=True):
                for mine, theirs in ((one.keys, other.keys), (one.values, other.values)):
                    assert mine.shape[-2] == 15
                    alone = mine[row, :, 15 - len(prompt) + 1 :]
                    torch.testing.assert_close(alone, theirs[0], rtol=1e-4, atol=1e-5)


def test_a_token_is_written_in_place() -> None:
    """The keys that are there are not copied for a new token, whose keys stand behind them; there
    is no place beyond those that were asked for."""
    model = tiny_model().eval()
    with torch.no_grad():
        (layer, *_) = read(model, PROMPTS, 17).layers
        before = layer.keys
        kept, new = before.clone(), torch.ones_like(before[:, :, :1])
        for count in (1, 2):
            keys, values = layer.update(new, new)
            assert keys.data_ptr() == before.data_ptr()
            assert torch.equal(keys[:, :, :15], kept)
            assert torch.equal(values[:, :, -1], new[:, :, 0])
            assert layer.get_seq_length() == 15 + count
        with pytest.raises(RuntimeError):
            layer.update(new, new)


def test_whether_a_model_goes_on_from_what_was_read_is_tried_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It does; but not where its blocks refuse such a cache, or where what was read is not what
    padded rows would have had."""
    assert reads(tiny_model().eval())

    def wrong(*arguments: Any) -> Any:
        cache = read(*arguments)
        cache.layers[0].values.mul_(2)
        return cache

    def refused(*_: Any) -> Any:
        raise ValueError

    for other in (wrong, refused):
        monkeypatch.setattr(keys_values, "read", other)
        assert not reads(tiny_model().eval())
