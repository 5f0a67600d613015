"""Scores of answers, against the model's own forward."""

from __future__ import annotations

import numpy as np
import torch

from unlearn_cli.engine.encode import Encoded
from unlearn_cli.engine.forward import Scorer, split
from unlearn_cli.testing import made_up_rows, tiny_model


def independent_logp(model: torch.nn.Module, item: Encoded) -> torch.Tensor:
    """log p of each answer token: one row, no padding, all logits, plain indexing."""
    ids = torch.from_numpy(item.input_ids.astype(np.int64))[None]
    logp = model(ids).logits[0].log_softmax(-1)
    return torch.stack([logp[t - 1, ids[0, t]] for t in range(item.start, item.end)])


def test_scores_equal_an_independent_forward() -> None:
    """Padding, packing and the hook on the output layer change nothing: each answer token has
    the log-probability that the bare model gives it on its row alone."""
    model, rows = tiny_model().eval(), made_up_rows(7)
    scores = Scorer(model)(rows)
    for b, item in enumerate(rows):
        expected = independent_logp(model, item)
        torch.testing.assert_close(scores.token_logp[scores.row == b], expected)
        torch.testing.assert_close(scores.answer_logp[b], expected.sum())
        torch.testing.assert_close(scores.answer_mean_logp[b], expected.mean())


def test_logits_are_made_at_answer_positions_only() -> None:
    """The output layer sees N rows, one for each answer token, not one for each position."""
    model, rows = tiny_model(), made_up_rows(4)
    Scorer(model)(rows)  # the first pass of a model tries out more
    seen = []
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda _, inputs, output: seen.append(output.shape[:-1].numel()))
    scores = Scorer(model)(rows)
    assert seen == [sum(row.end - row.start for row in rows)] == [len(scores.token_logp)]


def test_the_model_is_left_as_it_was() -> None:
    """After scoring, the model's own forward gives logits for every position again."""
    model = tiny_model()
    Scorer(model)(made_up_rows(2))
    assert model(torch.tensor([[3, 4, 5]])).logits.shape[:2] == (1, 3)


def test_split_scores_undo_stacking() -> None:
    """Two groups scored in one pass have the scores of two passes."""
    model, rows = tiny_model().eval(), made_up_rows(6)
    together = split(Scorer(model)(rows), [rows[:3], rows[3:]])
    for part, items in zip(together, (rows[:3], rows[3:]), strict=True):
        alone = Scorer(model)(items)
        torch.testing.assert_close(part.answer_logp, alone.answer_logp)
        torch.testing.assert_close(part.logits, alone.logits, rtol=1e-4, atol=1e-5)
        assert part.row.tolist() == alone.row.tolist()
