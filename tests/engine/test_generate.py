"""Greedy answers, against a plain loop over the model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from tests.engine.test_pack import WIDE
from unlearn_cli.api.evaluate import Decoding
from unlearn_cli.engine.encode import Encoder
from unlearn_cli.engine.forward import Scorer
from unlearn_cli.engine.generate import generate_batch
from unlearn_cli.engine.keys_values import reads
from unlearn_cli.testing import tiny_model

GENERATOR = np.random.default_rng(0)
PROMPTS = [GENERATOR.integers(3, 64, size=n).astype(np.int32) for n in (5, 1, 9, 3, 7)]
NEVER = 0


def encoder(*end_ids: int) -> Encoder:
    """Stands in for an encoder: these end tokens, and ids as text."""
    fake = SimpleNamespace(end_ids=end_ids, decode=lambda ids: " ".join(map(str, ids)))
    return cast("Encoder", fake)


def greedy(model: Any, prompt: NDArray[np.int32], count: int) -> list[int]:
    """The most likely token, `count` times: one row, no padding, no cache."""
    ids = prompt.tolist()
    for _ in range(count):
        with torch.no_grad():
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        ids.append(int(logits.argmax()))
    return list(ids[len(prompt) :])


def generate(model: Any, encoder: Encoder, prompts: list[Any], count: int, size: int) -> list[str]:
    """Greedy answers of at most `count` tokens, in batches of `size` as they come."""
    batches = [prompts[k : k + size] for k in range(0, len(prompts), size)]
    return [a for b in batches for a in generate_batch(model, encoder, b, Decoding(count))]


BEGINNING = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
ALIKE = [np.array([*BEGINNING, *prompt], np.int32) for prompt in (*PROMPTS, PROMPTS[0])]


@pytest.mark.parametrize(
    ("config", "goes"),
    [
        (LlamaConfig(**WIDE), True),
        (Qwen3Config(**WIDE), True),
        (GemmaConfig(**WIDE), True),
        (GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4), True),
        (MistralConfig(**WIDE, sliding_window=28), True),
        (MistralConfig(**WIDE, sliding_window=27), False),
        (LlamaConfig(**WIDE, attn_implementation="eager"), False),
    ],
    ids=lambda value: getattr(value, "model_type", str(value)),
)
def test_prompts_are_read_as_a_forest(config: PreTrainedConfig, goes: bool) -> None:
    """Six prompts that begin alike, with at most 20 tokens and 8 of an answer: their beginning goes
    through the model once, and their last tokens alone are left for the first step. Each has the
    answer that it has alone. Not so where a layer sees less than a whole row."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    scorer = Scorer(model)
    assert scorer.packs(28) is False or reads(model)  # tries out, with passes of its own
    seen: list[tuple[int, ...]] = []
    embeddings = model.get_input_embeddings()
    with embeddings.register_forward_hook(lambda _, inputs, __: seen.append((*inputs[0].shape,))):
        found = generate_batch(model, encoder(NEVER), ALIKE, Decoding(8), packs=scorer.packs)
    distinct = len(BEGINNING) + sum(len(prompt) - 1 for prompt in PROMPTS)
    assert seen[:2] == ([(1, distinct), (6, 1)] if goes else [(6, 20), (6, 1)])
    assert len(seen) == (9 if goes else 8)
    assert found == [" ".join(map(str, greedy(model, prompt, 8))) for prompt in ALIKE]


def test_a_prompt_of_one_token_has_nothing_to_be_read() -> None:
    """Beside others it is answered as it is alone, and all are padded."""
    model = tiny_model().eval()
    packs, seen = Scorer(model).packs, list[int]()
    assert packs(17)
    embeddings = model.get_input_embeddings()
    with embeddings.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0]))):
        found = generate_batch(model, encoder(NEVER), PROMPTS, Decoding(8), packs=packs)
    assert seen == [len(PROMPTS)] * 8
    assert found == [" ".join(map(str, greedy(model, prompt, 8))) for prompt in PROMPTS]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_answers_are_greedy_whatever_the_batch(batch_size: int) -> None:
    """Prompts of different lengths in one batch get the tokens they get alone, in their order."""
    model = tiny_model().eval()
    expected = [" ".join(map(str, greedy(model, prompt, 8))) for prompt in PROMPTS]
    assert generate(model, encoder(NEVER), PROMPTS, 8, batch_size) == expected


def test_an_answer_ends_before_its_end_token() -> None:
    """Cut at the first of several end tokens, one of which is also the padding; the other rows
    of the batch go on."""
    model = tiny_model().eval()
    full = [greedy(model, prompt, 8) for prompt in PROMPTS]
    ends = (full[0][3], full[2][5])
    cut = [next((k for k, t in enumerate(ids) if t in ends), 8) for ids in full]
    assert len(set(cut)) > 1
    expected = [" ".join(map(str, ids[:k])) for ids, k in zip(full, cut, strict=True)]
    assert generate(model, encoder(*ends), PROMPTS, 8, 5) == expected


def test_it_stops_when_every_row_has_ended() -> None:
    """A row that ends at its second token costs two forward passes, not a hundred."""
    model = tiny_model().eval()
    end = greedy(model, PROMPTS[0], 2)[1]
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    generate(model, encoder(end), PROMPTS[:1], 100, 1)
    assert len(calls) <= 2


def test_settings_that_the_model_carries_are_not_used(capfd: pytest.CaptureFixture[str]) -> None:
    """Sampling, penalties and limits of the model's own generation settings change nothing, stay
    as they were, and no warning about them is printed."""
    model = tiny_model().eval()
    expected = generate(model, encoder(NEVER), PROMPTS, 8, 5)
    own = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 9.0}
    model.generation_config.update(**own, num_beams=3, max_length=4)
    assert generate(model, encoder(NEVER), PROMPTS, 8, 5) == expected
    assert model.generation_config.temperature == 0.6
    assert capfd.readouterr().err == ""


def test_answers_end_where_the_context_ends(capfd: pytest.CaptureFixture[str]) -> None:
    """A context of 128 tokens leaves 8 behind a prompt of 120, and nothing is printed."""
    model = tiny_model().eval()
    (answer,) = generate(model, encoder(NEVER), [np.full(120, 5, np.int32)], 50, 1)
    assert len(answer.split()) == 8
    assert capfd.readouterr().err == ""
