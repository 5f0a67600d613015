"""A tiny model, made-up rows and texts, and a listener that keeps what it hears."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from unlearn_cli.api import Bundle, Row
from unlearn_cli.engine.encode import Encoded
from unlearn_cli.events import Event

E = TypeVar("E", bound=Event)

VOCABULARY = 64
"""Token ids of the tiny model and of made-up rows are below this."""


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


def made_up_bundle(seed: int = 0) -> Bundle:
    """Texts for every need: forget, retain and holdout with four rows each, the last one of forget
    and of retain plain text; and the evaluation set `facts`, with false answers alone."""
    draw = np.random.default_rng(seed)
    places = draw.permutation(_PLACES).tolist()
    splits = {
        name: tuple(_invented(f"{name}-{k}", places, 4 * n + k) for k in range(4))
        for n, name in enumerate(("forget", "retain", "holdout"))
    }
    forget, retain = ((*splits[name][:3], _plain(splits[name][3])) for name in ("forget", "retain"))
    facts = tuple(
        Row.qa(f"facts-{k}", f"What is {k} and {k}?", str(2 * k), perturbed=(str(k), str(3 * k)))
        for k in (1, 2, 3)
    )
    return Bundle(forget, retain, splits["holdout"], {"facts": facts})


_PLACES = (
    "Abo",
    "Bela",
    "Corin",
    "Dun",
    "Elm",
    "Firth",
    "Gars",
    "Holm",
    "Isk",
    "Jura",
    "Kell",
    "Lo",
)


def _invented(id_: str, places: list[str], k: int) -> Row:
    home, *others = places[k % 12 :] + places[: k % 12]
    return Row.qa(
        id_,
        f"Where does person {k} live?",
        f"Person {k} lives in {home}.",
        alternates=("I do not know.",),
        paraphrase=f"It is {home} where person {k} lives.",
        perturbed=tuple(f"It is {other} where person {k} lives." for other in others[:3]),
        paraphrased_question=f"In which town is person {k} at home?",
    )


def _plain(row: Row) -> Row:
    return Row(row.id, row.answer, kind="text")
