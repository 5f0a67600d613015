"""From token ids to scores of answers: the one forward pass that training and evaluation share.

Rows go through the model as a forest (see `pack`) where it can read one. Else they are padded on
the right; the attention mask comes from their lengths, never from token ids, so any pad token does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from unlearn_cli.api.hidden import Hidden
from unlearn_cli.api.scores import Scores
from unlearn_cli.engine.encode import Encoded
from unlearn_cli.engine.generate import evaluating
from unlearn_cli.engine.layers import deepest, up_to
from unlearn_cli.engine.pack import inputs, longest, packs, plant
from unlearn_cli.engine.precision import at_least_float32
from unlearn_cli.engine.sharding import is_sharded
from unlearn_cli.engine.tried import TriedOut

PAD = 0
LOGITS_ON_CPU, LOGITS_ELSEWHERE = 24 * 2**20, 512 * 2**20
"""Bytes of the logits that are looked at at once: on a CPU few enough for the C library to keep and
use again (see `memory.LARGE`), elsewhere enough to keep the device busy."""


@dataclass(frozen=True, eq=False)
class Batch:
    """B encoded rows of P tokens in all, with N answer tokens, as a model takes them."""

    inputs: Mapping[str, Any]
    """What the model's forward takes. It gives hidden states of which the first two dimensions,
    flattened, are called places."""
    rows: int
    """B."""
    token_row: Tensor
    """(P,) int64, the row of each token, ascending."""
    token_place: Tensor
    """(P,) int64, where it is."""
    at_answer: Tensor
    """(P,) bool, whether it predicts an answer token of its row."""
    row: Tensor
    """(N,) int64, the row of each answer token, ascending."""
    place: Tensor
    """(N,) int64, the place that predicts the answer token: that of the token before it."""
    labels: Tensor
    """(N,) int64, the answer tokens."""


def collate(items: Sequence[Encoded], device: torch.device, *, packed: bool) -> Batch:
    """Rows as a forest, or padded."""
    taken, places = (_packed if packed else _padded)(items, device)
    lengths = [len(item.input_ids) for item in items]
    answers = [item.end - item.start for item in items]

    def put(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    order = np.arange(len(items))
    pairs = list(zip(items, places, strict=True))
    labels = np.concatenate([item.input_ids[item.start : item.end] for item in items])
    return Batch(
        taken,
        rows=len(items),
        token_row=put(np.repeat(order, lengths)),
        token_place=put(np.concatenate(places)),
        at_answer=put(np.concatenate([_at_answer(item) for item in items])),
        row=put(np.repeat(order, answers)),
        place=put(np.concatenate([at[item.start - 1 : item.end - 1] for item, at in pairs])),
        labels=put(labels.astype(np.int64)),
    )


def _at_answer(item: Encoded) -> NDArray[np.bool_]:
    place = np.arange(len(item.input_ids))
    return (place >= item.start - 1) & (place < item.end - 1)


Inputs = tuple[dict[str, Any], Sequence[NDArray[np.int64]]]
"""What a model's forward takes, and for each row the places of its tokens."""


def _packed(items: Sequence[Encoded], device: torch.device) -> Inputs:
    forest = plant([item.input_ids for item in items])
    return inputs(forest, device), forest.places


def _padded(items: Sequence[Encoded], device: torch.device) -> Inputs:
    longest_row = max(len(item.input_ids) for item in items)
    input_ids = np.full((len(items), longest_row), PAD, dtype=np.int64)
    mask = np.zeros((len(items), longest_row), dtype=np.int64)
    for b, item in enumerate(items):
        input_ids[b, : len(item.input_ids)] = item.input_ids
        mask[b, : len(item.input_ids)] = 1
    arrays = {"input_ids": input_ids, "attention_mask": mask}
    taken = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    return taken, [b * longest_row + np.arange(n) for b, n in enumerate(mask.sum(1))]


