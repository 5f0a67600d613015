"""Prompts read for answers: their keys and values, and room for those of the answers.

Prompts go through the model as a forest (see `pack`): without padding, what they begin with alike
once. And an answer's next token is written to its place. The library's own cache would make a new
copy of everything for each token; its static one lets every token attend to all that may come.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from unlearn_cli.engine.pack import TokenIds, inputs, plant


def read(model: Any, prompts: Sequence[TokenIds], tokens: int) -> Cache:
    """Keys and values of all tokens of prompts but the last, as if they were padded on the left.

    Args:
        model: one that packs.
        prompts: each (n,), n >= 2.
        tokens: how many a row has at most, padding, prompt and answer.
    """
    longest = max(map(len, prompts))
    forest = plant([prompt[:-1] for prompt in prompts])
    found = _room(model, 1, len(forest.input_ids))
    model.get_decoder()(**inputs(forest, model.device), past_key_values=found, use_cache=True)
    cache = _room(model, len(prompts), tokens)
    places = [torch.from_numpy(at).to(model.device) for at in forest.places]
    for layer, here in zip(cache.layers, found.layers, strict=True):
        layer.begin((here.keys, here.values), places, longest - 1)
    return cache


def token_bytes(model: Any) -> int:
    """What keys and values of one token take."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * model.dtype.itemsize)


def _room(model: Any, rows: int, tokens: int) -> Cache:
    count = model.config.get_text_config().num_hidden_layers
    return Cache(layers=[_Layer(rows, tokens) for _ in range(count)])


class _Layer(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """Of one block."""

    def __init__(self, rows: int, tokens: int) -> None:
        super().__init__()
        self.rows, self.tokens = rows, tokens
        self.room: tuple[Tensor, ...] = ()
        """For keys and values, (rows, heads, tokens, d)."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Take the room."""
        super().lazy_initialization(key_states, value_states)
        self.room = tuple(
            # Not left as it is: a place that no token attends to must be no NaN.
            like.new_zeros(self.rows, like.shape[1], self.tokens, like.shape[3])
            for like in (key_states, value_states)
        )

    def begin(self, states: Sequence[Tensor], places: Sequence[Tensor], end: int) -> None:
        """Let each row have those of `states`, (1, heads, T, d), at its places, up to `end`."""
        self.lazy_initialization(*states)
        for room, found in zip(self.room, states, strict=True):
            for row, at in zip(room, places, strict=True):
                row[:, end - len(at) : end] = found[0, :, at]
        self._show(end)

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep what is new, (rows, heads, t, d); all that is kept."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        for room, new in zip(self.room, (key_states, value_states), strict=True):
            room[:, :, start:end] = new
        self._show(end)
        return self.keys, self.values

    def _show(self, end: int) -> None:
        self.keys, self.values = (room[:, :, :end] for room in self.room)
