"""A forest of rows: what it shares, and that a model reads it as it reads the rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from unlearn_cli.engine import pack
from unlearn_cli.engine.encode import Encoded
from unlearn_cli.engine.forward import Scorer
from unlearn_cli.engine.pack import SHARED, attention, plant
from unlearn_cli.testing import tiny_model

BEGIN = list(range(3, 23))
ROWS = [
    [*BEGIN, 30, 31, 32],
    [*BEGIN, *range(40, 52), 7, 8],
    [*BEGIN, *range(40, 52), 9],
    [*BEGIN, 30, 31, 32],
    [1, 2, 3, 4, 5],
    BEGIN,
]
SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}
WIDE = SHAPE | {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8}


def rows(of: list[list[int]]) -> list[np.ndarray[Any, np.dtype[np.int32]]]:
    return [np.array(row, dtype=np.int32) for row in of]


def items(of: list[list[int]] = ROWS) -> list[Encoded]:
    return [Encoded(row, 3, len(row)) for row in rows(of)]


def made(config: PreTrainedConfig) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def test_a_beginning_that_rows_share_stands_once() -> None:
    """Six rows of 138 tokens: the 20 that five begin with, twelve more of two, and what is their
    own; a row that is there twice, and one that is the beginning of others, add nothing. Each row
    is found again where its places say, at its own positions."""
    forest = plant(rows(ROWS))
    assert sum(map(len, ROWS)) == 138
    assert len(forest.input_ids) == 20 + 3 + 12 + 2 + 1 + 5
    for row, places in zip(ROWS, forest.places, strict=True):
        assert forest.input_ids[places].tolist() == row
        assert forest.position_ids[places].tolist() == list(range(len(row)))


def test_little_in_common_is_not_shared() -> None:
    """Rows that part before the least number of tokens stand by themselves."""
    short = [[*range(SHARED - 1), 30], [*range(SHARED - 1), 31]]
    assert len(plant(rows(short)).input_ids) == 2 * SHARED


def test_a_token_attends_to_its_own_way_alone() -> None:
    """The one mask of an accelerator allows, for every token, as many as stand before it in its
    row, itself included."""
    forest = plant(rows(ROWS))
    mask = attention(forest, torch.device("meta")).whole
    assert mask is not None
    whole = pack._whole_mask(forest)[0, 0]
    assert whole.sum(1).tolist() == (forest.position_ids + 1).tolist()
    for places in forest.places:
        assert whole[places][:, places].tril().sum() == sum(range(len(places) + 1))


def scores_and_gradients(model: Any, packed: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
    pack._known[model] = packed
    scores = Scorer(model).score(items())
    found = torch.autograd.grad(scores.answer_mean_logp.square().mean(), list(model.parameters()))
    return scores.token_logp, list(found)


@pytest.mark.parametrize("one_mask", [False, True])
def test_scores_and_gradients_are_those_of_padded_rows(
    one_mask: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By nodes and with one mask; the model itself rounds norms and rotations to float32."""
    if one_mask:
        monkeypatch.setattr(
            "unlearn_cli.engine.pack.attention",
            lambda forest, device: pack.Attention(forest, whole=pack._whole_mask(forest)),
        )
    model = tiny_model().double()
    logp, gradients = scores_and_gradients(model, packed=True)
    expected, others = scores_and_gradients(model, packed=False)
    torch.testing.assert_close(logp, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "goes"),
    [
        (LlamaConfig(**WIDE), True),
        (Qwen3Config(**WIDE), True),
        (GemmaConfig(**WIDE), True),
        (MistralConfig(**WIDE, sliding_window=64), True),
        (GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4), True),
        (LlamaConfig(**WIDE, attn_implementation="eager"), False),
        (BloomConfig(**SHAPE | {"n_layer": 2, "n_head": 4}), False),
        (MambaConfig(**SHAPE | {"state_size": 4}), False),
    ],
    ids=lambda value: getattr(value, "model_type", str(value)),
)
def test_an_architecture_is_tried_out(config: PreTrainedConfig, goes: bool) -> None:
    """One that reads a forest as it reads rows gets one; any other, padded rows. Either way each
    row has the scores that it has alone."""
    model = made(config)
    found = Scorer(model).score(items())
    assert pack._known[model] is goes
    for number, item in enumerate(items()):
        alone = Scorer(model).score([item])
        torch.testing.assert_close(
            found.token_logp[found.row == number], alone.token_logp, rtol=1e-4, atol=1e-5
        )


def test_rows_beyond_a_window_are_padded() -> None:
    """Where a layer sees but the last 30 tokens, a row of 34 has the model's own scores."""
    model = made(MistralConfig(**WIDE, sliding_window=30))
    row = items()[1]
    found = Scorer(model).score([row, items()[2]])
    ids = torch.from_numpy(row.input_ids.astype(np.int64))[None]
    logp = model(ids).logits[0].log_softmax(-1)
    expected = torch.stack([logp[t - 1, ids[0, t]] for t in range(row.start, row.end)])
    torch.testing.assert_close(found.token_logp[found.row == 0], expected, rtol=1e-4, atol=1e-5)


class Layer(torch.nn.Module):
    """Stands in for a layer that attends."""

    is_causal = True


def test_generation_and_plain_use_are_not_touched() -> None:
    """Without a forest the attention is the library's, to the bit."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    q, k, v = torch.randn(3, 1, 2, 5, 8)
    ours, _ = pack._attend(Layer(), q, k, v, None)
    theirs, _ = sdpa_attention_forward(Layer(), q, k, v, None)
    assert torch.equal(ours, theirs)


def test_a_model_is_tried_out_without_autocast() -> None:
    """Whether a forest is read as rows are is asked in the precision of the weights: in bfloat16
    what large weights round away looks like a difference, and the answer stays for good."""
    model = made(LlamaConfig(**WIDE))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(20)
    scorer = Scorer(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            ways = scorer._try_out(True), scorer._try_out(False)
        assert not pack.alike(*ways, torch.float32)
        assert scorer.packs(tokens=10)
        assert torch.is_autocast_enabled("cpu")


def test_nodes_attend_in_float32_within_autocast() -> None:
    """On a CPU, where half precision is slower: the output is that of float32 without autocast,
    whatever of its inputs rotations have left in bfloat16."""

    forest = plant(rows(ROWS))
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, len(forest.input_ids), 8)
    value = value.bfloat16()

    def attend(value: torch.Tensor) -> torch.Tensor:
        over = attention(forest, torch.device("cpu"))
        found: torch.Tensor = pack._attend(Layer(), query, key, value, None, over)[0]
        return found

    exact = attend(value.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attend(value)
    assert found.dtype == torch.float32
    assert torch.equal(found, exact)
