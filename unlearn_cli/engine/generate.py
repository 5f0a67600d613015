"""Answers: the most likely ones, or drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig

from unlearn_cli.engine.encode import Encoder

Prompt = NDArray[np.int32]


def generate(
    model: Any, encoder: Encoder, prompts: Sequence[Prompt], max_new_tokens: int, batch_size: int
) -> list[str]:
    """Answer every prompt, in the order given, on this process alone.

    Args:
        model: a causal language model with its `generate`.
        encoder: knows the end tokens and turns token ids into text.
        prompts: token ids, each (n,), n >= 1, as `Encoder.prompt` gives them.
        max_new_tokens: longest answer, tokens; cut shorter where the model's context ends.
        batch_size: prompts in one batch; batches are formed by length.
    """
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    texts = [""] * len(prompts)
    for k in range(0, len(order), batch_size):
        chosen = order[k : k + batch_size]
        batch = [prompts[i] for i in chosen]
        for i, text in zip(
            chosen, generate_batch(model, encoder, batch, max_new_tokens), strict=True
        ):
            texts[i] = text
    return texts


def generate_batch(
    model: Any,
    encoder: Encoder,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
) -> list[str]:
    """Answer the prompts in one batch, up to an end token: the most likely token each time, or
    with a temperature one drawn from the whole distribution.

    Nothing of the model's own generation settings is used: a repetition penalty or a temperature
    that it carries would make the answers of two models incomparable.
    """
    pad = encoder.end_ids[0]  # any token would do: the mask says what is padding
    input_ids, mask = (ids.to(model.device) for ids in _pad_left(prompts, pad))
    config = GenerationConfig(
        **({"do_sample": False} if temperature == 0 else _sampling(temperature)),
        max_new_tokens=_room(model, input_ids.shape[1], max_new_tokens),
        eos_token_id=list(encoder.end_ids),
        pad_token_id=pad,
    )
    with evaluating(model), _own_settings_off(model):
        output = model.generate(input_ids, attention_mask=mask, generation_config=config)
    answers = output[:, input_ids.shape[1] :].tolist()
    return [encoder.decode(_until_end(ids, encoder.end_ids)).strip() for ids in answers]


def _sampling(temperature: float) -> dict[str, Any]:
    """Of the whole distribution: transformers would keep the 50 most likely tokens."""
    return {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}


def _pad_left(prompts: Sequence[Prompt], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, (B, T) int64."""
    longest = max(len(prompt) for prompt in prompts)
    ids = np.full((len(prompts), longest), pad, dtype=np.int64)
    mask = np.zeros((len(prompts), longest), dtype=np.int64)
    for b, prompt in enumerate(prompts):
        ids[b, longest - len(prompt) :] = prompt
        mask[b, longest - len(prompt) :] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def _room(model: Any, used: int, wanted: int) -> int:
    """New tokens that fit the model's context, at least one."""
    context = getattr(model.config, "max_position_embeddings", None)
    return wanted if context is None else max(1, min(wanted, context - used))


def _until_end(ids: Sequence[int], end_ids: Sequence[int]) -> list[int]:
    end = next((k for k, token in enumerate(ids) if token in end_ids), len(ids))
    return list(ids[:end])


@contextmanager
def _own_settings_off(model: Any) -> Iterator[None]:
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """No gradients, no dropout, and a cache even where activations are recomputed in training."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
