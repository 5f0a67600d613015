"""Blocks and parameters of a model, chosen by name patterns.

A pattern is a name in which `*`, `?` and `[5-7]` stand for others (fnmatch). It is checked against
the model before anything runs: on a skeleton that has the names and no weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from unlearn_cli.errors import UsageError


def blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The decoder blocks by their names, in order. Raises UsageError where there are none."""
    name, found = _block_list(model)
    return {f"{name}.{number}": block for number, block in enumerate(found)}


def find_layers(model: nn.Module, patterns: Sequence[str]) -> dict[str, str]:
    """Pattern -> the name of the one block that it means.

    Raises UsageError where a pattern means none or several; it lists the blocks that there are.
    """
    names = tuple(blocks(model))
    found = {pattern: _matches(names, pattern) for pattern in patterns}
    for pattern, matched in found.items():
        if len(matched) != 1:
            what = f"means {len(matched)} blocks ({_shown(matched)})" if matched else "means none"
            raise UsageError(
                f"the pattern {pattern!r} {what}",
                where="[method]",
                hint=f"name one block of {names[0]} to {names[-1]}",
            )
    return {pattern: matched[0] for pattern, matched in found.items()}


def find_parameters(
    model: nn.Module, patterns: Sequence[str], last: str | None = None
) -> list[str]:
    """The parameters that the patterns name, in the order of the model.

    Args:
        model: or its skeleton.
        patterns: each must name a parameter; `*` alone names all that the loss depends on.
        last: name of the block behind which the loss sees nothing; None where it sees all.

    Raises:
        UsageError: a pattern names nothing, or parameters that the loss does not depend on.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not _matches(names, pattern):
            raise UsageError(
                f"the pattern {pattern!r} names no parameter",
                where="[method].parameters",
                hint=f"there is {_shown(names)}",
            )
    chosen = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    reached = _reached(model, names, last)
    beyond = set(chosen) - reached
    if tuple(patterns) == ("*",):
        return [name for name in chosen if name in reached]
    if beyond:
        raise UsageError(
            f"the loss reads {last} and does not depend on {_shown(sorted(beyond))}",
            where="[method].parameters",
            hint="name parameters of that block and of blocks before it",
        )
    return chosen


def train_only(model: nn.Module, names: Sequence[str]) -> None:
    """Only these parameters get gradients."""
    chosen = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)


@contextmanager
def up_to(model: nn.Module, last: str | None) -> Iterator[None]:
    """Within, the model has no block behind `last`, so that a forward pass stops there; with None
    it has none at all."""
    name, found = _block_list(model)
    number = -1 if last is None else int(last.rpartition(".")[2])
    parent, _, attribute = name.rpartition(".")
    owner = model.get_submodule(parent)
    setattr(owner, attribute, found[: number + 1])
    try:
        yield
    finally:
        setattr(owner, attribute, found)


def deepest(layers: Mapping[str, str]) -> str:
    """Of the blocks that patterns mean, the one that runs last."""
    return max(layers.values(), key=lambda name: int(name.rpartition(".")[2]))


def _block_list(model: Any) -> tuple[str, nn.ModuleList]:
    count = model.config.get_text_config().num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name, module
    raise UsageError(
        f"{type(model).__name__} has no list of {count} decoder blocks",
        where="[model]",
        hint="choose a method that reads no activations",
    )


def _reached(model: nn.Module, names: Sequence[str], last: str | None) -> set[str]:
    if last is None:
        return set(names)
    prefix, _, number = last.rpartition(".")
    inside = {name: name.removeprefix(f"{prefix}.").split(".")[0] for name in names}
    embeddings: Any = model
    first = {id(p) for p in embeddings.get_input_embeddings().parameters()}
    before = {name for name, parameter in model.named_parameters() if id(parameter) in first}
    return before | {
        name for name in names if name.startswith(f"{prefix}.") and int(inside[name]) <= int(number)
    }


def _matches(names: Sequence[str], pattern: str) -> list[str]:
    return [name for name in names if fnmatchcase(name, pattern)]


def _shown(names: Sequence[str], most: int = 8) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
