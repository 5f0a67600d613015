"""`--dry-run`: what a run would do, before any model is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from unlearn_cli.engine.data import show_tokens
from unlearn_cli.engine.estimate import UnforeseenError
from unlearn_cli.engine.forecast import Forecast, forecast
from unlearn_cli.engine.models import load_skeleton, load_tokenizer
from unlearn_cli.engine.sequences import Sequences
from unlearn_cli.engine.session import Session
from unlearn_cli.engine.work import Work, prepare
from unlearn_cli.events import Listener
from unlearn_cli.spec.tables import Spec


@dataclass(frozen=True)
class DryRun:
    """The plan of a run, for people."""

    lines: tuple[str, ...]
    examples: tuple[tuple[str, list[tuple[str, bool]]], ...]
    """Name of a split, and the pieces of its first example with whether they carry loss."""
    forecast: Forecast | None
    """None where it would depend on values."""


def dry_run(spec: Spec, listener: Listener) -> DryRun:
    """Read the data, tokenize it and draw the plan. Loads a tokenizer and no model."""
    session = Session(spec, listener)
    path = str(spec.target.base or spec.model.path)
    texts = session.texts() if path.startswith("builtin:") else ()
    tokenizer = load_tokenizer(spec.model, path, texts, spec.seed)
    skeleton = load_skeleton(spec.model, path, texts)
    # What the model will make is not there yet: its place is taken by the true answers.
    encoder = session.encoder(tokenizer)
    work = prepare(session, encoder, skeleton, lambda rows: [(row.answer,) for row in rows])
    examples = tuple(
        (name, show_tokens(tokenizer, items[0])) for name, items in work.streams.items()
    )
    lines = _lines(session, path, work)
    try:
        ahead = forecast(session, work, skeleton, encoder)
    except UnforeseenError as error:
        return DryRun((*lines, f"memory and time: {error.what}"), examples, None)
    return DryRun((*lines, *ahead.lines()), examples, ahead)


def _lines(session: Session, path: str, work: Work) -> list[str]:
    spec, plan = session.spec, work.plan
    made = " (fine-tuned first, with the retain reference)" if spec.target.base else ""
    lines = [f"model: {path}{made}"]
    for name, stream in work.streams.items():
        items = Sequences.of(stream)
        tokens, answers = len(items.input_ids), int(items.answers.sum())
        lines.append(f"{name}: {len(items)} rows, {tokens} tokens, {answers} of them carry loss")
    method = spec.method
    lines.append(
        f"method: {method.name}, gamma {method.gamma:g}, alpha {method.alpha:g}, "
        f"retain {method.retain}"
    )
    if work.choice.layers:
        lines.append(f"reads: {', '.join(work.choice.layers.values())}")
    trained = len(work.choice.parameters)
    lines.append(f"trains: {trained} parameter tensors ({', '.join(method.parameters or ())})")
    epochs = len(plan.steps) / plan.steps_per_epoch
    lines.append(
        f"train: {len(plan.steps)} steps of {spec.train.batch_size} forget rows "
        f"({plan.steps_per_epoch} an epoch, {epochs:g} epochs)"
    )
    requests = work.requests(spec)
    if work.alternates and spec.data.alternates == "model":
        table = spec.alternates
        lines.append(
            f"alternates: {table.count} a row by the model, temperature {table.temperature:g}; "
            "above, the true answers stand for them"
        )
    lines += [f"reference pass: {len(r.rows)} {r.stream} rows, {r.what}" for r in requests]
    if not requests:
        lines.append("reference pass: none")
    if work.needs.reinforced:
        lines.append(f"reinforced model: the target after {spec.reinforce.epochs:g} more epochs")
    lines += [f"evaluate: {e.evaluator}, every {e.every}" for e in spec.evaluate]
    return lines
