"""From token ids to scores of answers: the one forward pass that training and evaluation share.

Rows are padded on the right; the attention mask comes from their lengths, never from token ids, so
a pad token that equals the end token is harmless.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlearn_cli.api.hidden import Hidden
from unlearn_cli.api.scores import Scores
from unlearn_cli.engine.encode import Encoded
from unlearn_cli.engine.layers import deepest, up_to


@dataclass(frozen=True, eq=False)
class Batch:
    """B encoded rows of at most T tokens, with N answer tokens in all."""

    input_ids: Tensor
    """(B, T) int64, padded on the right."""
    attention_mask: Tensor
    """(B, T) int64, 1 up to each row's length."""
    row: Tensor
    """(N,) int64, the row of each answer token, ascending."""
    position: Tensor
    """(N,) int64, the position that predicts the answer token: its index minus one."""
    labels: Tensor
    """(N,) int64, the answer tokens."""
    tokens: int
    """Tokens without padding."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def collate(items: Sequence[Encoded], pad_id: int) -> Batch:
    """Pad rows into a batch; `pad_id` may be any token."""
    longest = max(len(item.input_ids) for item in items)
    input_ids = np.full((len(items), longest), pad_id, dtype=np.int64)
    mask = np.zeros((len(items), longest), dtype=np.int64)
    for b, item in enumerate(items):
        input_ids[b, : len(item.input_ids)] = item.input_ids
        mask[b, : len(item.input_ids)] = 1
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        attention_mask=torch.from_numpy(mask),
        row=torch.from_numpy(np.repeat(np.arange(len(items)), [i.end - i.start for i in items])),
        position=torch.from_numpy(
            np.concatenate([np.arange(i.start - 1, i.end - 1, dtype=np.int64) for i in items])
        ),
        labels=torch.from_numpy(
            np.concatenate([i.input_ids[i.start : i.end].astype(np.int64) for i in items])
        ),
        tokens=int(mask.sum()),
    )


class Scorer(nn.Module):
    """A causal language model that returns `Scores` of answers, or `Hidden` of its blocks.

    The model's own forward runs unchanged. A hook on its output layer keeps only the hidden states
    that predict an answer token, so logits (N, V) are never made for prompts or padding, and
    whatever the architecture does to its logits afterwards (soft-capping, scaling) still happens.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.hidden: Tensor | None = None
        """(N, d) hidden states that entered the output layer in the last forward pass."""

    def forward(self, batch: Batch, layers: Mapping[str, str] | None = None) -> Scores | Hidden:
        """Score the answers of a batch; with `layers`, run up to the deepest of these blocks.

        Args:
            batch: rows.
            layers: key -> name of a block.

        Returns:
            Scores, or Hidden with the key of each block; in float32 also where the model is in
            half precision.
        """
        return self._hidden(batch, layers) if layers else self.score(batch)

    def score(self, batch: Batch) -> Scores:
        """The scores of the answers."""

        def keep_answers(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            self.hidden = inputs[0][batch.row, batch.position]
            return (self.hidden[None], *inputs[1:])

        head = self.model.get_output_embeddings()
        with head.register_forward_pre_hook(keep_answers):
            output = self.model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
            )
        logits = at_least_float32(output.logits[0])
        token_logp = -F.cross_entropy(logits, batch.labels, reduction="none")
        return Scores(
            token_logp=token_logp,
            row=batch.row,
            labels=batch.labels,
            rows=len(batch.input_ids),
            make_logits=lambda: logits,
        )

    def _hidden(self, batch: Batch, layers: Mapping[str, str]) -> Hidden:
        found: dict[str, Tensor] = {}

        def keep(key: str) -> Any:
            def hook(_: nn.Module, __: Any, output: Any) -> None:  # some blocks return a tuple
                found[key] = output[0] if isinstance(output, tuple) else output

            return hook

        with up_to(self.model, deepest(layers)), ExitStack() as hooks:
            for key, name in layers.items():
                block = self.model.get_submodule(name)
                hooks.enter_context(block.register_forward_hook(keep(key)))
            self.model.get_decoder()(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
            )
        mask = batch.attention_mask.bool()
        at_answer = torch.zeros_like(mask)
        at_answer[batch.row, batch.position] = True
        return Hidden(
            layers={key: at_least_float32(found[key][mask]) for key in layers},  # not as they ran
            at_answer=at_answer[mask],
            row=mask.nonzero()[:, 0],
            rows=len(mask),
        )


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision becomes float32; float64, which tests use, stays."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def split_scores(scores: Scores, parts: int) -> list[Scores]:
    """Scores of `parts` equal groups of rows that went through one forward pass together."""
    rows = scores.rows // parts
    edges = torch.searchsorted(scores.row, torch.arange(0, scores.rows + 1, rows).to(scores.row))
    return [_slice(scores, k * rows, rows, edges[k], edges[k + 1]) for k in range(parts)]


def _slice(scores: Scores, first_row: int, rows: int, start: Tensor, end: Tensor) -> Scores:
    part = slice(int(start), int(end))
    return Scores(
        token_logp=scores.token_logp[part],
        row=scores.row[part] - first_row,
        labels=scores.labels[part],
        rows=rows,
        make_logits=lambda: scores.logits[part],
    )
