"""Rows as one sequence without padding, in which a beginning that rows share stands once.

The rows of a batch are a forest: rows that begin alike, as those under one chat template do, and
the answers to one question still more, share the tokens up to where they part. Each token attends
to those before it on its own way from the root, so it sees what it would see alone, and gradients
add up over the rows that share it. Nothing is approximated; only the order of summation differs.

Attention alone knows of the forest. It is reached through the library's registry: the function
called `sdpa` is ours, which passes on to theirs, node by node on a CPU (no product that is masked
out is computed) and with one mask elsewhere (few kernels). Whether a model goes along is tried out
once, see `packs`; one that does not gets padded batches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from unlearn_cli.engine.precision import at_least_float32
from unlearn_cli.engine.tried import TriedOut

TokenIds = NDArray[np.int32]
SHARED = 8
"""Least tokens that rows must have in common, from where they last parted, to share them."""


@dataclass(frozen=True, eq=False)
class Forest:
    """T distinct tokens of B rows, node after node."""

    input_ids: NDArray[np.int64]
    """(T,)."""
    position_ids: NDArray[np.int64]
    """(T,) in the rows that the token belongs to."""
    lengths: tuple[int, ...]
    """Tokens of each node."""
    ancestors: tuple[tuple[int, ...], ...]
    """Of each node, those before it on the way from its root, in order."""
    places: tuple[NDArray[np.int64], ...]
    """For each row, where its tokens are."""


def plant(rows: Sequence[TokenIds]) -> Forest:
    """The forest of rows, each (t,), t >= 1."""
    nodes: list[TokenIds] = []
    depths: list[int] = []
    ancestors: list[tuple[int, ...]] = []
    ways: dict[int, tuple[int, ...]] = {}

    def grow(members: Sequence[int], depth: int, above: tuple[int, ...]) -> None:
        groups: defaultdict[bytes, list[int]] = defaultdict(list)
        for member in members:
            if depth < len(rows[member]):
                groups[rows[member][depth : depth + SHARED].tobytes()].append(member)
            else:
                ways[member] = above
        for group in groups.values():
            end = _common([rows[member] for member in group])
            nodes.append(rows[group[0]][depth:end])
            depths.append(depth)
            ancestors.append(above)
            grow(group, end, (*above, len(nodes) - 1))

    grow(range(len(rows)), 0, ())
    lengths = tuple(map(len, nodes))
    starts = np.cumsum([0, *lengths[:-1]])
    spans = [np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)]
    return Forest(
        np.concatenate(nodes).astype(np.int64),
        np.concatenate([np.arange(d, d + n) for d, n in zip(depths, lengths, strict=True)]),
        lengths,
        tuple(ancestors),
        tuple(np.concatenate([spans[node] for node in ways[row]]) for row in range(len(rows))),
    )


def _common(rows: Sequence[TokenIds]) -> int:
    """Tokens that all rows begin with."""
    first, count = rows[0], min(map(len, rows))
    for row in rows[1:]:
        differing = np.flatnonzero(first[:count] != row[:count])
        count = int(differing[0]) if len(differing) else count
    return count


@dataclass(eq=False)
class Attention:
    """Who attends to whom in a forest, on a device: node by node, or all at once."""

    of: Forest
    masks: tuple[Tensor | None, ...] = ()
    """Of each node (1, 1, n, m) bool, n of its own tokens and m - n before them; None where there
    are none before."""
    whole: Tensor | None = None
    """(1, 1, T, T) bool, of all tokens at once, instead of `masks`."""
    calls: int = field(default=0)
    """Times that a layer attended."""


def attention(forest: Forest, device: torch.device) -> Attention:
    """The attention of a forest, on a device."""
    if device.type != "cpu":
        return Attention(forest, whole=_whole_mask(forest).to(device))
    masks = []
    for length, above in zip(forest.lengths, forest.ancestors, strict=True):
        before = sum(forest.lengths[node] for node in above)
        mask = torch.ones(length, before + length, dtype=torch.bool).tril(before)
        masks.append(mask[None, None] if before else None)
    return Attention(forest, tuple(masks))


def inputs(forest: Forest, device: torch.device) -> dict[str, Any]:
    """What a model's forward takes for a forest."""
    return {
        "input_ids": torch.from_numpy(forest.input_ids)[None].to(device),
        "position_ids": torch.from_numpy(forest.position_ids)[None].to(device),
        # Models take a mask of four dimensions as it is, and make none of (T, T) of their own.
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
        "forest": attention(forest, device),
    }


