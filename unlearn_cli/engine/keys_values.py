"""Prompts read for answers: their keys and values, and room for those of the answers.

Prompts go through the model as a forest (see `pack`): without padding, what they begin with alike
once. And an answer's next token is written to its place. The library's own cache would make a new
copy of everything for each token; its static one lets every token attend to all that may come.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from unlearn_cli.engine.pack import TokenIds, alike, inputs, plant
from unlearn_cli.engine.tried import TriedOut


def read(model: Any, prompts: Sequence[TokenIds], tokens: int) -> Cache:
    """Keys and values of all tokens of prompts but the last, as if they were padded on the left.

    Args:
        model: one that packs.
        prompts: each (n,), n >= 2.
        tokens: how many a row has at most, padding, prompt and answer.
    """
    longest = max(map(len, prompts))
    forest = plant([prompt[:-1] for prompt in prompts])
    found = _cache(model, 1, len(forest.input_ids))
    at_once = inputs(forest, model.device)
    model(**at_once, past_key_values=found, use_cache=True, **last_logits(model))
    cache = _cache(model, len(prompts), tokens)
    places = np.zeros((len(prompts), longest - 1), dtype=np.int64)  # padding is any place
    for row, at in zip(places, forest.places, strict=True):
        row[longest - 1 - len(at) :] = at
    index = torch.from_numpy(places).to(model.device)
    for layer, here in zip(cache.layers, found.layers, strict=True):
        if here.is_initialized:  # blocks that use another's keys have none
            layer.update(
                *(states[0, :, index].transpose(0, 1) for states in (here.keys, here.values))
            )
            here.reset()
    return cache


def last_logits(model: Any) -> dict[str, int]:
    """What makes a model give the logits of the last token alone, where it can; as `generate` does.
    Its decoder alone would give none, but `get_decoder` gives some models' output layer."""
    return {"logits_to_keep": 1} if model._supports_logits_to_keep() else {}


_known = TriedOut()


def reads(model: Any) -> bool:
    """Whether a model that packs goes on from what `read` gives as it does from padded rows. Tried
    out once: there are blocks that keep more than keys and values."""
    return _known.find(model, lambda: _goes_on(model))


def _goes_on(model: Any) -> bool:
    ids = np.arange(40, dtype=np.int32) % model.get_input_embeddings().num_embeddings
    prompts = [ids[:24], np.concatenate([ids[:16], ids[30:33]]), ids[2:12]]
    rows, mask = (part.to(model.device) for part in pad_left(prompts, 0))
    with torch.no_grad():
        found = _next(model, rows[:, -1:], mask, read(model, prompts, 26))
        expected = _next(model, rows, mask, None)
    return alike(found, expected, model.dtype)


def _next(model: Any, ids: Tensor, mask: Tensor, cache: Cache | None) -> Tensor:
    """(B, 2, V) log-probabilities of the token that comes next, and of the one behind that."""
    logp = []
    for _ in range(2):
        positions = (mask.cumsum(-1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        logp.append(output.logits[:, -1].float().log_softmax(-1))
        ids, cache = ids[:, -1:], output.past_key_values
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return torch.stack(logp, dim=1)


def pad_left(prompts: Sequence[TokenIds], pad: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, (B, T) int64."""
    longest = max(len(prompt) for prompt in prompts)
    ids = np.full((len(prompts), longest), pad, dtype=np.int64)
    mask = np.zeros((len(prompts), longest), dtype=np.int64)
    for b, prompt in enumerate(prompts):
        ids[b, longest - len(prompt) :] = prompt
        mask[b, longest - len(prompt) :] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def token_bytes(model: Any) -> int:
    """What keys and values of one token take; 0 where the model does not say, or has none."""
    config = model.config.get_text_config()
    layers = getattr(config, "per_layer_config", None) or [config] * config.num_hidden_layers
    try:
        of_layers = [_values(layer) for layer in layers]
    except (AttributeError, TypeError):
        return 0
    return 2 * sum(of_layers) * int(model.dtype.itemsize)


def _values(config: Any) -> int:
    """Of the keys of a token in one layer."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(heads * size)


def _cache(model: Any, rows: int, tokens: int) -> Cache:
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
            like.new_empty(self.rows, like.shape[1], self.tokens, like.shape[3])
            for like in (key_states, value_states)
        )

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep what is new, (rows, heads, t, d); all that is kept."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, count = self.get_seq_length(), key_states.shape[-2]
        for room, new in zip(self.room, (key_states, value_states), strict=True):
            room.narrow(2, start, count).copy_(new)  # raises where there is no room left
        self.keys, self.values = (room[:, :, : start + count] for room in self.room)
        return self.keys, self.values

    def reset(self) -> None:
        """Let go of everything."""
        super().reset()
        self.room = ()
