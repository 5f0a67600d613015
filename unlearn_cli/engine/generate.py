"""Answers: the most likely ones, or drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from unlearn_cli.api.evaluate import Decoding
from unlearn_cli.engine.encode import Encoder
from unlearn_cli.engine.keys_values import pad_left, read, reads
from unlearn_cli.engine.sharding import is_sharded

Prompt = NDArray[np.int32]


def generate_batch(
    model: Any,
    encoder: Encoder,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    *,
    packs: Callable[[int], bool] = lambda tokens: False,
) -> list[str]:
    """Answer each prompt once, in one batch, up to an end token or a stop text.

    Where `decoding` has samples, tokens are drawn with torch's own generator; else the most likely
    is taken each time. A prefix is expected to stand in the prompts already. Nothing of the model's
    own generation settings is used: a repetition penalty or a temperature that it carries would
    make the answers of two models incomparable. Stops as soon as every answer has ended.

    Args:
        model: a causal language model with its `generate`.
        encoder: knows the end tokens and turns token ids into text.
        prompts: token ids, each (n,), n >= 1, as `Encoder.prompt` gives them.
        decoding: how; answers are cut shorter where the model's context ends.
        packs: whether the model reads rows of so many tokens, prompt and answer, as a forest.
            Their prompts are then read so, and their answers need less memory and time.
    """
    pad = encoder.end_ids[0]  # any token would do: the mask says what is padding
    input_ids, mask = (ids.to(model.device) for ids in pad_left(prompts, pad))
    config = GenerationConfig(
        **(_sampling(decoding) if decoding.samples else {"do_sample": False}),
        max_new_tokens=_room(model, input_ids.shape[1], decoding.max_new_tokens),
        eos_token_id=list(encoder.end_ids),
        pad_token_id=pad,
    )
    start, stop = input_ids.shape[1], decoding.stop
    most = start + config.max_new_tokens
    # A sharded model takes all processes for each pass, and theirs have other prompts.
    padded = is_sharded(model) or min(map(len, prompts)) == 1
    stopping = StoppingCriteriaList([_Said(encoder, start, stop)] if stop else [])
    with evaluating(model), _own_settings_off(model):
        forest = not padded and packs(most) and reads(model)
        begun = read(model, prompts, most) if forest else None
        output = model.generate(
            input_ids,
            attention_mask=mask,
            generation_config=config,
            stopping_criteria=stopping,
            past_key_values=begun,
            synced_gpus=is_sharded(model),
        )
    answers = (_until_end(ids, encoder.end_ids) for ids in output[:, start:].tolist())
    return [cut(encoder.decode(ids), stop) for ids in answers]


def cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop text."""
    for end in stop:
        text = text.split(end)[0]
    return text.strip()


class _Said(StoppingCriteria):  # type: ignore[misc]  # transformers is not typed
    """A row has ended when its answer contains a stop text."""

    def __init__(self, encoder: Encoder, start: int, stop: Sequence[str]) -> None:
        self.encoder, self.start, self.stop = encoder, start, stop

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        texts = [self.encoder.decode(ids) for ids in input_ids[:, self.start :].tolist()]
        ended = [any(end in text for end in self.stop) for text in texts]
        return torch.tensor(ended, device=input_ids.device)


def _sampling(decoding: Decoding) -> dict[str, Any]:
    """transformers would keep the 50 most likely tokens."""
    nucleus = {"temperature": decoding.temperature, "top_p": decoding.top_p}
    return {"do_sample": True, "top_k": 0, **nucleus}


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
