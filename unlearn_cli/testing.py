"""For tests, ours and those of plugin authors: a tiny model, made-up rows, event capture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from unlearn_cli.engine.encode import Encoded
from unlearn_cli.events import Event

E = TypeVar("E", bound=Event)

VOCABULARY = 64


def tiny_model(seed: int = 0, *, tied: bool = False) -> Any:
    """A Llama with random weights: 2 layers, width 32, vocabulary 64; float32 on the CPU."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def made_up_rows(count: int, seed: int = 0, longest: int = 12) -> list[Encoded]:
    """Random token ids: prompts of 1 to `longest` tokens, answers of 1 to `longest` tokens."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        prompt, answer = generator.integers(1, longest + 1, size=2).tolist()
        ids = generator.integers(3, VOCABULARY, size=prompt + answer).astype(np.int32)
        rows.append(Encoded(ids, prompt, prompt + answer))
    return rows


@dataclass
class Recorder:
    """A listener that keeps every event."""

    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        """Keep the event."""
        self.events.append(event)

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]
