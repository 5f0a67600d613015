"""The reference pass: what the model before its first update says of the rows that will be drawn.

The reference of NPO, DPO and the KL retain term is the model itself before training, and the plan
says which rows will be drawn. So the model scores them once, and no second model is kept: for a
log-probability 4 bytes a token, for a whole distribution the hidden state (d values a token) that a
frozen copy of the output layer turns back into logits, for activations d values a token and layer.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from unlearn_cli.api.hidden import Hidden
from unlearn_cli.api.scores import Scores
from unlearn_cli.engine.encode import Encoded
from unlearn_cli.engine.forward import Scorer
from unlearn_cli.engine.memory import fitting
from unlearn_cli.engine.models import writing
from unlearn_cli.engine.precision import at_least_float32
from unlearn_cli.engine.sequences import Indices, Sequences, edges_of
from unlearn_cli.engine.sharding import dealt, is_sharded, whole
from unlearn_cli.errors import RunError

Arrays = dict[str, Any]
"""Name -> array, of one row."""


@dataclass(frozen=True, eq=False)
class Request:
    """Rows of one stream that need a reference."""

    stream: str
    items: Sequence[Encoded]
    rows: Indices
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
        found = hashlib.sha256(repr((self.stream, self.logits, self.layers)).encode())
        items = Sequences.of(self.items)
        for array in (self.rows, items.start, items.end, items.edges, items.input_ids):
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()

    @property
    def lengths(self) -> Indices:
        """(R,) positions of each row that are stored: answer tokens, or with `layers` all."""
        items = Sequences.of(self.items)
        return (items.lengths if self.layers else items.answers)[self.rows]

    def bytes(self, hidden_size: int, itemsize: int) -> int:
        """Size of the store on disk."""
        if self.layers:
            position = len(self.layers) * hidden_size * 4
        else:
            position = 4 + (hidden_size * itemsize if self.logits else 0)
        return int(self.lengths.sum()) * position


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
    now = whole(parameter).detach()
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
        self.rows, self.offsets = self._array("rows"), self._array("offsets")

    def _array(self, what: str) -> Any:
        return _load(self.folder / f"{self.name}.{what}.npy")

    def read(self, what: str, rows: Sequence[int]) -> Tensor:
        array, places = self._array(what), np.searchsorted(self.rows, rows)
        parts = [array[self.offsets[k] : self.offsets[k + 1]] for k in places]
        values = torch.from_numpy(np.concatenate(parts))
        return values.view(torch.bfloat16) if values.dtype == torch.int16 else values


def _load(path: Path) -> Any:
    """An array, memory-mapped; RunError where it is none of numbers: objects are pickles."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        what = f"is no array that the reference pass wrote ({error})"
        hint = f"delete {path.parent}: it is made again"
        raise RunError(what, where=str(path), hint=hint) from error


def make_store(
    folder: Path,
    requests: Sequence[Request],
    scorer: Scorer,
    accelerator: Accelerator,
    *,
    micro_batch: int,
    progress: Callable[[int], None] = lambda done: None,
) -> ReferenceStore:
    """Run the reference pass, sharded over all processes, and open the store."""
    head = _head(requests, scorer)
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
    done = 0
    for request in requests:
        writer = _Writer(folder, request) if accelerator.is_main_process else None
        for scored in _score(request, scorer, head, accelerator, micro_batch):
            if writer is not None:
                writer.write(scored)
            done += len(scored)
            progress(done)
    accelerator.wait_for_everyone()
    return ReferenceStore(folder, head)


def open_store(folder: Path, requests: Sequence[Request], scorer: Scorer) -> ReferenceStore:
    """The store that `make_store` made of the same model."""
    return ReferenceStore(folder, _head(requests, scorer))


def _head(requests: Sequence[Request], scorer: Scorer) -> FrozenHead | None:
    return FrozenHead(scorer.model) if any(request.logits for request in requests) else None


Scored = list[tuple[int, Arrays]]
"""Rows, each with what the model said of it."""


def _score(
    request: Request,
    scorer: Scorer,
    head: FrozenHead | None,
    accelerator: Accelerator,
    micro_batch: int,
) -> Iterator[Scored]:
    """What the model says of the rows, a batch of each process at a time."""
    lengths = Sequences.of(request.items).lengths[request.rows]
    by_length = request.rows[np.argsort(lengths, kind="stable")]
    starts = range(0, len(by_length), micro_batch)

    def say(items: list[Encoded]) -> list[Arrays]:
        if request.layers:
            return _activations(scorer, items, request.layers)
        return _scores(scorer, items, head if request.logits else None)

    for start, ours in dealt(starts, accelerator.num_processes, accelerator.process_index):
        rows = by_length[start : start + micro_batch].tolist()
        items = [request.items[row] for row in rows]
        with torch.no_grad(), accelerator.autocast():  # as in training: the first step starts here
            found = fitting(say, items, split=not is_sharded(scorer.model))
        yield gather_object([*zip(rows, found, strict=True)] if ours else [])


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


class _Writer:
    """Puts what was said of rows in its place in the files of a stream.

    They are written, not mapped: a full disk would end the process that writes to a map."""

    def __init__(self, folder: Path, request: Request) -> None:
        self.folder, self.stream, self.rows = folder, request.stream, request.rows
        self.offsets = edges_of(request.lengths)
        with writing("the reference store", folder):
            np.save(self._path("rows"), self.rows)
            np.save(self._path("offsets"), self.offsets)

    def _path(self, name: str) -> Path:
        return self.folder / f"{self.stream}.{name}.npy"

    def write(self, scored: Scored) -> None:
        """Write what was said of some rows."""
        places = np.searchsorted(self.rows, [row for row, _ in scored])
        with writing("the reference store", self.folder):
            for name, like in scored[0][1].items():
                header = self._begin(name, like)
                size = like.itemsize * math.prod(like.shape[1:])
                with self._path(name).open("r+b") as file:
                    for place, (_, arrays) in zip(places, scored, strict=True):
                        file.seek(header + int(self.offsets[place]) * size)
                        file.write(arrays[name].tobytes())

    def _begin(self, name: str, like: NDArray[Any]) -> int:
        """Make the file where it is missing; the bytes before its first number."""
        new = not self._path(name).exists()
        shape = (int(self.offsets[-1]), *like.shape[1:])
        mode: Any = "w+" if new else "r"
        return int(open_memmap(self._path(name), mode, like.dtype, shape).offset)
