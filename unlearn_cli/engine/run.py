"""`unlearn run`: from a spec to an unlearned, measured model.

The stages, in order: retain reference, target, evaluate both, reference pass, train (with
evaluations and checkpoints on the way), evaluate, verdict.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from unlearn_cli.api.evaluate import Number
from unlearn_cli.engine import titles
from unlearn_cli.engine.checkpoints import Checkpoints
from unlearn_cli.engine.evaluate import Evaluations
from unlearn_cli.engine.hardware import backend, hardware
from unlearn_cli.engine.lora import adapter_config, merge
from unlearn_cli.engine.measure import evaluate_reference
from unlearn_cli.engine.models import Loaded, load_skeleton, save_model
from unlearn_cli.engine.models import fingerprint as model_fingerprint
from unlearn_cli.engine.record import open_folder, recorded
from unlearn_cli.engine.session import Session
from unlearn_cli.engine.stop import Stopper
from unlearn_cli.engine.target import Models
from unlearn_cli.engine.timetable import Timetable
from unlearn_cli.engine.train import Due, Trainer
from unlearn_cli.engine.unlearning import Unlearning
from unlearn_cli.engine.work import build_method, choose
from unlearn_cli.environment import environment
from unlearn_cli.errors import RunError, UsageError
from unlearn_cli.evaluations import Evaluation
from unlearn_cli.events import (
    Listener,
    Notice,
    RunFinished,
    Sample,
)
from unlearn_cli.judgement import judgement
from unlearn_cli.runs import RunFolder
from unlearn_cli.spec.tables import Spec


def execute(spec: Spec, spec_toml: str, *, resume: bool, listener: Listener) -> RunFolder:
    """Run a spec in its folder, `output.folder/name`.

    Args:
        spec: resolved.
        spec_toml: the same as text, for the run folder.
        resume: continue what is there; a run that is finished is left as it is.
        listener: gets this run's events, on the main process.

    Raises:
        UsageError: the folder holds a run and `resume` is off, or it holds another spec.
        RunError: the run is finished, and files of its result are gone.
        Interrupted: stopped on request; the checkpoint is written.
        UnlearnError: whatever else stopped the run; the manifest and the log say so too.
    """
    path = Path(spec.output.folder) / spec.name
    session = Session(spec, listener)
    main = session.accelerator.is_main_process
    folder = open_folder(path, spec_toml, resume) if main else RunFolder(path)
    if folder.manifest.get("status") == "finished":
        folder.check_results()
        if main:
            with folder.lock():  # it may have been killed as its report was written
                folder.drop_leftovers()
        return folder
    found = environment() | hardware(session.accelerator)
    with (
        recorded(session, folder, listener, found) if main else nullcontext(),
        Stopper() as stopper,
    ):
        session.start_trackers()
        run = Run(session, folder, stopper)
        finished = run.go()
        session.emit(finished)
    return folder


class Run:
    """One `unlearn run`."""

    def __init__(self, session: Session, folder: RunFolder, stopper: Stopper) -> None:
        self.session, self.spec, self.folder, self.stopper = session, session.spec, folder, stopper
        self.evaluations = Evaluations(session)
        self.references: list[Evaluation] = []
        self.before: list[Evaluation] = []
        self.on_the_way: dict[int, list[Evaluation]] = {}

    def go(self) -> RunFinished:
        """All stages."""
        started = time.perf_counter()
        self._check_patterns()
        self.evaluations.check()
        models = Models(self.session, self.stopper)
        self.references = evaluate_reference(self.evaluations, models, self.folder)
        target = models.target()
        reinforced = models.reinforced(target) if build_method(self.spec)[1].reinforced else None
        loaded = self.session.load(target)
        self._merge_adapter(loaded)
        start_hash = model_fingerprint(loaded.model)
        self._check_inputs({"model": start_hash, **self.session.inputs()})
        environment = self.folder.manifest.get("environment", {})
        self._manifest(environment=environment | backend(loaded.model))
        self.before = self.evaluations.evaluate(
            loaded,
            start_hash,
            label="target",
            step=0,
            references=self.references,
            run=self.folder,
        )
        step, untrained = self._train(loaded, reinforced)
        end_hash = model_fingerprint(loaded.model)
        if end_hash in (start_hash, untrained):
            raise RunError(
                f"no parameter moved in {step} steps",
                where="train",
                hint="raise train.learning_rate, or use model.dtype = 'float32' "
                "(bfloat16 rounds small updates away)",
            )
        after = self._final_evaluation(loaded, end_hash, step)
        main = self.session.accelerator.is_main_process
        save_model(loaded.model, loaded.tokenizer, self.folder.model, main=main)
        return self._finish(after, end_hash, time.perf_counter() - started)

    def _check_patterns(self) -> None:
        """What the method reads and trains must be there: asked before anything is computed."""
        all_of_it = self.spec.method.parameters == ("*",) and not self.spec.lora.rank
        if not build_method(self.spec)[1].layers and all_of_it:
            return
        path = str(self.spec.target.base or self.spec.model.path)
        texts = self.session.texts() if path.startswith("builtin:") else ()
        choose(self.spec, load_skeleton(self.spec.model, path, texts))

    def _merge_adapter(self, loaded: Loaded) -> None:
        """A target with an adapter becomes a plain model, so that it can get one of this run."""
        if adapter_config(loaded.model) is None:
            return
        if self.spec.lora.base == "nf4":
            raise UsageError(
                "the model is an adapter, whose sum with its base cannot be loaded in 4 bits",
                where="[lora].base",
                hint="merge it into its base first, or leave lora.base out",
            )
        if self.spec.lora.rank and not self.spec.lora.merge:
            raise UsageError(
                "the model is an adapter itself, and an adapter of an adapter loads nowhere",
                where="[lora].merge",
                hint="set lora.merge = true",
            )
        merge(loaded.model)

    def _check_inputs(self, inputs: dict[str, str]) -> None:
        """Note what the run starts from; a resumed run must start from the same."""
        before = self.folder.manifest.get("inputs", inputs)
        changed = sorted(name for name in inputs if before.get(name) != inputs[name])
        if changed:
            raise UsageError(
                f"the {', '.join(changed)} changed since the run began",
                where=str(self.folder.folder),
                hint="start a new run under another name",
            )
        self._manifest(inputs=inputs, model=inputs["model"])

    def _train(self, loaded: Loaded, reinforced: str | None) -> tuple[int, str]:
        """Unlearn; the step whose weights the model holds afterwards, and the fingerprint of the
        model with an adapter that was not trained."""
        session, spec = self.session, self.spec
        unlearning = Unlearning(session, self.folder.reference, loaded, reinforced)
        self.timetable = Timetable(spec, unlearning.work.plan)
        checkpoints, steps = self._checkpoints(), unlearning.work.plan.steps
        trainer = unlearning.trainer(checkpoints, self.stopper)
        due = self._due(loaded, checkpoints)
        self._resume(trainer, due)
        title = titles.train(spec.method.name)
        with session.stage("train", title, len(steps)), self.stopper.waiting():
            trainer.fit(due)
        best, problems = checkpoints.best_whole() if spec.checkpoints.best else (None, [])
        for problem in problems:
            session.emit(Notice(f"checkpoint not used: {problem}"))
        if best is not None and best != trainer.done:
            session.emit(Notice(f"the model is the checkpoint of step {best}, the best of the run"))
            trainer.restore(best)
        unlearning.finish()
        session.accelerator.free_memory()
        return best if best is not None else trainer.done, unlearning.untrained

    def _checkpoints(self) -> Checkpoints:
        rule = self.spec.checkpoints
        if rule.best is None:
            return Checkpoints(self.folder.checkpoints, rule.keep)
        number = _number(self.before, rule.best)
        return Checkpoints(
            self.folder.checkpoints, rule.keep, higher_is_better=number.direction == "higher"
        )

    def _resume(self, trainer: Trainer, due: Due) -> None:
        done = trainer.resume_newest()
        if self.session.accelerator.is_main_process:
            self.folder.truncate_events(done, evaluated=not trainer.owes(due))
        if done:
            self.session.emit(Notice(f"resumed from the checkpoint of step {done}"))

    def _due(self, loaded: Loaded, checkpoints: Checkpoints) -> Due:
        timetable, best = self.timetable, self.spec.checkpoints.best

        def evaluate(step: int) -> float | None:
            best_step = checkpoints.best()  # the others' figures are in the run folder
            self.on_the_way = {k: v for k, v in self.on_the_way.items() if k == best_step}
            with self.stopper.at_once():
                due = timetable.evaluators(step)
                self.on_the_way[step] = self._evaluate_now(loaded, step, due)
            compared = timetable.compared(step)
            return _number(self.on_the_way[step], best).value if compared else None

        return Due(timetable.checkpoint, lambda step: bool(timetable.evaluators(step)), evaluate)

    def _evaluate_now(self, loaded: Loaded, step: int, only: list[str]) -> list[Evaluation]:
        return self.evaluations.evaluate(
            loaded,
            model_fingerprint(loaded.model),
            label="checkpoint",
            step=step,
            references=self.references,
            run=self.folder,
            only=only,
        )

    def _final_evaluation(self, loaded: Loaded, model: str, step: int) -> list[Evaluation]:
        """All evaluations; those of the same weights on the way are not made again.

        What stands in a batch decides the last bits of a score. So those that were due on the way
        are made by themselves, also where a kill after the last step lost them.
        """
        known = [
            replace(evaluation, label="unlearned")
            for evaluation in self.on_the_way.get(step, ())
            if evaluation.model == model
        ]
        for evaluation in known:
            self.evaluations.report(evaluation, self.folder)
        names = [table.evaluator for table in self.spec.evaluate]
        on_the_way = {*self.timetable.evaluators(step)} - self.evaluations.stress_tests
        there = {evaluation.evaluator: evaluation for evaluation in known}
        for only in (on_the_way - {*there}, {*names} - on_the_way):
            made = self.evaluations.evaluate(
                loaded,
                model,
                label="unlearned",
                step=step,
                references=self.references,
                run=self.folder,
                only=only,
            )
            there |= {evaluation.evaluator: evaluation for evaluation in made}
        return [there[name] for name in names]

    def _finish(self, after: list[Evaluation], model: str, seconds: float) -> RunFinished:
        measured = [*self.before, *after, *self.references]
        judged = judgement(measured, self.spec.verdict, self.spec.require)
        self._manifest(unlearned=model, verdict=judged)
        return RunFinished(
            verdict=judged.name,
            explanation=judged.explanation,
            folder=str(self.folder.folder),
            seconds=seconds,
            samples=_samples(self.before, after),
            missed=judged.missed,
        )

    def _manifest(self, **values: Any) -> None:
        if self.session.accelerator.is_main_process:
            self.folder.update_manifest(**values)


def _number(evaluations: list[Evaluation], name: str | None) -> Number:
    """A figure by the name that `checkpoints.best` gives it."""
    for evaluation in evaluations:
        for metric, number in evaluation.table.numbers.items():
            if name in (metric, f"{evaluation.evaluator}.{metric}"):
                if number.direction == "reference":
                    raise RunError(
                        f"{name} has no best: it should equal the retain reference",
                        where="[checkpoints].best",
                        hint="name a metric that should be high or low",
                    )
                return number
    known = [metric for evaluation in evaluations for metric in evaluation.table.numbers]
    raise RunError(
        f"no evaluation has a metric {name!r}",
        where="[checkpoints].best",
        hint=f"there is {', '.join(known) or 'no [[evaluate]] at all'}",
    )


def _samples(
    before: list[Evaluation], after: list[Evaluation], count: int = 3
) -> tuple[Sample, ...]:
    """A few forget questions with the answers before and after."""
    if not before or not after:
        return ()
    now = {(s.set, s.id): s.generation for s in after[0].samples}
    old = [s for s in before[0].samples if s.set == "forget" and (s.set, s.id) in now]
    chosen = old[:: max(1, len(old) // count)][:count]
    return tuple(Sample(s.question, s.truth, s.generation, now[s.set, s.id]) for s in chosen)