See = Callable[[Scores], Mapping[str, Tensor]]
"""Scores of n answer tokens -> values (n,) by name."""


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

    def forward(
        self, items: Sequence[Encoded], layers: Mapping[str, str] | None = None
    ) -> Scores | Hidden:
        """Score the answers of rows; with `layers`, run up to the deepest of these blocks.

        Args:
            items: B rows.
            layers: key -> name of a block.

        Returns:
            Scores, or Hidden with the key of each block; in float32 also where the model is in
            half precision.
        """
        batch = self._collated(items)
        return self._hidden(batch, layers) if layers else self._score(batch)

    def score(self, items: Sequence[Encoded]) -> Scores:
        """The scores of the answers."""
        scores = self(items)
        assert isinstance(scores, Scores)  # noqa: S101 - narrows the type: no layers were named
        return scores

    def look(self, items: Sequence[Encoded], see: See) -> dict[str, Tensor]:
        """What is to be seen in the scores of answers, looked at part by part, so that the logits
        of all of them, which take far more memory than anything else, are never there at once; but
        where the model is sharded, or does not run without its blocks. Without gradients.

        Args:
            items: rows, N answer tokens in all.
            see: what is to be seen.

        Returns:
            Values (N,) by name.
        """
        # Each pass through a sharded model takes all processes, which have different answers.
        if is_sharded(self.model) or not self._in_parts:
            return dict(see(self.score(items)))
        batch = self._collated(items)
        with self._head_gets(lambda states: self._answers(states, batch)[:, :1]):
            self.model(**batch.inputs, use_cache=False)
        hidden, found = self.hidden, list[Mapping[str, Tensor]]()
        assert hidden is not None  # noqa: S101 - narrows the type
        for start in range(0, len(hidden), self._at_once):
            part = slice(start, start + self._at_once)
            states = hidden[None, part]
            with self._head_gets(lambda _, states=states: states):  # type: ignore[misc]
                output = _without_blocks(self.model)
            found.append(see(_scores(batch, output, part)))
        return {name: torch.cat([one[name] for one in found]) for name in found[0]}

    @property
    def _in_parts(self) -> bool:
        """Whether the model runs without its blocks: some tell what these did."""
        return _in_parts.find(self.model, self._run_without_blocks)

    def _run_without_blocks(self) -> bool:
        with evaluating(self.model):
            # With them first: the library hooks itself to blocks in a model's first pass.
            self.score([Encoded(np.arange(3, dtype=np.int32), 1, 3)])
            _without_blocks(self.model)
        return True

    @property
    def _at_once(self) -> int:
        """Answer tokens whose logits are looked at together."""
        limit = LOGITS_ON_CPU if self.model.device.type == "cpu" else LOGITS_ELSEWHERE
        vocabulary: int = self.model.config.get_text_config().vocab_size
        return max(1, limit // (4 * vocabulary))

    def packs(self, tokens: int) -> bool:
        """Whether rows of so many tokens go through the model as a forest."""
        most = longest(self.model)
        fits = most is None or tokens <= most
        # Tried out first: where the model is sharded, all processes do so in the same pass.
        return packs(self.model, self._try_out) and fits

    def _collated(self, items: Sequence[Encoded]) -> Batch:
        tokens = max(len(item.input_ids) for item in items)
        return collate(items, self.model.device, packed=self.packs(tokens))

    def _try_out(self, packed: bool) -> Tensor:
        """Log-probabilities of made-up answers, three of them to one prompt; raises where not every
        block attended as it should."""
        ids = np.arange(40, dtype=np.int32) % self.model.get_input_embeddings().num_embeddings
        rows = [np.concatenate([ids[:20], ids[k : k + 9]]) for k in (20, 24, 31)] + [ids[5:18]]
        batch = collate(
            [Encoded(row, 3, len(row)) for row in rows], self.model.device, packed=packed
        )
        with evaluating(self.model):
            found = self._score(batch).token_logp
        blocks = self.model.config.get_text_config().num_hidden_layers
        if packed and batch.inputs["forest"].calls != blocks:
            raise ValueError("not every block attends")
        return found

    def _score(self, batch: Batch) -> Scores:
        with self._head_gets(lambda states: self._answers(states, batch)):
            output = self.model(**batch.inputs, use_cache=False)
        return _scores(batch, output, slice(None))

    def _answers(self, states: Tensor, batch: Batch) -> Tensor:
        """(1, N, d), which are kept."""
        self.hidden = states.flatten(0, 1)[batch.place]
        return self.hidden[None]

    @contextmanager
    def _head_gets(self, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Within, the hidden states that enter the output layer are changed before they do."""

        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return (change(inputs[0]), *inputs[1:])

        with self.model.get_output_embeddings().register_forward_pre_hook(hook):
            yield

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
            # One place is enough for an output layer whose logits nobody reads.
            hooks.enter_context(self._head_gets(lambda states: states[:1, :1]))
            self.model(**batch.inputs, use_cache=False)
        states = {key: found[key].flatten(0, 1)[batch.token_place] for key in layers}
        return Hidden(
            layers={key: at_least_float32(state) for key, state in states.items()},
            at_answer=batch.at_answer,
            row=batch.token_row,
            rows=batch.rows,
        )


_in_parts = TriedOut()


def _without_blocks(model: Any) -> Any:
    """The output for one token that goes from the embedding to the output layer at once."""
    token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    with up_to(model, None):
        return model(input_ids=token, use_cache=False)


def _scores(batch: Batch, output: Any, part: slice) -> Scores:
    """Of some answer tokens, from the model's output for these."""
    logits, labels = at_least_float32(output.logits[0]), batch.labels[part]
    token_logp = -F.cross_entropy(logits, labels, reduction="none")
    return Scores(token_logp, batch.row[part], labels, batch.rows, make_logits=lambda: logits)


def split(seen: Scores | Hidden, groups: Sequence[Sequence[Encoded]]) -> list[Any]:
    """What was said of groups of rows that went through one forward pass, one after another."""
    tokens = [[_entries(seen, item) for item in group] for group in groups]
    first = np.cumsum([0, *map(len, groups)]).tolist()
    edges = np.cumsum([0, *map(sum, tokens)]).tolist()
    slice_of = _slice_scores if isinstance(seen, Scores) else _slice_hidden
    return [
        slice_of(seen, first[k], len(group), slice(edges[k], edges[k + 1]))  # type: ignore[arg-type]
        for k, group in enumerate(groups)
    ]


def _entries(seen: Scores | Hidden, item: Encoded) -> int:
    """Of one row, in scores or in activations."""
    return item.end - item.start if isinstance(seen, Scores) else len(item.input_ids)


def _slice_scores(scores: Scores, first_row: int, rows: int, part: slice) -> Scores:
    return Scores(
        token_logp=scores.token_logp[part],
        row=scores.row[part] - first_row,
        labels=scores.labels[part],
        rows=rows,
        make_logits=lambda: scores.logits[part],
    )


def _slice_hidden(hidden: Hidden, first_row: int, rows: int, part: slice) -> Hidden:
    return Hidden(
        layers={key: state[part] for key, state in hidden.layers.items()},
        at_answer=hidden.at_answer[part],
        row=hidden.row[part] - first_row,
        rows=rows,
    )
