"""What a spec wants after which steps.

Known from spec and plan alone, so that a run that was killed does the same as one that was not.
"""

from __future__ import annotations

from dataclasses import dataclass

from unlearn_cli.engine.plan import Plan
from unlearn_cli.spec.tables import Every, Spec


@dataclass(frozen=True)
class Timetable:
    """When checkpoints and evaluations are due."""

    spec: Spec
    plan: Plan

    def checkpoint(self, step: int) -> bool:
        """Whether a checkpoint is due after this step."""
        return self._is_due(self.spec.checkpoints.every, step)

    def checkpoint_or_end(self, step: int) -> bool:
        """As `checkpoint`, or after the last step: storing a large model may be stopped too."""
        return self.checkpoint(step) or step == len(self.plan.steps)

    def compared(self, step: int) -> bool:
        """Whether the checkpoint of this step competes for the best."""
        return self.spec.checkpoints.best is not None and self.checkpoint(step)

    def evaluators(self, step: int) -> list[str]:
        """Names of the evaluators that are due after this step, in the order of the spec."""
        compared = self.compared(step)
        return [t.evaluator for t in self.spec.evaluate if compared or self._is_due(t.every, step)]

    def _is_due(self, every: Every, step: int) -> bool:
        last = step == len(self.plan.steps) and self.spec.checkpoints.best is not None
        if every == "end":
            return last
        period = self.plan.steps_per_epoch if every == "epoch" else every
        return last or step % period == 0
