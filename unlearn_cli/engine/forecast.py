"""What a run will take, before any model is loaded: bytes at their peak, and seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from unlearn_cli.engine import memory
from unlearn_cli.engine.encode import Encoder
from unlearn_cli.engine.estimate import Estimate
from unlearn_cli.engine.models import weight_dtype
from unlearn_cli.engine.session import Session
from unlearn_cli.engine.speed import measure
from unlearn_cli.engine.stages import Stage, Stages
from unlearn_cli.engine.work import Work

MIB, GIB = 2**20, 2**30


@dataclass(frozen=True)
class Forecast:
    """Of one run; bytes on the device that computes, of one process."""

    step: Estimate
    """Of unlearning."""
    micro_batch: int
    """Rows in one forward pass."""
    libraries: int
    """Bytes of Python, its libraries and the rows; 0 on an accelerator."""
    reference: int
    """Bytes of the reference store on disk."""
    stages: tuple[Stage, ...]
    """In the order of the run. What is in the cache takes nothing: a run tells when it sees it."""

    @property
    def highest(self) -> Stage:
        """The stage that needs the most memory."""
        return max(self.stages, key=lambda stage: stage.memory or 0)

    @property
    def peak(self) -> int:
        """Bytes at the peak of the run."""
        return self.libraries + (self.highest.memory or 0)

    @property
    def seconds(self) -> float:
        """Of all stages whose time is known."""
        return sum(stage.seconds or 0.0 for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """For programs: `peak` and `seconds` too."""
        return asdict(self) | {"peak": self.peak, "seconds": self.seconds}

    def lines(self) -> Iterator[str]:
        """For people."""
        step = self.step
        parts = {
            "weights": step.weights,
            "gradients": step.gradients,
            "optimizer": step.optimizer,
            "activations": step.activations,
            "logits": step.logits,
            "sharpness or noise": step.smoothing,
            "Python and its libraries": self.libraries,
        }
        told = ", ".join(f"{name} {size / MIB:,.0f}" for name, size in parts.items() if size)
        rows = f"micro-batches of {self.micro_batch} rows"
        yield f"memory: about {self.peak / GIB:.2f} GiB; the most in: {self.highest.title}"
        yield f"a step of unlearning, with {rows}, in MiB: {told}"
        yield f"disk: reference store {self.reference / MIB:,.1f} MiB"
        yield from map(self._line, self.stages)
        yield (
            f"time: about {self.seconds / 60:.2g} min, {step.seconds:.2g} s a step, if answers "
            "become as long as they may and nothing is in the cache"
        )

    def _line(self, stage: Stage) -> str:
        if stage.memory is None or stage.seconds is None:
            return f"{stage.title}: not foreseen ({stage.unknown})"
        much = f"{stage.count} {stage.unit}, " if stage.count else ""
        size = (self.libraries + stage.memory) / GIB
        return f"{stage.title}: {much}{size:.2f} GiB, {stage.seconds / 60:.2g} min"


def forecast(session: Session, work: Work, skeleton: Any, encoder: Encoder) -> Forecast:
    """What a run will take, from a skeleton of its model.

    Raises:
        UnforeseenError: the method looks at values.
    """
    spec, device = session.spec, session.device
    dtype, half = weight_dtype(spec.model, device), spec.train.mixed_precision != "no"
    speed = measure(device, torch.bfloat16 if half else dtype)
    stages = Stages(session, work, skeleton.to(dtype), encoder, speed)
    every = tuple(stages)  # which loads most libraries that the run will load, so they are counted
    memory.give_back()
    width = skeleton.get_output_embeddings().weight.shape[1]
    return Forecast(
        step=stages.step,
        micro_batch=stages.micro_batch,
        libraries=memory.used(device) if device.type == "cpu" else 0,
        reference=sum(r.bytes(width, dtype.itemsize) for r in work.requests(spec)),
        stages=every,
    )
