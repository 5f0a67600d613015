"""Checkpoints: written beside their final name and renamed, checked by their hashes when read.

`step-N/` holds the model, or its adapter, as `save_pretrained` writes it (so that it can be
evaluated by itself), `optimizer.pt` (read with torch's weights-only loader: no file can run code),
`state.json`, and `hashes.json`, which is written last. `evaluated.json` comes later, where what is
due after the step has been evaluated.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unlearn_cli.engine.models import replace_folder, write_weights, writing
from unlearn_cli.engine.seal import add, added, check, seal
from unlearn_cli.errors import RunError

EVALUATED = "evaluated.json"


@dataclass(frozen=True)
class State:
    """Where a training stood."""

    step: int
    scheduler: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)
    """State of the fp16 loss scaler."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Weights of the terms in the next step."""
    micro_batch: int | None = None
    """Rows in one forward pass since memory ran out; None where it did not."""


class Checkpoints:
    """The checkpoints of one training, in one folder."""

    def __init__(self, folder: Path, keep: int = 1, *, higher_is_better: bool = True) -> None:
        self.folder, self.keep, self.higher_is_better = folder, keep, higher_is_better

    def save(
        self,
        state: State,
        model: Any,
        tokenizer: Any,
        optimizer: Mapping[str, Any],
        weights: dict[str, Tensor] | None = None,
    ) -> Path:
        """Write a checkpoint, then delete those that `keep` and `best` do not ask for.

        `weights` is the state of a sharded model, as `whole_weights` gives it. What is written does
        not tell how many processes there were.
        """
        final = self.folder / f"step-{state.step}"
        partial = self.folder / f".step-{state.step}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            with writing("the checkpoint", final):
                partial.mkdir(parents=True)
                write_weights(model, partial, weights)
                tokenizer.save_pretrained(partial)
                with (partial / "optimizer.pt").open("wb") as file:
                    torch.save(dict(optimizer), file)
                (partial / "state.json").write_text(json.dumps(asdict(state)), encoding="utf-8")
                seal(partial)
                replace_folder(partial, final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._prune()
        return final

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        found = (path for path in self.folder.glob("step-*") if not path.is_symlink())
        names = (path.name.removeprefix("step-") for path in found)
        return sorted(int(name) for name in names if name.isdecimal())

    def path(self, step: int) -> Path:
        """Folder of the checkpoint of a step."""
        return self.folder / f"step-{step}"

    def state(self, step: int) -> State:
        """The state of a checkpoint. Raises RunError naming the file that is damaged."""
        folder = self.path(step)
        check(folder, later=(EVALUATED,))
        try:
            return State(**json.loads((folder / "state.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise RunError(f"is damaged ({error})", where=str(folder)) from error

    def evaluated(self, step: int, metric: float | None) -> None:
        """Note that the evaluation after a step is done, and the value of the metric that
        `checkpoints.best` names; then delete what is not asked for any more."""
        add(self.path(step), EVALUATED, json.dumps({"metric": metric}))
        self._prune()

    def is_evaluated(self, step: int) -> bool:
        """Whether the evaluation after a step is done."""
        return added(self.path(step), EVALUATED) is not None

    def newest(self) -> tuple[State | None, list[str]]:
        """The newest checkpoint that is whole, and what was wrong with newer ones."""
        problems: list[str] = []
        for step in reversed(self.steps()):
            try:
                return self.state(step), problems
            except RunError as error:  # noqa: PERF203 - a handful of folders
                problems.append(error.line())
        return None, problems

    def best(self, but: Collection[int] = ()) -> int | None:
        """Step of the checkpoint with the best metric, `but` for some; None where none has one."""
        metrics = {step: self._metric(step) for step in self.steps() if step not in but}
        known = {step: metric for step, metric in metrics.items() if metric is not None}
        sign = 1 if self.higher_is_better else -1
        return max(known, key=lambda step: (sign * known[step], step), default=None)

    def best_whole(self) -> tuple[int | None, list[str]]:
        """As `best`, of those that are whole, and what was wrong with better ones."""
        problems: dict[int, str] = {}
        while (step := self.best(problems)) is not None:
            try:
                self.state(step)
                break
            except RunError as error:
                problems[step] = error.line()
        return step, [*problems.values()]

    def _metric(self, step: int) -> float | None:
        """The metric of a checkpoint; None also where the checkpoint is damaged."""
        try:
            metric = json.loads(added(self.path(step), EVALUATED) or "{}").get("metric")
        except (ValueError, AttributeError, RecursionError):
            return None
        return metric if isinstance(metric, int | float) else None

    def discard_after(self, step: int) -> None:
        """Delete the checkpoints beyond `step`, which are damaged and will be made again, and those
        that a kill left undeleted."""
        for later in self.steps():
            if later > step:
                shutil.rmtree(self.path(later))
        self._prune()

    def optimizer(self, step: int) -> dict[str, Any]:
        """The optimizer's state, on CPU. Raises RunError where the file holds anything else."""
        path = self.path(step) / "optimizer.pt"
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # what a bad pickle raises has no common base
            what = f"is no state of an optimizer ({type(error).__name__})"
            raise RunError(what, where=str(path)) from error
        return state

    def remove(self) -> None:
        """Delete all checkpoints."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _prune(self) -> None:
        keep = {*self.steps()[-self.keep :], self.best()}
        for step in self.steps():
            if step not in keep:
                shutil.rmtree(self.path(step))
