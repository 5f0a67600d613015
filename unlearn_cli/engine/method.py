"""What a method needs: asked of its parameter names, and of one call on made-up scores."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import torch

from unlearn_cli.api.scores import Scores
from unlearn_cli.errors import PluginError

STREAMS = ("forget", "alternate")
REFERENCES = {"reference": "forget", "alternate_reference": "alternate"}


@dataclass(frozen=True)
class Needs:
    """What the engine must provide to a method's `forget_loss`."""

    parameters: tuple[str, ...]
    per: Literal["row", "token"]
    """Whether the loss has one value a row or one an answer token."""
    reference_logits: bool
    """Whether it reads the logits of a reference, not only its log-probabilities."""

    @property
    def streams(self) -> tuple[str, ...]:
        """Streams that must be scored in training; the loss has its values for the first."""
        named = {REFERENCES.get(name, name) for name in self.parameters}
        return tuple(stream for stream in STREAMS if stream in named)

    @property
    def alternates(self) -> bool:
        """Needs alternate answers."""
        return "alternate" in self.streams

    @property
    def references(self) -> tuple[str, ...]:
        """Streams whose reference scores it needs: of `forget`, `alternate`."""
        return tuple(REFERENCES[name] for name in self.parameters if name in REFERENCES)


def inspect_method(method: Any, name: str) -> Needs:
    """Ask a method what it needs.

    Raises PluginError where `forget_loss` is missing, names something that does not exist, or
    returns neither (B,) nor (N,) values.
    """
    if not callable(getattr(method, "forget_loss", None)):
        raise PluginError(f"method {name!r} has no forget_loss", hint="see docs/architecture.md")
    parameters = tuple(inspect.signature(method.forget_loss).parameters)
    known = (*STREAMS, *REFERENCES)
    if unknown := [p for p in parameters if p not in known]:
        raise PluginError(
            f"method {name!r} asks for {', '.join(unknown)}", hint=f"there is {', '.join(known)}"
        )
    probes = {parameter: _Probe.make() for parameter in parameters}
    shape = tuple(method.forget_loss(**{p: probe.scores for p, probe in probes.items()}).shape)
    if shape not in {(_Probe.ROWS,), (_Probe.TOKENS,)}:
        raise PluginError(
            f"forget_loss of method {name!r} returned shape {shape} for {_Probe.ROWS} rows with "
            f"{_Probe.TOKENS} answer tokens",
            hint="return one value a row, (B,), or one an answer token, (N,), never a mean",
        )
    logits = any(probe.asked_logits for p, probe in probes.items() if p in REFERENCES)
    return Needs(parameters, "row" if shape == (_Probe.ROWS,) else "token", logits)


class _Probe:
    """Made-up scores of 2 rows with 5 answer tokens, which remember whether logits were read."""

    ROWS, TOKENS, VOCABULARY = 2, 5, 7

    def __init__(self) -> None:
        self.asked_logits = False

    @classmethod
    def make(cls) -> _Probe:
        probe = cls()
        logits = torch.linspace(-1, 1, cls.TOKENS * cls.VOCABULARY).view(cls.TOKENS, cls.VOCABULARY)

        def ask() -> torch.Tensor:
            probe.asked_logits = True
            return logits

        labels = torch.arange(cls.TOKENS)
        probe.scores = Scores(
            token_logp=logits.log_softmax(-1)[torch.arange(cls.TOKENS), labels].requires_grad_(),
            row=torch.tensor([0, 0, 1, 1, 1]),
            labels=labels,
            rows=cls.ROWS,
            make_logits=ask,
        )
        return probe

    scores: Scores
