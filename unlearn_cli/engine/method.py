"""What a method needs: asked of its parameter names, and of one call on made-up scores."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from unlearn_cli.api.hidden import Hidden
from unlearn_cli.api.scores import Scores
from unlearn_cli.errors import PluginError

Per = Literal["row", "token", "position"]
Of = Literal["now", "reference", "reinforced"]
"""The model in training, the same before its first update, or that tuned on the forget rows."""
STREAMS = ("forget", "alternate")


@dataclass(frozen=True)
class Parameter:
    """What a parameter of `forget_loss` stands for."""

    stream: str
    hidden: bool = False
    """Activations; otherwise scores."""
    of: Of = "now"


PARAMETERS = {
    "forget": Parameter("forget"),
    "reference": Parameter("forget", of="reference"),
    "alternate": Parameter("alternate"),
    "alternate_reference": Parameter("alternate", of="reference"),
    "reinforced": Parameter("forget", of="reinforced"),
    "hidden": Parameter("forget", hidden=True),
    "reference_hidden": Parameter("forget", hidden=True, of="reference"),
}


@dataclass(frozen=True)
class Needs:
    """What the engine must provide to a method's `forget_loss`."""

    parameters: tuple[str, ...]
    per: Per
    """Whether the loss has one value a row, an answer token, or a token."""
    reference_logits: bool = False
    """Whether it reads stored logits, not only stored log-probabilities."""
    layers: tuple[str, ...] = ()
    """Patterns of the blocks whose activations it reads."""

    @property
    def streams(self) -> tuple[str, ...]:
        """Streams that must be scored in training; the loss has its values for the first."""
        named = {PARAMETERS[name].stream for name in self.parameters}
        return tuple(stream for stream in STREAMS if stream in named)

    @property
    def alternates(self) -> bool:
        """Needs alternate answers."""
        return "alternate" in self.streams

    @property
    def references(self) -> tuple[str, ...]:
        """Streams that the reference pass must see: of `forget`, `alternate`."""
        asked = (PARAMETERS[name] for name in self.parameters)
        return tuple(parameter.stream for parameter in asked if parameter.of == "reference")

    @property
    def reinforced(self) -> bool:
        """Needs what a model says that was tuned on the forget rows."""
        return any(PARAMETERS[name].of == "reinforced" for name in self.parameters)


def inspect_method(method: Any, name: str) -> Needs:
    """Ask a method what it needs.

    Raises PluginError where `forget_loss` is missing, names something that does not exist, or
    returns values of no known shape.
    """
    if not callable(getattr(method, "forget_loss", None)):
        raise PluginError(f"method {name!r} has no forget_loss", hint="see docs/architecture.md")
    parameters = tuple(inspect.signature(method.forget_loss).parameters)
    if unknown := [p for p in parameters if p not in PARAMETERS]:
        raise PluginError(
            f"method {name!r} asks for {', '.join(unknown)}",
            hint=f"there is {', '.join(PARAMETERS)}",
        )
    layers = _layers(method, name, parameters)
    probes = {p: _Probe(layers) for p in parameters}
    given = {p: probe.hidden if layers else probe.scores for p, probe in probes.items()}
    per = _per(name, tuple(method.forget_loss(**given).shape), layers)
    logits = any(probe.asked_logits for p, probe in probes.items() if PARAMETERS[p].of != "now")
    return Needs(parameters, per, logits, layers)


def _layers(method: Any, name: str, parameters: tuple[str, ...]) -> tuple[str, ...]:
    """The patterns of a method that reads activations; a loss reads either these or scores."""
    kinds = {PARAMETERS[parameter].hidden for parameter in parameters}
    if kinds == {True, False}:
        raise PluginError(
            f"forget_loss of method {name!r} reads both activations and scores",
            hint="a model that stops at a block has no scores: choose one",
        )
    layers = tuple(getattr(method, "layers", ()))
    if kinds == {True} and not layers:
        raise PluginError(
            f"method {name!r} reads activations and has no layers",
            hint='give it a property `layers`, e.g. ("*.layers.7",)',
        )
    return layers if kinds == {True} else ()


def _per(name: str, shape: tuple[int, ...], layers: tuple[str, ...]) -> Per:
    shapes: Mapping[tuple[int, ...], Per] = {
        (_Probe.ROWS,): "row",
        (_Probe.TOKENS,): "token",
        **({(_Probe.POSITIONS,): "position"} if layers else {}),
    }
    if shape not in shapes:
        raise PluginError(
            f"forget_loss of method {name!r} returned shape {shape} for {_Probe.ROWS} rows with "
            f"{_Probe.TOKENS} answer tokens",
            hint="return one value a row, (B,), or one an answer token, (N,), never a mean",
        )
    return shapes[shape]


class _Probe:
    """Made-up scores of 2 rows with 5 answer tokens among 9 tokens; remembers whether logits were
    read."""

    ROWS, TOKENS, POSITIONS, WIDTH = 2, 5, 9, 7

    def __init__(self, layers: tuple[str, ...]) -> None:
        self.asked_logits = False
        logits = self._values(self.TOKENS)
        labels = torch.arange(self.TOKENS)

        def ask() -> torch.Tensor:
            self.asked_logits = True
            return logits

        self.scores = Scores(
            token_logp=logits.log_softmax(-1)[labels, labels].requires_grad_(),
            row=torch.tensor([0, 0, 1, 1, 1]),
            labels=labels,
            rows=self.ROWS,
            make_logits=ask,
        )
        self.hidden = Hidden(
            layers={pattern: self._values(self.POSITIONS) for pattern in layers},
            at_answer=torch.arange(self.POSITIONS) % 2 == 0,
            row=torch.tensor([0] * 4 + [1] * 5),
            rows=self.ROWS,
        )

    def _values(self, count: int) -> torch.Tensor:
        return torch.linspace(-1, 1, count * self.WIDTH).view(count, self.WIDTH)
