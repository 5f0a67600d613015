"""Scores of answers, against the model's own forward."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    OPTConfig,
    PhiConfig,
    PreTrainedConfig,
)

from tests.engine.test_pack import SHAPE, WIDE
from unlearn_cli.api.scores import Scores
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


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**WIDE),
        Gemma2Config(**WIDE, final_logit_softcapping=2.0, query_pre_attn_scalar=8),
        CohereConfig(**WIDE, logit_scale=0.25),
        GraniteConfig(**WIDE, logits_scaling=8.0),
        PhiConfig(**{k: v for k, v in WIDE.items() if k != "head_dim"}),  # its head has a bias
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4),
        OPTConfig(**SHAPE, ffn_dim=64, word_embed_proj_dim=16),
        BloomConfig(**SHAPE | {"n_layer": 2, "n_head": 4}),
        MambaConfig(**SHAPE | {"state_size": 4}),
    ],
    ids=lambda config: config.model_type,
)
def test_logits_are_looked_at_in_parts(
    config: PreTrainedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three answer tokens at a time and at once more are never in memory, whatever the architecture
    does to its logits; each has the row, the label and the logits of the whole, bit by bit or to
    the last ones of float32."""
    torch.manual_seed(0)
    model, rows = AutoModelForCausalLM.from_config(config).eval(), made_up_rows(5)
    monkeypatch.setattr("unlearn_cli.engine.forward.LOGITS_ON_CPU", 3 * 4 * 64)
    sizes = []

    def see(scores: Scores) -> dict[str, torch.Tensor]:
        sizes.append(len(scores.logits))
        return {
            "logits": scores.logits,
            "logp": scores.token_logp,
            "row": scores.row,
            "label": scores.labels,
        }

    with torch.no_grad():
        whole, found = Scorer(model).score(rows), Scorer(model).look(rows, see)
    assert sizes[:-1] == [3] * (len(whole.row) // 3)
    assert sum(sizes) == len(whole.row)
    assert found["row"].tolist() == whole.row.tolist()
    assert found["label"].tolist() == whole.labels.tolist()
    torch.testing.assert_close(found["logits"], whole.logits)
    torch.testing.assert_close(found["logp"], whole.token_logp)


def test_whole_logits_are_looked_at_where_parts_do_not_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that tells how its blocks chose experts does not run without them; each pass through
    a sharded one takes all processes. Both are asked once, for all answers."""
    config = MixtralConfig(**WIDE, num_local_experts=2, output_router_logits=True)
    torch.manual_seed(0)
    mixture, rows = AutoModelForCausalLM.from_config(config).eval(), made_up_rows(5)
    monkeypatch.setattr("unlearn_cli.engine.forward.LOGITS_ON_CPU", 3 * 4 * 64)

    def sizes(model: torch.nn.Module) -> list[int]:
        found: list[int] = []

        def see(scores: Scores) -> dict[str, torch.Tensor]:
            found.append(len(scores.logits))
            return {"logp": scores.token_logp}

        with torch.no_grad():
            logp = Scorer(model).look(rows, see)["logp"]
            torch.testing.assert_close(logp, Scorer(model).score(rows).token_logp)
        return found

    count = sum(row.end - row.start for row in rows)
    assert sizes(mixture) == [count]
    assert len(sizes(tiny_model().eval())) > 1
    monkeypatch.setattr("unlearn_cli.engine.forward.is_sharded", lambda model: True)
    assert sizes(tiny_model().eval()) == [count]


def test_the_model_is_left_as_it_was() -> None:
    """After scoring, the model's own forward gives logits for every position again."""
    model = tiny_model()
    Scorer(model)(made_up_rows(2))
    with torch.no_grad():
        Scorer(model).look(made_up_rows(2), lambda scores: {"logp": scores.token_logp})
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
