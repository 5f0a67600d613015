"""Evaluations of a model, as the spec's `[[evaluate]]` ask for them.

Evaluators that score rows go through the model together, so that what two of them ask is computed
once. Those that measure the model themselves, and stress tests that change it, follow one by one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from unlearn_cli import catalog
from unlearn_cli.api.data import Bundle, Row
from unlearn_cli.api.evaluate import Harness, Probe, Recipe, Subject, Table
from unlearn_cli.engine import titles
from unlearn_cli.engine.cache import cache_folder, content_key, make_once
from unlearn_cli.engine.encode import Encoder
from unlearn_cli.engine.forward import Scorer
from unlearn_cli.engine.lora import folded
from unlearn_cli.engine.models import Loaded
from unlearn_cli.engine.parts import UNSHARDED
from unlearn_cli.engine.quantized import dequantized
from unlearn_cli.engine.score import Memo, score_probes
from unlearn_cli.engine.session import Session
from unlearn_cli.engine.sharding import change_weight, live_state, part
from unlearn_cli.engine.target import fine_tune_briefly
from unlearn_cli.environment import versions
from unlearn_cli.errors import RunError, UsageError
from unlearn_cli.evaluations import INSIDE, Evaluation, Generated
from unlearn_cli.events import EvaluationDone
from unlearn_cli.files import write_atomically
from unlearn_cli.runs import RunFolder
from unlearn_cli.spec.tables import EvaluateTable, Spec
from unlearn_cli.tables import Metrics

TOKENS = "tokens (tokenizer, template or max_length)"
NOT_STRESSED = ("target", "checkpoint")
NOT_KEPT = ("checkpoint", "again")
"""Evaluations that go into no cache, nor come out of one: a run has many of its checkpoints, and no
other run asks for them; what is measured again is measured."""


@dataclass(frozen=True)
class Job:
    """One `[[evaluate]]`."""

    name: str
    plugin: Any
    inner: Any
    """What measures: the plugin itself, or the evaluator inside a stress test."""
    batch_size: int

    @property
    def changes(self) -> bool:
        """Whether the model is another while it is measured."""
        return hasattr(self.plugin, "change")

    @property
    def scores_rows(self) -> bool:
        """Whether it only asks the model as it is for scores and answers."""
        return not self.changes and not isinstance(self.inner, Harness)

    def settings(self, encoder: Encoder) -> dict[str, Any]:
        """All that decides its figures, besides model and rows, as JSON gives it back."""
        own = dataclasses.asdict(self.plugin)
        inside = {} if self.inner is self.plugin else {INSIDE: dataclasses.asdict(self.inner)}
        found = own | inside | {"encoding": encoder.fingerprint}
        plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
        return plain

    def asked(self, data: Bundle) -> tuple[Metrics, list[Probe]]:
        """What the rows are asked, rewritten where the plugin does so; RunError if nothing is."""
        probes = list(self.inner.probes(data))
        if self.inner is not self.plugin and not self.changes:
            rewritten = (self.plugin.rewrite(probe) for probe in probes)
            probes = [probe for probe in rewritten if probe is not None]
        if not probes:
            hint = "check [data]"
            raise RunError("nothing to evaluate", where=f"[[evaluate]] {self.name}", hint=hint)
        return Metrics.of(self.inner, data).only({probe.set for probe in probes}), probes


class Evaluations:
    """What the spec wants to know of models."""

    def __init__(self, session: Session) -> None:
        self.session, self.spec = session, session.spec
        self.jobs = [_job(self.spec, table) for table in self.spec.evaluate]

    @property
    def stress_tests(self) -> set[str]:
        """Names of those that have another evaluator inside."""
        return {job.name for job in self.jobs if job.inner is not job.plugin}

    def evaluate(
        self,
        loaded: Loaded,
        model_hash: str,
        *,
        label: str,
        step: int,
        references: Sequence[Evaluation] = (),
        run: RunFolder | None = None,
        only: Collection[str] | None = None,
    ) -> list[Evaluation]:
        """Run the evaluators on a model, in the order of the spec.

        Args:
            loaded: the model; stress tests change it, and it is restored to the bit.
            model_hash: fingerprint of its weights.
            label: what the model is to the run: `target`, `unlearned`, `retain_reference`, ...
            step: of the training.
            references: the evaluations of the retain reference.
            run: where to write them.
            only: names of evaluators; all where it is not given.
        """
        jobs = self.jobs_of(label, only)
        model = _Measuring(self.session, loaded, model_hash, label, step, references)
        made = model.together([job for job in jobs if job.scores_rows])
        made |= {job.name: model.alone(job) for job in jobs if not job.scores_rows}
        found = [made[job.name] for job in jobs]
        for evaluation in found:
            self.report(evaluation, run)
        return found

    def jobs_of(self, label: str, only: Collection[str] | None = None) -> list[Job]:
        """What is measured of a model; arguments as of `evaluate`."""
        jobs = [job for job in self.jobs if only is None or job.name in only]
        return [job for job in jobs if label not in NOT_STRESSED or job.inner is job.plugin]

    def check(self) -> None:
        """Raise what is wrong with metrics and rows, before any model is made."""
        way = self.session.sharding
        for job in self.jobs:
            where = f"[[evaluate]] {job.name}"
            if not isinstance(job.inner, Harness):
                metrics, _ = job.asked(self.session.bundle)
                needs = {need for set_ in metrics.names for need in metrics.needs(set_)}
                if way and "gradient" in needs and not way.gives_gradients:
                    what = "its metrics need gradients, which do not go with ZeRO-3"
                    raise UsageError(what, where=where, hint=UNSHARDED)
            elif way:  # each process would run as many passes as it likes
                what = "measures the model itself, which goes with no sharded model"
                raise UsageError(what, where=where, hint=UNSHARDED)

    def of_rows(self) -> Iterator[tuple[str, Metrics, list[Probe]]]:
        """Name, metrics and probes of the evaluators that score rows and are no stress tests."""
        for job in self.jobs:
            if job.scores_rows and job.inner is job.plugin:
                yield job.name, *job.asked(self.session.bundle)

    def report(self, evaluation: Evaluation, run: RunFolder | None) -> None:
        """Write an evaluation to the run folder and tell the listener."""
        if self.session.accelerator.is_main_process:
            path = run.write_evaluation(evaluation) if run else ""
            self.session.emit(
                EvaluationDone(
                    evaluation.evaluator, evaluation.label, evaluation.step, evaluation.table, path
                )
            )


class _Measuring:
    """One model under measurement."""

    def __init__(
        self,
        session: Session,
        loaded: Loaded,
        model_hash: str,
        label: str,
        step: int,
        references: Sequence[Evaluation],
    ) -> None:
        self.session, self.loaded, self.model_hash = session, loaded, model_hash
        self.label, self.step = label, step
        self.references = {reference.evaluator: reference for reference in references}
        self.encoder = session.encoder(loaded.tokenizer)

    def together(self, jobs: Sequence[Job]) -> dict[str, Evaluation]:
        """Jobs that share what the model says of rows."""
        memo = Memo()
        return self._once(jobs, lambda job: self._make(job, memo))

    def alone(self, job: Job) -> Evaluation:
        """A job that measures, or changes, the model itself."""
        return self._once([job], self._make_alone)[job.name]

    def _make_alone(self, job: Job) -> Evaluation:
        if not job.changes:
            return self._make(job, Memo())
        model = self.loaded.model
        with dequantized(model), restored(model), folded(model):
            with self.session.stage(job.name, titles.stress(self.label, job.name)):
                job.plugin.change(self._subject(job))
            return self._make(job, Memo())

    def _once(
        self, jobs: Sequence[Job], make: Callable[[Job], Evaluation]
    ) -> dict[str, Evaluation]:
        """The evaluations of jobs, from the cache where they are in it.

        What stands in a batch decides the last bits of a score. So those that share a pass are one
        entry, which has the name of the whole company.
        """
        for job in jobs:
            self._check_comparable(job)
        if not jobs or self.label in NOT_KEPT:
            return {job.name: make(job) for job in jobs}

        def store(place: Path) -> None:
            for job in jobs:
                text = make(job).to_json()
                if self.session.accelerator.is_main_process:
                    write_atomically(place / f"{job.name}.json", text)

        folder = cache_folder("evaluations") / self._key(jobs)
        if not make_once(self.session, folder, store):
            for job in jobs:
                self.session.cached("evaluate", self._title(job.name))
        return {job.name: self._read(folder / f"{job.name}.json") for job in jobs}

    def _made_by(self, job: Job) -> list[str]:
        """The evaluator, what is inside it, and their metrics, each with its distribution; and of
        the spec what else decides: the seed of what is drawn, the precision of fine-tuning."""
        named: list[tuple[catalog.Kind, str]] = [("evaluator", job.name)]
        if job.inner is not job.plugin:
            named.append(("evaluator", job.plugin.of))
        if not isinstance(job.inner, Harness):
            metrics = Metrics.of(job.inner, self.session.bundle)
            rows = [f"{set_}.{name}" for set_, names in metrics.names.items() for name in names]
            named += [("metric", name) for name in (*metrics.rows, *metrics.summaries)]
            drawn = any(probe.draw for probe in job.inner.probes(self.session.bundle))
        else:
            rows, drawn = [], False
        spec = self.session.spec
        if job.changes or drawn:
            rows += [f"seed {spec.seed}", spec.train.mixed_precision]
        found = (catalog.find(kind, name) for kind, name in named)
        return [*(f"{plugin.qualified} {plugin.version}" for plugin in found), *rows]

    def _key(self, jobs: Sequence[Job]) -> str:
        """All that decides what jobs measure together."""
        company = [
            (self._made_by(job), job.settings(self.encoder), self._compared(job)) for job in jobs
        ]
        return content_key(versions(), self.model_hash, self.session.data_hash, company)

    def _compared(self, job: Job) -> str | None:
        """What the figures are compared with."""
        if self.label == "retain_reference":
            return "itself"
        reference = self.references.get(job.name)
        return reference.to_json() if reference else None

    def _check_comparable(self, job: Job) -> None:
        """Raise RunError where the retain reference was measured on other rows, or otherwise."""
        reference = self.references.get(job.name)
        if reference is None or not reference.data:  # another tool's, which told no hashes
            return
        wrong = [] if reference.data == self.session.data_hash else ["rows"]
        settings = job.settings(self.encoder)
        differing = sorted(k for k, v in settings.items() if reference.settings.get(k) != v)
        wrong += [TOKENS if key == "encoding" else key for key in differing]
        if wrong:
            raise RunError(
                f"the retain reference was evaluated with other {', '.join(wrong)}",
                where="[retain_reference]",
                hint="evaluate it again with this spec, or name the model: retain_reference.path",
            )

    def _read(self, path: Path) -> Evaluation:
        return replace(Evaluation.read(path), label=self.label, step=self.step)

    def _make(self, job: Job, memo: Memo) -> Evaluation:
        table, samples = self._measure(job, memo)
        return Evaluation(
            evaluator=job.name,
            label=self.label,
            step=self.step,
            table=table,
            model=self.model_hash,
            data=self.session.data_hash,
            settings=job.settings(self.encoder),
            samples=samples,
        ).finite()  # what is judged now is what the file says later

    def _measure(self, job: Job, memo: Memo) -> tuple[Table, tuple[Generated, ...]]:
        if isinstance(job.inner, Harness):
            with self.session.stage("evaluate", self._title(job.name)):
                return job.inner.measure(self._subject(job)), ()
        metrics, probes = job.asked(self.session.bundle)
        with self.session.stage("evaluate", self._title(job.name), len(probes), "rows") as progress:
            scored = score_probes(
                Scorer(self.loaded.model),
                self.encoder,
                probes,
                batch_size=job.batch_size,
                accelerator=self.session.accelerator,
                needs=metrics.needs,
                memo=memo,
                seed=self.session.spec.seed,
                progress=progress,
            )
        compared = self.references.get(job.name)
        reference = compared.table if compared else None
        if self.label == "retain_reference":  # it is its own reference: a forget quality of 1
            reference = metrics.table(scored)
        return metrics.table(scored, reference), tuple(
            Generated(s.set, s.row.id, s.row.question, s.row.answer, s.generation)
            for s in scored
            if s.generation is not None
        )

    def _title(self, name: str) -> str:
        return title(self.session.spec, self.label, name)

    def _subject(self, job: Job) -> Subject:
        loaded, session = self.loaded, self.session

        def tune(rows: Sequence[Row], recipe: Recipe) -> None:
            fine_tune_briefly(session, loaded, rows, recipe, stage=job.name)

        return Subject(
            loaded.model,
            loaded.tokenizer,
            session.bundle,
            session.spec.seed,
            tune,
            job.batch_size,
            change_weight,
        )


def title(spec: Spec, label: str, evaluator: str) -> str:
    """Of an evaluation in a run."""
    return titles.evaluate(label, evaluator if len(spec.evaluate) > 1 else "")


@contextmanager
def restored(model: torch.nn.Module) -> Iterator[None]:
    """Within, the model may be changed; afterwards its weights have the bits that they had."""
    kept = {name: part(value).to("cpu", copy=True) for name, value in live_state(model).items()}
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    try:
        yield
    finally:
        for name, value in live_state(model).items():
            part(value).copy_(kept[name])
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained[name])


def _job(spec: Spec, table: EvaluateTable) -> Job:
    plugin = catalog.build("evaluator", table.evaluator, table.options)
    of = getattr(plugin, "of", None)
    if of is None:
        return Job(table.evaluator, plugin, plugin, table.batch_size)
    inside = next((t for t in spec.evaluate if t.evaluator == of), None)
    inner = catalog.build("evaluator", of, inside.options if inside else {})
    where = f"[[evaluate]] {table.evaluator}"
    if hasattr(inner, "of"):
        raise UsageError(f"of = {of!r} is itself a stress test", where=where, hint="name another")
    if isinstance(inner, Harness) and not hasattr(plugin, "change"):
        what = f"of = {of!r} asks no questions that could be rewritten"
        raise UsageError(what, where=where, hint="name an evaluator that scores rows")
    return Job(table.evaluator, plugin, inner, table.batch_size)
