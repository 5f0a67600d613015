"""What the stages of a run take, without a model, from the plans that the run follows."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unlearn_cli.api.evaluate import Harness
from unlearn_cli.engine import alternates, imagined, titles
from unlearn_cli.engine.asking import Asking, Cost, weight_bytes
from unlearn_cli.engine.encode import Encoder
from unlearn_cli.engine.estimate import Estimate
from unlearn_cli.engine.evaluate import Evaluations, Job
from unlearn_cli.engine.evaluate import title as evaluation_title
from unlearn_cli.engine.fit import growth
from unlearn_cli.engine.gradients import share_of
from unlearn_cli.engine.imagined import Changed
from unlearn_cli.engine.layers import train_only
from unlearn_cli.engine.lazy import Lazy
from unlearn_cli.engine.lora import adapt, find_adapted
from unlearn_cli.engine.memory import held
from unlearn_cli.engine.plan import Plan
from unlearn_cli.engine.quantized import made_whole, rounded_away
from unlearn_cli.engine.reference import Request
from unlearn_cli.engine.score import Asked, Memo, what_is_asked
from unlearn_cli.engine.session import Session
from unlearn_cli.engine.speed import Speed
from unlearn_cli.engine.target import (
    Made,
    Tuning,
    made_reference,
    made_reinforced,
    made_target,
    plan_tuning,
)
from unlearn_cli.engine.timetable import Timetable
from unlearn_cli.engine.work import Work, rows_at_once


@dataclass(frozen=True)
class Stage:
    """One stage of a run."""

    name: str
    """As the log calls it: `train`, `evaluate`, or a stress test by its own name."""
    title: str
    """Likewise; an evaluation that is made after several steps is one stage."""
    count: int
    """What is there to do: steps, or rows."""
    unit: str
    memory: int | None
    """Bytes of the model and of all that is there with it, at their peak; None where that cannot be
    known."""
    seconds: float | None
    """Likewise; of answers, if each becomes as long as it may."""
    tokens: int = 0
    """That go through the model in training."""
    unknown: str = ""
    """Why memory and time cannot be known."""


class Stages:
    """The stages of a run, in its order."""

    def __init__(
        self, session: Session, work: Work, skeleton: Any, encoder: Encoder, speed: Speed
    ) -> None:
        """`skeleton` is of the target, as it is loaded but for 4 bits."""
        self.session, self.spec, self.work = session, session.spec, work
        self.encoder, self.speed, self.plain = encoder, speed, skeleton
        self.evaluations, trained = Evaluations(session), self._in_training()
        self.saved = self.whole = 0
        """Bytes that 4 bits save, and those that are there besides while no layer has them."""
        if self.spec.lora.base == "nf4":
            self.saved, self.whole = rounded_away(trained), made_whole(trained)
        self.before = weight_bytes(skeleton) - self.saved
        """Bytes of the model before training; `after`, from then on."""
        self.after = weight_bytes(trained) - self.saved
        found = imagined.unlearning(self.spec, work, trained, session.accelerator, speed)
        self.micro_batch, step = found
        self.step = replace(step, weights=step.weights - self.saved, peak=step.peak - self.saved)
        """Of unlearning."""
        # An adapter changes next to nothing in what it costs to ask a model: they are asked alike.
        self.asking = Asking(
            skeleton, session.device, speed, self.whole, sharded=bool(session.sharding)
        )
        self._costs: dict[tuple[str, ...], Cost] = {}
        self._changes: dict[str, tuple[Changed, Stage]] = {}

    def __iter__(self) -> Iterator[Stage]:
        spec, work, weights = self.spec, self.work, self.before
        if spec.target.base and self.session.bundle.retain:
            yield self._made(made_reference(self.session))
        if self._compares:
            yield from self._evaluated("retain_reference", self.before)
        if spec.target.base:
            yield self._made(made_target(self.session))
        if work.needs.reinforced:
            yield self._made(made_reinforced(self.session))
        yield from self._evaluated("target", self.before)
        if work.alternates and spec.data.alternates == "model":
            yield self._alternates()
        if requests := work.requests(spec):
            yield self._referred(titles.REFERENCE, requests, weights)
        if work.needs.reinforced:  # it is loaded beside the target
            again = [work.reinforced_request()]
            yield self._referred(titles.REINFORCED_REFERENCE, again, 2 * weights)
        if spec.wrap.saliency is not None:
            yield self._saliency()
        yield self._train()
        yield from self._on_the_way()
        yield from self._at_the_end()

    @property
    def _compares(self) -> bool:
        """Whether a model is measured as the retain reference."""
        spec = self.spec
        if spec.retain_reference.evaluation:
            return False
        return bool(self.session.bundle.retain if spec.target.base else spec.retain_reference.path)

    def _in_training(self) -> Any:
        """A skeleton of which is frozen what is not trained, with the adapter of the run."""
        model, spec, chosen = copy.deepcopy(self.plain), self.spec, self._chosen()
        train_only(model, chosen)
        if spec.lora.rank:
            adapt(model, find_adapted(model, chosen, spec.lora), spec.lora, base="", seed=spec.seed)
        return model

    def _chosen(self) -> Sequence[str]:
        """What is trained. Which tensors are the most salient is not known: the largest stand for
        them."""
        names, share = self.work.choice.parameters, self.spec.wrap.saliency
        if share is None:
            return names
        sizes = {name: p.nbytes for name, p in self.plain.named_parameters()}
        return sorted(names, key=lambda name: -sizes[name])[: share_of(names, share)]

    def _trained(self, name: str, title: str, plan: Plan, step: Estimate) -> Stage:
        """A training."""
        memory = step.weights + growth(step, self.session.accelerator)
        count, unit = len(plan.steps), "steps"
        seconds, tokens = step.seconds * count, round(step.tokens * count)
        return Stage(name, title, count, unit, memory, seconds, tokens)

    def _tuned(self, tuning: Tuning) -> Estimate:
        return imagined.tuning(tuning, self.plain, self.session.accelerator, self.speed)[1]

    def _made(self, made: Made) -> Stage:
        tuning = plan_tuning(self.session, self.encoder, made)
        return self._trained(made.stage, made.title, tuning.plan, self._tuned(tuning))

    def _alternates(self) -> Stage:
        """The model answers each question once for each answer that is wanted, or more often."""
        table, forget = self.spec.alternates, self.work.splits["forget"]
        rows = Lazy(forget.row, forget.rows.__getitem__)
        prompts = [self.encoder.prompt(alternates.asked(row, table.prompt)) for row in rows]
        batches = alternates.in_batches(prompts, range(len(rows)))
        answered = [([prompts[k] for k in batch], table.max_new_tokens) for batch in batches]
        cost = self.asking.cost(Asked([], answered, [])).times(table.count)
        return self._asked("alternates", titles.ALTERNATES, len(rows), self.before, cost)

    def _referred(self, title: str, requests: Sequence[Request], weights: int) -> Stage:
        """A reference pass."""
        cost = Cost()
        for request in requests:
            cost = cost.then(self.asking.request(request, rows_at_once(self.spec)))
        rows = sum(len(request.rows) for request in requests)
        return self._asked("reference_pass", title, rows, weights, cost)

    def _asked(self, name: str, title: str, rows: int, weights: int, cost: Cost) -> Stage:
        """A stage that does not train; the processes share it."""
        seconds = cost.seconds / self.session.accelerator.num_processes
        memory = weights + held(cost.memory, self.session.device)
        return Stage(name, title, rows, "rows", memory, seconds)

    def _saliency(self) -> Stage:
        """The gradients of all that may be trained, in the first epoch, without an optimizer."""
        model, plan = copy.deepcopy(self.plain), self.work.plan
        train_only(model, self.work.choice.parameters)
        accelerator = self.session.accelerator
        step = imagined.saliency(self.spec, self.work, model, accelerator, self.speed)
        count = min(plan.steps_per_epoch, len(plan.steps))
        memory = step.weights + growth(step, accelerator)
        return Stage("saliency", titles.SALIENCY, count, "steps", memory, step.seconds * count)

    def _train(self) -> Stage:
        title = titles.train(self.spec.method.name)
        stage = self._trained("train", title, self.work.plan, self.step)
        if not hasattr(self.work.method, "edit"):
            return stage
        # The target is loaded once more when training ends.
        at_end = self.step.weights + self.step.optimizer + self.before
        return replace(stage, memory=max(stage.memory or 0, at_end))

    def _on_the_way(self) -> Iterator[Stage]:
        """Evaluations between steps, with the optimizer and the stores beside the model."""
        table = Timetable(self.spec, self.work.plan)
        numbers = range(1, len(self.work.plan.steps) + 1)
        due = Counter(frozenset(table.evaluators(number)) for number in numbers)
        there = self.step.weights + self.step.optimizer
        for names, times in due.items():
            for stage in self._evaluated("checkpoint", there, names):
                seconds = None if stage.seconds is None else stage.seconds * times
                yield replace(stage, count=stage.count * times, seconds=seconds)

    def _at_the_end(self) -> Iterator[Stage]:
        """What was not measured after the last step."""
        plan, names = self.work.plan, {table.evaluator for table in self.spec.evaluate}
        last = {*Timetable(self.spec, plan).evaluators(len(plan.steps))}
        only = names - (last - self.evaluations.stress_tests)
        yield from self._evaluated("unlearned", self.after, only)

    def _evaluated(
        self, label: str, there: int, only: Collection[str] | None = None
    ) -> Iterator[Stage]:
        """An evaluation; `there` are the bytes of the model, and of what stays beside it."""
        memo, jobs = Memo(), self.evaluations.jobs_of(label, only)
        together = [job for job in jobs if job.scores_rows]
        for number, job in enumerate(together):
            yield self._measured(job, label, there, memo, together[:number])
        for job in (job for job in jobs if not job.scores_rows):
            if job.changes:
                yield from self._stressed(job, label, there + self.whole)
            else:
                yield self._measured(job, label, there, Memo())

    def _measured(
        self, job: Job, label: str, there: int, memo: Memo, earlier: Sequence[Job] = ()
    ) -> Stage:
        """What a job asks that those before it have not."""
        title = evaluation_title(self.spec, label, job.name)
        if isinstance(job.inner, Harness):  # it does as it likes
            return Stage("evaluate", title, 0, "rows", None, None, unknown="it measures by itself")
        metrics, probes = job.asked(self.session.bundle)
        asked = what_is_asked(
            self.asking.skeleton, self.encoder, probes, job.batch_size, metrics.needs, memo
        )
        key = (*(other.name for other in earlier), job.name)
        if key not in self._costs:
            self._costs[key] = self.asking.cost(asked)
        return self._asked("evaluate", title, len(probes), there, self._costs[key])

    def _stressed(self, job: Job, label: str, there: int) -> Iterator[Stage]:
        """A change of the model, and the evaluation of what it became."""
        if job.name not in self._changes:
            self._changes[job.name] = self._changed(job)
        changed, stage = self._changes[job.name]
        memory = None if stage.memory is None else there + stage.memory
        yield replace(stage, title=titles.stress(label, job.name), memory=memory)
        yield self._measured(job, label, there + changed.kept, Memo())

    def _changed(self, job: Job) -> tuple[Changed, Stage]:
        """A change, and what it takes besides the model."""
        changed = imagined.change(job, self.session, self.encoder, self.plain, self.speed)
        if changed.reason:
            nothing = Stage(job.name, "", 0, "steps", None, None, unknown=changed.reason)
            return changed, nothing
        own, steps, tokens = changed.cost, 0, 0
        cost = Cost(held(own.memory, self.session.device), own.seconds)
        for besides, tuning in changed.tunings:
            step, count = self._tuned(tuning), len(tuning.plan.steps)
            grown = besides + growth(step, self.session.accelerator)
            cost = cost.then(Cost(grown, step.seconds * count))
            steps, tokens = steps + count, tokens + round(step.tokens * count)
        return changed, Stage(job.name, "", steps, "steps", cost.memory, cost.seconds, tokens)
