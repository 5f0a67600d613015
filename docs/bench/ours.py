"""The engine, measured as `unlearn run` uses it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from setup import Case, Options

from unlearn_cli.engine.checkpoints import Checkpoints
from unlearn_cli.engine.evaluate import Evaluations
from unlearn_cli.engine.unlearning import Unlearning


class Ours:
    """Training steps and an evaluation of one case."""

    def __init__(self, case: Case, options: Options, start: Unlearning) -> None:
        self.case, self.options, self.start = case, options, start
        self.model = start.loaded.model

    def prepare(self) -> None:
        """Run the reference pass, and take its time; make the optimizer."""
        started = time.perf_counter()
        checkpoints = Checkpoints(self.start.folder / "checkpoints", keep=1)
        self.trainer = self.start.trainer(checkpoints, lambda: False)
        self.before = time.perf_counter() - started

    @property
    def share(self) -> float:
        """Seconds of what was done before training, for each of its steps."""
        return self.before / len(self.start.work.plan.steps)

    def step(self) -> None:
        """One optimizer step."""
        self.trainer.step()

    @contextmanager
    def clocked(self) -> Iterator[list[float]]:
        """Within, the seconds of forward pass, backward pass and optimizer are added up."""
        trainer, spent = self.trainer, [0.0]
        inside = False

        def timed(function: Any) -> Any:
            def run(*args: Any, **kwargs: Any) -> Any:
                nonlocal inside
                if inside:
                    return function(*args, **kwargs)
                started, inside = time.perf_counter(), True
                try:
                    return function(*args, **kwargs)
                finally:
                    inside = False
                    spent[0] += time.perf_counter() - started

            return run

        places: list[tuple[Any, str]] = [
            (trainer.gradients, "scorer"),
            (trainer.accelerator, "backward"),
            (trainer.accelerator, "clip_grad_norm_"),
            (trainer.update.optimizer, "step"),
        ]
        kept = [getattr(owner, name) for owner, name in places]
        trainer.gradients.scorer = _Timed(kept[0], timed)
        for (owner, name), function in list(zip(places, kept, strict=True))[1:]:
            setattr(owner, name, timed(function))
        try:
            yield spent
        finally:
            for (owner, name), function in zip(places, kept, strict=True):
                setattr(owner, name, function)

    def evaluate(self) -> None:
        """TOFU's metrics and attacks."""
        evaluations = Evaluations(self.start.session)
        evaluations.evaluate(self.start.loaded, "bench", label="checkpoint", step=0)


class _Timed:
    def __init__(self, scorer: Any, timed: Any) -> None:
        self.scorer, self._call = scorer, timed(scorer)

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scorer, name)
