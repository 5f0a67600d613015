"""Measuring without unlearning: the retain reference of a run, and `unlearn evaluate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from unlearn_cli.engine.evaluate import Evaluations
from unlearn_cli.engine.models import fingerprint
from unlearn_cli.engine.session import Session
from unlearn_cli.engine.stop import Stopper
from unlearn_cli.engine.target import Models
from unlearn_cli.errors import UsageError
from unlearn_cli.evaluations import Evaluation
from unlearn_cli.events import Listener, Notice
from unlearn_cli.runs import RunFolder
from unlearn_cli.spec.tables import Spec
from unlearn_cli.stored import ids_by_set, read_stored

NO_REFERENCE = (
    "no retain reference: metrics that compare with it are null; set retain_reference.path, or "
    "target.base to make one"
)


def evaluate_reference(
    evaluations: Evaluations, models: Models, folder: RunFolder | None = None
) -> list[Evaluation]:
    """The evaluations of the retain reference: stored, or made now; empty where there is none."""
    session = evaluations.session
    stored = session.spec.retain_reference.evaluation
    if stored:
        found = _stored(evaluations, Path(stored))
        for evaluation in found if folder else ():  # the folder has all that its verdict is made of
            evaluations.report(evaluation, folder)
        return found
    path = models.retain_reference()
    if path is None:
        session.emit(Notice(NO_REFERENCE))
        return []
    loaded = session.load(path)
    made_of = fingerprint(loaded.model)
    found = evaluations.evaluate(loaded, made_of, label="retain_reference", step=0, run=folder)
    if folder and session.accelerator.is_main_process:
        folder.update_manifest(retain_reference=made_of)
    return found


def _stored(evaluations: Evaluations, path: Path) -> list[Evaluation]:
    """What a file or run folder tells of the retain reference, for the evaluators of the spec."""
    found = read_stored(path)
    if isinstance(found, list):
        asked = {job.name for job in evaluations.jobs}
        kept = [evaluation for evaluation in found if evaluation.evaluator in asked]
        made = [replace(evaluation, label="retain_reference", step=0) for evaluation in kept]
    else:
        told = {"log": found.tool}
        made = [
            found.evaluation(name, metrics, ids_by_set(probes), data="", settings=told)
            for name, metrics, probes in evaluations.of_rows()
            if found.covers(metrics)
        ]
    if not made:
        evaluations.session.emit(Notice(f"{path} has nothing that this spec measures"))
    return made


def _model_in(path: str) -> str:
    """The model that a run made, where `path` is the folder of one; else the path."""
    run = RunFolder(Path(path))
    return str(run.model) if run.spec.is_file() and run.model.is_dir() else path


def measure(
    spec: Spec,
    *,
    model: str | None,
    run: RunFolder | None,
    listener: Listener,
    label: str = "model",
) -> tuple[list[Evaluation], list[Evaluation]]:
    """Evaluate one model as the spec says.

    Args:
        spec: its `[data]` and `[[evaluate]]` say what to measure.
        model: path, hub id, or folder of a run for the model that it made; by default the run's
            own, else the spec's target.
        run: a run whose evaluations of the retain reference are used, and not made again.
        listener: gets the events, on the main process.
        label: what the model is; `again` where nothing may come out of the cache.

    Returns:
        The evaluations of the model, and those of the retain reference.
    """
    if not spec.evaluate:
        raise UsageError("the spec has no [[evaluate]]", where=spec.name)
    session = Session(spec, listener)
    evaluations = Evaluations(session)
    evaluations.check()
    with Stopper() as stopper:
        models = Models(session, stopper)
        references = [e for e in run.evaluations() if e.label == "retain_reference"] if run else []
        references = references or evaluate_reference(evaluations, models)
        path = _model_in(model) if model else (str(run.model) if run else models.target())
        merged = spec.lora.merge and bool(model or run)  # what such a run made is whole
        loaded = session.load(path, whole=merged)
        found = evaluations.evaluate(
            loaded, fingerprint(loaded.model), label=label, step=0, references=references
        )
    return found, references
