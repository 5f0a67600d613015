"""The training loop: the same for fine-tuning a target and for every unlearning method.

What a step adds up is in `gradients`; here is when, and what is done with it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate import Accelerator

from unlearn_cli.api.method import Progress, Weights
from unlearn_cli.engine import memory
from unlearn_cli.engine.checkpoints import Checkpoints, State
from unlearn_cli.engine.estimate import imagine
from unlearn_cli.engine.fit import fitting_rows
from unlearn_cli.engine.forward import Scorer
from unlearn_cli.engine.gradients import Gradients, Losses, Smoothing, add_step
from unlearn_cli.engine.models import read_weights
from unlearn_cli.engine.objective import Streams, Term, of_account
from unlearn_cli.engine.optimizers import make_optimizer
from unlearn_cli.engine.plan import Plan, Step
from unlearn_cli.engine.sharding import whole_weights
from unlearn_cli.engine.update import Update
from unlearn_cli.engine.zero import stage_of
from unlearn_cli.engine.zero_update import Zero3Update, ZeroUpdate
from unlearn_cli.errors import Interrupted, RunError
from unlearn_cli.events import CheckpointSaved, Listener, Notice, StepDone


@dataclass(frozen=True)
class Optimization:
    """How to optimise; the keys of `[train]` and `[target]` of the same names."""

    learning_rate: float
    schedule: str
    warmup_epochs: float
    weight_decay: float
    max_grad_norm: float
    micro_batch: int | Literal["auto"]
    activation_checkpointing: bool = False
    optimizer: str = "adamw"


@dataclass(frozen=True)
class Due:
    """What happens after which steps."""

    checkpoint: Callable[[int], bool]
    evaluation: Callable[[int], bool] = lambda step: False
    evaluate: Callable[[int], float | None] = lambda step: None
    """Evaluate what is due after this step; the metric of `checkpoints.best`, if it wants one."""


NOTHING_DUE = Due(checkpoint=lambda step: False)
UPDATES: Mapping[int, type[Update]] = {0: Update, 2: ZeroUpdate, 3: Zero3Update}
"""By the stage of ZeRO that the launcher asked for."""


class Trainer:
    """One training of one model, from its first step or from a checkpoint."""

    def __init__(
        self,
        accelerator: Accelerator,
        scorer: Scorer,
        tokenizer: Any,
        plan: Plan,
        streams: Streams,
        terms: Sequence[Term],
        optimization: Optimization,
        checkpoints: Checkpoints,
        *,
        stage: str,
        emit: Listener,
        stop: Callable[[], int] = lambda: 0,
        reweigh: Callable[[Progress], Weights] | None = None,
        smoothing: Smoothing | None = None,
        seed: int = 0,
    ) -> None:
        """`reweigh` gives the weights of the next step; without it they are those of the terms.
        `seed` is of what an adapter drops."""
        self.accelerator, self.plan, self.streams, self.stage = accelerator, plan, streams, stage
        self.reweigh, self.smoothing, self.seed = reweigh, smoothing, seed
        self.terms = of_account(terms, reweighed=reweigh is not None)
        self.weights: Mapping[str, float] = {term.name: term.weight for term in self.terms}
        self.options, self.checkpoints, self.emit, self.stop = optimization, checkpoints, emit, stop
        self.model, self.tokenizer = scorer.model, tokenizer
        if optimization.activation_checkpointing:
            recompute_activations(self.model)
        micro_batch = self._micro_batch()
        optimizer = make_optimizer(self.model, optimization)
        way = UPDATES[stage_of(accelerator)]
        self.update = way(accelerator, scorer, optimizer, optimization.max_grad_norm)
        self.scorer = self.update.scorer
        self.scheduler = _schedule(optimizer, optimization, plan)
        if _warmup(optimization, plan) >= len(plan.steps):
            emit(Notice(f"{stage}: the warm-up takes all {len(plan.steps)} steps"))
        self.gradients = Gradients(
            accelerator,
            self.scorer,
            streams,
            micro_batch=micro_batch,
            into=self.update,
        )
        self.done = 0
        self.lowered: int | None = None
        """Rows in a micro-batch since memory ran out."""
        self._reweigh({})

    def resume(self, state: State) -> None:
        """Continue from a checkpoint: weights, optimizer and schedule as they were."""
        self.restore(state.step)
        self.update.load(self.checkpoints.optimizer(state.step))
        self.scheduler.load_state_dict(dict(state.scheduler))
        if self.accelerator.scaler is not None and state.extra:
            self.accelerator.scaler.load_state_dict(dict(state.extra))
        self.weights = state.weights or self.weights
        self.lowered = state.micro_batch
        if state.micro_batch:  # memory ran out: a resumed run does not try that again
            self.gradients.micro_batch = min(self.gradients.micro_batch, state.micro_batch)
        self.done = state.step

    def resume_newest(self) -> int:
        """Continue from the newest checkpoint that is whole, where there is one; its step, or 0.

        Newer ones are damaged: they are named, and deleted, for they will be made again.
        """
        state, problems = self.checkpoints.newest()
        for problem in problems:
            self.emit(Notice(f"checkpoint not used: {problem}"))
        self.accelerator.wait_for_everyone()
        done = state.step if state else 0
        if self.accelerator.is_main_process:
            self.checkpoints.discard_after(done)
        if state:
            self.resume(state)
        return done

    def restore(self, step: int) -> None:
        """Load the weights of the checkpoint of a step, each in its own dtype."""
        read_weights(self.model, self.checkpoints.path(step))

    def fit(self, due: Due = NOTHING_DUE) -> None:
        """Take all steps that are left.

        Raises RunError where a loss is not finite, Interrupted where the user stopped the run;
        both leave the checkpoints as they are, the latter with one for the last step.
        """
        with closing(self.update):
            if self.owes(due):
                self._evaluate(due)
                self._announce()
            while self.done < len(self.plan.steps):
                self.step()
                self._do(due)

    def owes(self, due: Due) -> bool:
        """Whether the last step lacks its evaluation, which was stopped."""
        step = self.done
        return step > 0 and due.evaluation(step) and not self.checkpoints.is_evaluated(step)

    def _do(self, due: Due) -> None:
        """What is due after a step. The checkpoint comes before the evaluation, which may take
        longer than whoever stops it is ready to wait: the resumed run then begins with it."""
        signalled, evaluation = self._signalled(), due.evaluation(self.done)
        if due.checkpoint(self.done) or evaluation or signalled:
            self._checkpoint()
            if evaluation and not signalled:
                self._evaluate(due)
            self._announce()
        if signalled:
            raise Interrupted(f"interrupted after step {self.done}", by=signalled)

    def _evaluate(self, due: Due) -> None:
        metric = due.evaluate(self.done)
        if self.accelerator.is_main_process:
            self.checkpoints.evaluated(self.done, metric)
        self.accelerator.wait_for_everyone()

    def _announce(self) -> None:
        step, best = self.done, self.checkpoints.best() == self.done
        self.emit(CheckpointSaved(step, str(self.checkpoints.path(step)), best))

    def step(self) -> None:
        """Take the next step; raises RunError as `fit` does."""
        started = time.perf_counter()
        self.scorer.train()
        rate = self.scheduler.get_last_lr()[0]
        # Who has activations recomputed pays time for memory already.
        with memory.compact(sparing=self.options.activation_checkpointing):
            losses, norm, tokens = self._step(self.plan.steps[self.done])
        self.done += 1
        self._report(losses, norm, tokens, rate, time.perf_counter() - started)
        self._reweigh(losses)

    def _step(self, step: Step) -> tuple[dict[str, float], float, int]:
        torch.manual_seed(self.seed + self.done)  # a resumed run drops what it would have dropped
        found, tokens = self._gradients_that_fit(step)
        count = torch.tensor(tokens, device=self.accelerator.device)
        sums = torch.stack([*found.values(), count.to(next(iter(found.values())))])
        sums = self.accelerator.reduce(sums).cpu()
        losses = {name: float(value) for name, value in zip(found, sums, strict=False)}
        total = sum(self.weights[name] * loss for name, loss in losses.items())
        losses = {"total": total} | losses
        self._check_finite(losses)
        norm = self._update()
        return losses, norm, int(sums[-1])

    def _micro_batch(self) -> int:
        if self.options.micro_batch != "auto":
            return self.options.micro_batch
        rows = fitting_rows(
            lambda: (imagine(self.model, self.accelerator.device), self.terms),
            self.terms,
            self.streams,
            self.plan,
            self.accelerator,
            optimizer=self.options.optimizer,
            smoothing=self.smoothing,
        )
        self.emit(Notice(f"{self.stage}: micro-batches of {rows} rows fit"))
        return rows

    def _gradients_that_fit(self, step: Step) -> tuple[Losses, int]:
        """As `_add_gradients`, in halves from here on where memory runs out. Several processes
        cannot: the others wait for one that failed."""
        try:
            return self._add_gradients(step)
        except RuntimeError as error:
            alone, rows = self.accelerator.num_processes == 1, self.gradients.micro_batch
            if not memory.ran_out(error) or rows == 1 or not alone:
                raise
        self.update.drop()  # what the failed pass left
        memory.give_back()
        self.gradients.micro_batch = self.lowered = -(-rows // 2)
        self.emit(Notice(f"out of memory: micro-batches of {self.gradients.micro_batch} rows"))
        return self._gradients_that_fit(step)

    def _add_gradients(self, step: Step) -> tuple[Losses, int]:
        """This process's part of each term, and the tokens that it ran."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        return add_step(
            self.gradients, self.smoothing, parameters, self.terms, self.weights, step, self.done
        )

    def _reweigh(self, losses: Mapping[str, float]) -> None:
        """Ask the method for the weights of the next step."""
        if self.reweigh is None:
            return
        weights = self.reweigh(
            Progress(
                step=self.done,
                total=len(self.plan.steps),
                epoch=self.plan.epoch(self.done),
                base=_weights({term.name: term.weight for term in self.terms}),
                weights=_weights(self.weights),
                losses=losses,
            )
        )
        self.weights = {**self.weights, "forget": weights.gamma, "retain": weights.alpha}

    def _check_finite(self, losses: Mapping[str, float]) -> None:
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            self.update.drop()
            raise RunError(
                f"the {bad[-1]} loss is {losses[bad[-1]]} at step {self.done + 1}",
                where=self.stage,
                hint="lower train.learning_rate or method.gamma; the last checkpoint is kept",
            )

    def _update(self) -> float:
        norm = self.update.apply()
        if not math.isfinite(norm) and self.accelerator.scaler is None:
            raise RunError(
                f"the gradient is {norm} at step {self.done + 1}",
                where=self.stage,
                hint="lower train.learning_rate; the last checkpoint is kept",
            )
        if not self.update.was_skipped:
            self.scheduler.step()
        return norm

    def _report(
        self, losses: dict[str, float], norm: float, tokens: int, rate: float, seconds: float
    ) -> None:
        self.emit(
            StepDone(
                stage=self.stage,
                step=self.done,
                total=len(self.plan.steps),
                epoch=self.plan.epoch(self.done),
                losses=losses,
                learning_rate=rate,
                gradient_norm=norm,
                tokens=tokens,
                seconds=seconds,
                memory_bytes=memory.peak(self.accelerator.device),
                weights=self.weights,
            )
        )

    def _signalled(self) -> int:
        """Number of the signal that asked any process to stop, or 0."""
        number = torch.tensor([self.stop()], device=self.accelerator.device)
        return int(self.accelerator.gather(number).max())

    def _checkpoint(self) -> None:
        main = self.accelerator.is_main_process
        weights = whole_weights(self.model, keep=main)
        optimizer = self.update.state(keep=main)
        if main:
            scaler = self.accelerator.scaler
            extra = scaler.state_dict() if scaler is not None else {}
            state = State(
                self.done,
                self.scheduler.state_dict(),
                extra,
                self.weights,
                self.lowered,
            )
            self.checkpoints.save(state, self.model, self.tokenizer, optimizer, weights)
        self.accelerator.wait_for_everyone()


def _weights(of: Mapping[str, float]) -> Weights:
    return Weights(of["forget"], of.get("retain", 0.0))


def recompute_activations(model: Any) -> None:
    """Keep the inputs of blocks alone, and run the blocks again in the backward pass."""
    # transformers renamed the function in 5.x and keeps the old name until 6.
    name = "activation_checkpointing_enable"
    enable = getattr(model, name, None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _warmup(options: Optimization, plan: Plan) -> int:
    """Steps of warm-up."""
    return round(options.warmup_epochs * plan.steps_per_epoch)


def _schedule(optimizer: Any, options: Optimization, plan: Plan) -> Any:
    """Linear warm-up, then constant, linear to 0 or cosine to 0; one value an optimizer step."""
    total, warmup = len(plan.steps), _warmup(options, plan)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        left = (total - step) / max(1, total - warmup)
        return {
            "constant": 1.0,
            "linear": left,
            "cosine": 0.5 * (1 - math.cos(math.pi * left)),
        }[options.schedule]

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
