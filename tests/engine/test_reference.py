"""The reference store: written piece by piece, read by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from unlearn_cli.engine.forward import Scorer
from unlearn_cli.engine.reference import Request, make_store
from unlearn_cli.testing import made_up_rows, tiny_model

ITEMS = made_up_rows(15, seed=4)
DRAWN = np.array([0, 2, 3, 7, 8, 11, 14])


def test_rows_go_through_memory_a_batch_at_a_time_and_are_found_by_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches are formed by length; what is read, in any order and twice, is what the model says of
    that row alone."""
    handed: list[int] = []
    done: list[int] = []

    def watched(scored: list[Any]) -> Any:
        handed.append(len(scored))
        return gather_object(scored)

    monkeypatch.setattr("unlearn_cli.engine.reference.gather_object", watched)
    scorer = Scorer(tiny_model())
    request = Request("forget", ITEMS, DRAWN, logits=True)
    store = make_store(
        tmp_path, [request], scorer, Accelerator(), micro_batch=3, progress=done.append
    )
    assert handed == [3, 3, 1]
    assert done == [3, 6, 7]
    rows = [14, 0, 7, 3, 3, 11]
    with torch.no_grad():
        now = scorer.score([ITEMS[row] for row in rows])
        found = store.scores("forget", rows, now)
        assert torch.allclose(found.token_logp, now.token_logp, atol=1e-5)
        assert torch.allclose(found.logits, now.logits, atol=1e-4)


def test_what_is_asked_decides_the_name_of_a_store() -> None:
    """Other rows, other tokens, another border of the answer or a distribution: another one."""
    other = made_up_rows(15, seed=5)
    asked = [
        Request("forget", ITEMS, DRAWN, logits=False),
        Request("forget", ITEMS, DRAWN, logits=True),
        Request("forget", ITEMS, DRAWN[1:], logits=False),
        Request("forget", other, DRAWN, logits=False),
        Request("retain", ITEMS, DRAWN, logits=False),
        Request("forget", ITEMS, DRAWN, False, {"k": "model.layers.0"}),
    ]
    assert len({request.fingerprint for request in asked}) == len(asked)
    assert asked[0].fingerprint == Request("forget", tuple(ITEMS), DRAWN, False).fingerprint


def test_the_size_of_a_store_is_known_before_it_is_made(tmp_path: Path) -> None:
    """Bytes of the numbers: 4 a token for log-probabilities, and 32 values of 4 for a hidden state;
    of activations every token counts."""
    scorer, accelerator = Scorer(tiny_model()), Accelerator()
    scored = Request("forget", ITEMS, DRAWN, logits=True)
    layers = Request("retain", ITEMS, DRAWN, False, {"k": "model.layers.0"})
    make_store(tmp_path, [scored, layers], scorer, accelerator, micro_batch=4)

    def stored(name: str) -> int:
        return int(np.load(tmp_path / f"{name}.npy").nbytes)

    assert scored.bytes(32, 4) == stored("forget.logp") + stored("forget.hidden")
    assert layers.bytes(32, 4) == stored("retain.layer0")
    answers = sum(ITEMS[row].end - ITEMS[row].start for row in DRAWN)
    assert scored.bytes(32, 4) == answers * (4 + 32 * 4)
