"""Alternate answers that the model itself makes before unlearning.

Source: Mekala et al., Alternate Preference Optimization for Unlearning Factual Knowledge, COLING
2025, arXiv:2409.13474. The answers are drawn, those that say the same as the true one or as another
are dropped, and what is missing is drawn again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from unlearn_cli.api.data import Message, Row
from unlearn_cli.api.evaluate import Decoding
from unlearn_cli.engine.encode import Encoder
from unlearn_cli.engine.forward import Scorer
from unlearn_cli.engine.generate import Prompt, generate_batch
from unlearn_cli.engine.sharding import dealt
from unlearn_cli.errors import DataError
from unlearn_cli.spec.tables import AlternatesTable

ROUNDS = 4
"""How often a row that still lacks answers is asked again."""
BATCH = 16
"""Prompts in one batch; fixed, because the batch decides what is drawn."""


def make_alternates(
    model: Any,
    encoder: Encoder,
    rows: Sequence[Row],
    table: AlternatesTable,
    accelerator: Accelerator,
    *,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> list[tuple[str, ...]]:
    """For each row up to `table.count` different answers, none of them the true one.

    Args:
        model: as it is before unlearning.
        encoder: of its prompts.
        rows: the forget rows, each with a question or prompt.
        table: how to ask and how to draw.
        accelerator: its processes share the work.
        seed: decides the draws, the same for any number of processes.
        progress: told how many rows have all their answers.

    Raises:
        DataError: a row got no answer that differs from the true one.
    """
    prompts = [encoder.prompt(asked(row, table.prompt)) for row in rows]
    found: list[list[str]] = [[] for _ in rows]
    for number in range(ROUNDS * table.count):
        missing = [k for k, answers in enumerate(found) if len(answers) < table.count]
        if not missing:
            break
        drawn = _draw(model, encoder, prompts, missing, table, accelerator, (seed, number))
        for k in missing:
            answer = drawn[k]
            taken = {_bare(text) for text in (rows[k].answer, *rows[k].answers, *found[k])}
            if _bare(answer) and _bare(answer) not in taken:
                found[k].append(answer)
        progress(sum(len(answers) == table.count for answers in found))
    if without := [row.id for row, answers in zip(rows, found, strict=True) if not answers]:
        raise DataError(
            f"the model gives no answer but the true one to row {', '.join(without[:8])}",
            where="[alternates]",
            hint="raise alternates.temperature, or give answers with data.alternates",
        )
    return [tuple(answers) for answers in found]


def asked(row: Row, template: str) -> Row:
    """The row with its question put into the prompt that asks for another answer."""
    question = template.replace("{question}", row.question)
    if row.messages:
        return dataclasses.replace(row, messages=(*row.messages[:-1], Message("user", question)))
    return dataclasses.replace(row, prompt=question)


def read_alternates(text: str) -> list[tuple[str, ...]]:
    """What `write_alternates` wrote."""
    return [tuple(answers) for answers in json.loads(text)]


def write_alternates(choices: Sequence[Sequence[str]]) -> str:
    """JSON, a list of answers for each row."""
    return json.dumps([list(answers) for answers in choices], ensure_ascii=False, indent=1)


def _draw(
    model: Any,
    encoder: Encoder,
    prompts: Sequence[Prompt],
    rows: Sequence[int],
    table: AlternatesTable,
    accelerator: Accelerator,
    seed: tuple[int, int],
) -> dict[int, str]:
    """One answer for each of the rows; every batch has a seed of its own."""
    batches = in_batches(prompts, rows)
    decoding = Decoding(table.max_new_tokens, table.stop, samples=1, temperature=table.temperature)
    mine, packs = list[tuple[int, str]](), Scorer(model).packs
    processes, me = accelerator.num_processes, accelerator.process_index
    for (number, chosen), ours in dealt(list(enumerate(batches)), processes, me):
        with torch.random.fork_rng():
            torch.manual_seed(hash((*seed, number)) % 2**63)
            texts = generate_batch(
                model,
                encoder,
                [prompts[k] for k in chosen],
                decoding,
                packs=packs,
            )
        if ours:
            mine += zip(chosen, texts, strict=True)
    return dict(gather_object(mine))


def in_batches(prompts: Sequence[Prompt], rows: Sequence[int]) -> list[list[int]]:
    """The rows that are asked together, longest first."""
    order = sorted(rows, key=lambda k: (-len(prompts[k]), k))
    return [order[i : i + BATCH] for i in range(0, len(order), BATCH)]


def _bare(text: str) -> str:
    """The words alone: answers that differ in case or punctuation are the same."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.casefold()).split())