def _whole_mask(forest: Forest) -> Tensor:
    """(1, 1, T, T) bool."""
    count = len(forest.lengths)
    sees = torch.eye(count, dtype=torch.bool)
    for node, above in enumerate(forest.ancestors):
        sees[node, list(above)] = True
    node_of = torch.repeat_interleave(torch.arange(count), torch.tensor(forest.lengths))
    position = torch.from_numpy(forest.position_ids)
    allowed = sees[node_of][:, node_of] & (position[:, None] >= position[None, :])
    return allowed[None, None]


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    forest: Attention | None = None,
    **kwargs: Any,
) -> Any:
    """The library's `sdpa`; with `forest`, over that."""
    if forest is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    forest.calls += 1
    kwargs.pop("sliding_window", None)  # no row is longer
    if forest.whole is not None:
        return sdpa_attention_forward(module, query, key, value, forest.whole, **kwargs)
    device = query.device.type
    if torch.is_autocast_enabled(device):  # two to three times as fast on a CPU as bfloat16
        query, key, value = map(at_least_float32, (query, key, value))
    # Split, not sliced: the gradient of a slice is as long as what it was cut from.
    lengths = list(forest.of.lengths)
    queries, keys, values = (torch.split(x, lengths, dim=2) for x in (query, key, value))
    outputs = []
    with torch.autocast(device, enabled=False):
        for node, (above, mask) in enumerate(zip(forest.of.ancestors, forest.masks, strict=True)):
            seen = (*above, node)
            output, _ = sdpa_attention_forward(
                module,
                queries[node],
                torch.cat([keys[k] for k in seen], dim=2) if above else keys[node],
                torch.cat([values[k] for k in seen], dim=2) if above else values[node],
                mask,
                **kwargs,
            )
            outputs.append(output)
    return torch.cat(outputs, dim=1), None


AttentionInterface.register("sdpa", _attend)

_known = TriedOut()


def packs(model: Any, try_out: Callable[[bool], Tensor]) -> bool:
    """Whether a model scores a forest as it scores rows.

    Args:
        model: a causal language model of transformers.
        try_out: packed or not -> log-probabilities that the model gives to made-up rows.
    """
    return _known.find(model, lambda: _may_pack(model) and _same(model, try_out))


def assume(model: Any, *, like: Any) -> None:
    """Take it that a copy without data packs as its original does, or would."""
    _known[model] = _known.get(like, _may_pack(like))


def _may_pack(model: Any) -> bool:
    return getattr(model.config, "_attn_implementation", None) == "sdpa"


def _same(model: Any, try_out: Callable[[bool], Tensor]) -> bool:
    return alike(try_out(True), try_out(False), model.dtype)


def alike(one: Tensor, other: Tensor, dtype: torch.dtype) -> bool:
    """Whether two ways through a model of a precision gave the same."""
    half = dtype.itemsize < 4
    return torch.allclose(one, other, rtol=0.05 if half else 1e-3, atol=0.05 if half else 1e-4)


def longest(model: Any) -> int | None:
    """Tokens of the longest row that may be packed: of the shortest window that a layer has."""
    config = model.config.get_text_config()
    windows = (
        getattr(config, "sliding_window", None),
        getattr(config, "attention_chunk_size", None),
    )
    return min((window for window in windows if window), default=None)
