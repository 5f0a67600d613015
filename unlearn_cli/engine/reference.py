"""The reference pass: what the model before its first update says of the rows that will be drawn.

The reference of NPO, DPO and the KL retain term is the model itself before training, and the plan
says which rows will be drawn. So the model scores them once, and no second model is kept: for a
log-probability 4 bytes a token, for a whole distribution the hidden state (d values a token) that a
frozen copy of the output layer turns back into logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn import functional as F

from unlearn_cli.api.scores import Scores
from unlearn_cli.engine.encode import Encoded
from unlearn_cli.engine.forward import Batch, Scorer, at_least_float32, collate
from unlearn_cli.engine.models import writing
from unlearn_cli.errors import RunError


@dataclass(frozen=True)
class Request:
    """Rows of one stream that need a reference."""

    stream: str
    items: Sequence[Encoded]
    rows: Sequence[int]
    """Indices of the items that the plan draws, ascending."""
    logits: bool
    """Whether the distribution is needed, or only the log-probabilities of the answer."""

    @property
    def tokens(self) -> int:
        """Answer tokens to store."""
        return sum(self.items[i].end - self.items[i].start for i in self.rows)

    def bytes(self, hidden_size: int, itemsize: int) -> int:
        """Size of the store on disk."""
        return self.tokens * (4 + (hidden_size * itemsize if self.logits else 0))


class FrozenHead(nn.Module):
    """A copy of the output layer as it was before training: hidden states -> logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        head = model.get_output_embeddings()
        self.weight = head.weight.detach().clone()
        bias = getattr(head, "bias", None)
        self.bias = None if bias is None else bias.detach().clone()
        config = model.config
        self.cap = getattr(config, "final_logit_softcapping", None)  # Gemma
        self.scale = getattr(config, "logit_scale", 1.0) / (getattr(config, "logits_scaling", 1.0))

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, d) -> (N, V) float32."""
        logits = at_least_float32(F.linear(hidden.to(self.weight), self.weight, self.bias))
        logits = logits * self.scale
        return self.cap * torch.tanh(logits / self.cap) if self.cap else logits


class ReferenceStore:
    """Reference scores by stream and row, memory-mapped from disk."""

    def __init__(self, folder: Path, head: FrozenHead | None) -> None:
        self.folder, self.head = folder, head
        self._streams = {
            path.name.removesuffix(".rows.npy"): _Stream(
                folder, path.name.removesuffix(".rows.npy")
            )
            for path in folder.glob("*.rows.npy")
        }

    def scores(self, stream: str, rows: Sequence[int], like: Scores) -> Scores:
        """Reference scores of `rows`, packed in the order of `like`, on its device, without
        gradient."""
        found = self._streams[stream]
        device = like.token_logp.device
        head = self.head

        def logits() -> Tensor:
            assert head is not None  # noqa: S101 - the plan asked for hidden states
            with torch.no_grad():
                return head(found.read("hidden", rows).to(device))  # type: ignore[no-any-return]

        return Scores(
            token_logp=found.read("logp", rows).to(device),
            row=like.row,
            labels=like.labels,
            rows=like.rows,
            make_logits=logits,
        )


class _Stream:
    """One stream of the store: `rows` (R,), `offsets` (R + 1,), `logp` (N,), `hidden` (N, d)."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.where = {int(row): k for k, row in enumerate(np.load(folder / f"{name}.rows.npy"))}
        self.offsets = np.load(folder / f"{name}.offsets.npy")

    def read(self, what: str, rows: Sequence[int]) -> Tensor:
        array = np.load(self.folder / f"{self.name}.{what}.npy", mmap_mode="r")
        parts = [
            array[self.offsets[self.where[row]] : self.offsets[self.where[row] + 1]] for row in rows
        ]
        values = torch.from_numpy(np.concatenate(parts))
        return values.view(torch.bfloat16) if values.dtype == torch.int16 else values


def make_store(
    folder: Path,
    requests: Sequence[Request],
    scorer: Scorer,
    accelerator: Accelerator,
    *,
    pad_id: int,
    micro_batch: int,
    progress: Callable[[int], None] = lambda done: None,
) -> ReferenceStore:
    """Run the reference pass, sharded over all processes, and open the store.

    A complete store (marked by the file `complete`, which is written last) is not made again.
    """
    head = FrozenHead(scorer.model) if any(request.logits for request in requests) else None
    if not (folder / "complete").exists():
        if accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
        done = 0
        for request in requests:
            _make_stream(folder, request, scorer, head, accelerator, pad_id, micro_batch)
            done += len(request.rows)
            progress(done)
        if accelerator.is_main_process:
            (folder / "complete").touch()
        accelerator.wait_for_everyone()
    return ReferenceStore(folder, head)


def _make_stream(
    folder: Path,
    request: Request,
    scorer: Scorer,
    head: FrozenHead | None,
    accelerator: Accelerator,
    pad_id: int,
    micro_batch: int,
) -> None:
    by_length = sorted(request.rows, key=lambda row: len(request.items[row].input_ids))
    batches = [by_length[i : i + micro_batch] for i in range(0, len(by_length), micro_batch)]
    mine = batches[accelerator.process_index :: accelerator.num_processes]
    scored: dict[int, tuple[Any, Any]] = {}
    for rows in mine:
        batch = collate([request.items[row] for row in rows], pad_id).to(accelerator.device)
        found = _score(scorer, batch, head if request.logits else None, accelerator)
        scored |= zip(rows, found, strict=True)
    gathered: dict[int, tuple[Any, Any]] = dict(gather_object(list(scored.items())))
    if accelerator.is_main_process:
        _write_stream(folder, request, gathered)
    accelerator.wait_for_everyone()


@torch.no_grad()
def _score(
    scorer: Scorer, batch: Batch, head: FrozenHead | None, accelerator: Accelerator
) -> Iterable[tuple[Any, Any]]:
    """For each row of the batch: log-probabilities (n,) and hidden states (n, d) or None."""
    with accelerator.autocast():  # as in training, so that the first step starts at the reference
        scores = scorer(batch)
    counts = torch.bincount(batch.row, minlength=scores.rows).tolist()
    logp = [part.cpu().numpy() for part in torch.split(scores.token_logp, counts)]
    if head is None or scorer.hidden is None:
        return [(part, None) for part in logp]
    if not torch.allclose(head(scorer.hidden), scores.logits, rtol=1e-2, atol=1e-2):
        raise RunError(
            "this architecture changes its logits in a way that the reference store cannot repeat",
            where="[method].retain",
            hint='use retain = "nll"',
        )
    hidden = scorer.hidden.cpu()
    raw = hidden.view(torch.int16) if hidden.dtype == torch.bfloat16 else hidden
    return list(zip(logp, (part.numpy() for part in torch.split(raw, counts)), strict=True))


def _write_stream(folder: Path, request: Request, scored: dict[int, tuple[Any, Any]]) -> None:
    rows = sorted(request.rows)
    lengths = [len(scored[row][0]) for row in rows]
    arrays = {
        "offsets": np.concatenate([[0], np.cumsum(lengths)]),
        "logp": np.concatenate([scored[row][0] for row in rows]),
        "rows": np.array(rows),
    }
    if request.logits:
        arrays["hidden"] = np.concatenate([scored[row][1] for row in rows])
    with writing("the reference store", folder):
        for name, array in arrays.items():
            np.save(folder / f"{request.stream}.{name}.npy", array)
