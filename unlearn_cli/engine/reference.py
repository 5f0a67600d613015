"""The reference pass: what the model before its first update says of the rows that will be drawn.

The reference of NPO, DPO and the KL retain term is the model itself before training, and the plan
says which rows will be drawn. So the model scores them once, and no second model is kept: for a
log-probability 4 bytes a token, for a whole distribution the hidden state (d values a token) that a
frozen copy of the output layer turns back into logits, for activations d values a token and layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn import functional as F

from unlearn_cli.api.hidden import Hidden
from unlearn_cli.api.scores import Scores
from unlearn_cli.engine.encode import Encoded
from unlearn_cli.engine.forward import Scorer, at_least_float32
from unlearn_cli.engine.models import writing
from unlearn_cli.engine.sharding import dealt, whole
from unlearn_cli.errors import RunError

Arrays = dict[str, Any]
"""Name -> array, of one row."""


@dataclass(frozen=True)
class Request:
    """Rows of one stream that need a reference."""

    stream: str
    items: Sequence[Encoded]
    rows: Sequence[int]
    """Indices of the items that the plan draws, ascending."""
    logits: bool
    """Whether the distribution is needed, or only the log-probabilities of the answer."""
    layers: Mapping[str, str] = field(default_factory=dict)
    """Where activations are needed rather than scores: key -> name of the block."""

    @property
    def what(self) -> str:
        """What is stored, in words."""
        if self.layers:
            return f"activations of {', '.join(self.layers.values())}"
        return "hidden states and log-probabilities" if self.logits else "log-probabilities"

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what is asked."""
        found = hashlib.sha256(repr((self.stream, self.rows, self.logits, self.layers)).encode())
        for item in (self.items[row] for row in self.rows):
            found.update(repr((item.start, item.end)).encode() + item.input_ids.tobytes())
        return found.hexdigest()

    def bytes(self, hidden_size: int, itemsize: int) -> int:
        """Size of the store on disk."""
        items = [self.items[row] for row in self.rows]
        if self.layers:
            return sum(len(i.input_ids) for i in items) * len(self.layers) * hidden_size * 4
        answers = sum(item.end - item.start for item in items)
        return answers * (4 + (hidden_size * itemsize if self.logits else 0))


class FrozenHead(nn.Module):
    """The output layer as it was before training: hidden states -> logits. What will be trained is
    copied."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        head = model.get_output_embeddings()
        self.weight = _frozen(head.weight)
        bias = getattr(head, "bias", None)
        self.bias = None if bias is None else _frozen(bias)
        config = model.config
        self.cap = getattr(config, "final_logit_softcapping", None)  # Gemma
        self.scale = getattr(config, "logit_scale", 1.0) / (getattr(config, "logits_scaling", 1.0))

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, d) -> (N, V) float32."""
        logits = at_least_float32(F.linear(hidden.to(self.weight), self.weight, self.bias))
        logits = logits * self.scale
        return self.cap * torch.tanh(logits / self.cap) if self.cap else logits


def _frozen(parameter: Tensor) -> Tensor:
    now = whole(parameter.detach())
    return now.clone() if parameter.requires_grad else now


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

    def said(self, stream: str, rows: Sequence[int], like: Scores | Hidden) -> Scores | Hidden:
        """What the model said of `rows`: scores or activations, as `like`."""
        if isinstance(like, Hidden):
            return self.hidden(stream, rows, like)
        return self.scores(stream, rows, like)

    def hidden(self, stream: str, rows: Sequence[int], like: Hidden) -> Hidden:
        """Activations of the reference, packed in the order of `like`, on its device."""
        found, device = self._streams[stream], like.row.device
        layers = {
            key: found.read(f"layer{number}", rows).to(device)
            for number, key in enumerate(like.layers)
        }
        return replace(like, layers=layers)

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
    """One stream of the store: `rows` (R,), `offsets` (R + 1,), and either `logp` (N,) with
    perhaps `hidden` (N, d), or `layer0`, `layer1`, ... (P, d)."""

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
            _make_stream(folder, request, scorer, head, accelerator, micro_batch)
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
    micro_batch: int,
) -> None:
    by_length = sorted(request.rows, key=lambda row: len(request.items[row].input_ids))
    batches = [by_length[i : i + micro_batch] for i in range(0, len(by_length), micro_batch)]
    scored: dict[int, Arrays] = {}
    for rows, ours in dealt(batches, accelerator.num_processes, accelerator.process_index):
        items = [request.items[row] for row in rows]
        with torch.no_grad(), accelerator.autocast():  # as in training: the first step starts here
            found = (
                _activations(scorer, items, request.layers)
                if request.layers
                else _scores(scorer, items, head if request.logits else None)
            )
        if ours:
            scored |= zip(rows, found, strict=True)
    gathered: dict[int, Arrays] = dict(gather_object(list(scored.items())))
    if accelerator.is_main_process:
        _write_stream(folder, request, gathered)
    accelerator.wait_for_everyone()


def _scores(scorer: Scorer, items: Sequence[Encoded], head: FrozenHead | None) -> list[Arrays]:
    """For each row of the batch: log-probabilities (n,), and with `head` hidden states (n, d)."""
    scores = scorer.score(items)
    found = {"logp": scores.token_logp}
    if head is not None and scorer.hidden is not None:
        if not torch.allclose(head(scorer.hidden), scores.logits, rtol=1e-2, atol=1e-2):
            raise RunError(
                "this architecture changes its logits in a way that the reference store cannot "
                "repeat",
                where="[method].retain",
                hint='use retain = "nll"',
            )
        found["hidden"] = scorer.hidden
    return _by_row(found, scores.row, scores.rows)


def _activations(
    scorer: Scorer, items: Sequence[Encoded], layers: Mapping[str, str]
) -> list[Arrays]:
    """For each row of the batch: the outputs of each block (p, d)."""
    hidden: Any = scorer(items, layers)
    found = {f"layer{number}": hidden.layers[key] for number, key in enumerate(layers)}
    return _by_row(found, hidden.row, hidden.rows)


def _by_row(values: Mapping[str, Tensor], row: Tensor, rows: int) -> list[Arrays]:
    counts = torch.bincount(row, minlength=rows).tolist()
    parts = {name: torch.split(_raw(value.cpu()), counts) for name, value in values.items()}
    return [{name: part[k].numpy() for name, part in parts.items()} for k in range(rows)]


def _raw(values: Tensor) -> Tensor:
    """NumPy has no bfloat16: its bits are stored."""
    return values.view(torch.int16) if values.dtype == torch.bfloat16 else values


def _write_stream(folder: Path, request: Request, scored: dict[int, Arrays]) -> None:
    rows = sorted(request.rows)
    names = list(scored[rows[0]])
    lengths = [len(scored[row][names[0]]) for row in rows]
    arrays = {name: np.concatenate([scored[row][name] for row in rows]) for name in names}
    arrays |= {"offsets": np.concatenate([[0], np.cumsum(lengths)]), "rows": np.array(rows)}
    with writing("the reference store", folder):
        for name, array in arrays.items():
            np.save(folder / f"{request.stream}.{name}.npy", array)
