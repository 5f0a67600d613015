"""Models that a run makes by plain fine-tuning: target, retain reference, reinforced model.

They are cached by the content of their inputs (base weights, tokenization, rows, recipe, seed), so
a sweep over methods pays once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from unlearn_cli.api.data import Row
from unlearn_cli.api.evaluate import Recipe
from unlearn_cli.engine import titles
from unlearn_cli.engine.cache import cache_folder, content_key, make_once
from unlearn_cli.engine.checkpoints import Checkpoints
from unlearn_cli.engine.encode import Encoded, Encoder
from unlearn_cli.engine.forward import Scorer
from unlearn_cli.engine.lazy import joined
from unlearn_cli.engine.lora import own_parameters
from unlearn_cli.engine.models import Loaded, save_model
from unlearn_cli.engine.models import fingerprint as model_fingerprint
from unlearn_cli.engine.objective import Streams, Term, nll_term
from unlearn_cli.engine.plan import Plan, make_plan
from unlearn_cli.engine.rows import fingerprint
from unlearn_cli.engine.session import Session
from unlearn_cli.engine.stop import Stopper
from unlearn_cli.engine.timetable import Timetable
from unlearn_cli.engine.tokens import encode
from unlearn_cli.engine.train import Due, Optimization, Trainer
from unlearn_cli.environment import versions
from unlearn_cli.events import CheckpointSaved
from unlearn_cli.spec.tables import RecipeTable


@dataclass(frozen=True)
class Made:
    """A model that a run makes of a base."""

    stage: str
    title: str
    recipe: RecipeTable
    splits: tuple[Sequence[Row], ...]
    """The rows that it learns."""


def made_target(session: Session) -> Made:
    """The model to unlearn, where it is made."""
    bundle = session.bundle
    return Made("target", titles.TARGET, session.spec.target, (bundle.forget, bundle.retain))


def made_reference(session: Session) -> Made:
    """The model that never saw the forget rows, where it is made."""
    title, rows = titles.RETAIN_REFERENCE, session.bundle.retain
    return Made("retain_reference", title, session.spec.target, (rows,))


def made_reinforced(session: Session) -> Made:
    """The model that learned the forget rows once more."""
    title, rows = titles.REINFORCED, session.bundle.forget
    return Made("reinforced", title, session.spec.reinforce, (rows,))


class Models:
    """Where the models of a run are: named by the spec, or made as it says."""

    def __init__(self, session: Session, stopper: Stopper) -> None:
        self.session, self.spec, self.stopper = session, session.spec, stopper
        base = session.spec.target.base
        self._from_base = FineTuning(session, stopper, base) if base else None

    def target(self) -> str:
        """Path of the model to unlearn."""
        if not self._from_base:
            return str(self.spec.model.path)
        return str(self._from_base.make(made_target(self.session)))

    def retain_reference(self) -> str | None:
        """Path of the model that never saw the forget rows; None where the spec has none."""
        if not self._from_base:
            return self.spec.retain_reference.path
        if not self.session.bundle.retain:
            return None
        return str(self._from_base.make(made_reference(self.session)))

    def reinforced(self, target: str) -> str:
        """Path of the model that learned the forget rows once more; from the path of the target."""
        tuning = FineTuning(self.session, self.stopper, target)
        return str(tuning.make(made_reinforced(self.session)))


class FineTuning:
    """Models that are made of one base."""

    def __init__(self, session: Session, stopper: Stopper, base: str) -> None:
        self.session, self.stopper, self.base = session, stopper, base
        self._base: Loaded | None = None

    def _load_base(self) -> Loaded:
        loaded, self._base = self._base, None
        return loaded or self.session.load(self.base, whole=True)

    @cached_property
    def _base_key(self) -> tuple[str, str]:
        """What the base decides of a result: its weights and its tokenization."""
        self._base = self._load_base()
        encoder = self.session.encoder(self._base.tokenizer)
        return model_fingerprint(self._base.model), encoder.fingerprint

    def make(self, made: Made) -> Path:
        """Folder of a model: from the cache, or made now. No base is in memory afterwards."""
        folder = cache_folder("models") / self._key(made)
        # Long fine-tunings survive a kill too: their checkpoints live beside the result.
        checkpoints = Checkpoints(folder.with_name(f"{folder.name}.checkpoints"))

        def make(place: Path) -> None:
            with self.stopper.waiting():
                self._fine_tune(self._load_base(), made, checkpoints, place)

        if not make_once(self.session, folder, make):
            self.session.cached(made.stage, made.title)
        if self.session.accelerator.is_main_process:
            checkpoints.remove()  # also of a run that was killed once the model was there
        self._base = None
        return folder

    def _key(self, made: Made) -> str:
        spec = self.session.spec
        recipe = made.recipe.model_dump(exclude={"base"})
        precision = (spec.train.mixed_precision, spec.model.dtype, spec.model.attention)
        rows = [*map(fingerprint, made.splits)]
        return content_key(versions(), self._base_key, rows, recipe, precision, spec.seed)

    def _fine_tune(
        self, loaded: Loaded, made: Made, checkpoints: Checkpoints, folder: Path
    ) -> None:
        session = self.session
        tuning = plan_tuning(session, session.encoder(loaded.tokenizer), made)
        trainer = _trainer(session, loaded, tuning, checkpoints, self.stopper)
        trainer.resume_newest()
        with session.stage(made.stage, made.title, len(tuning.plan.steps)):
            trainer.fit(Due(Timetable(session.spec, tuning.plan).checkpoint_or_end))
        main = session.accelerator.is_main_process
        save_model(loaded.model, loaded.tokenizer, folder, main=main)
        session.accelerator.wait_for_everyone()
        session.accelerator.free_memory()


@dataclass(frozen=True)
class Tuning:
    """Plain fine-tuning on rows, before there is a model."""

    stage: str
    rows: Sequence[Encoded]
    plan: Plan
    optimization: Optimization

    @property
    def streams(self) -> Streams:
        """The rows, by the name under which the term takes them."""
        return {"rows": self.rows}

    @property
    def terms(self) -> list[Term]:
        """Of the loss."""
        return [nll_term("rows", 1.0)]


def plan_tuning(session: Session, encoder: Encoder, made: Made) -> Tuning:
    """How a model is made."""
    recipe, train = made.recipe, session.spec.train
    optimization = Optimization(
        recipe.learning_rate,
        recipe.schedule,
        recipe.warmup_epochs,
        recipe.weight_decay,
        recipe.max_grad_norm,
        train.micro_batch,
        train.activation_checkpointing,
        recipe.optimizer,
    )
    size, epochs = recipe.batch_size, recipe.epochs
    return _tuning(session, encoder, made.splits, optimization, made.stage, size, epochs)


def plan_briefly(
    session: Session, encoder: Encoder, rows: Sequence[Row], recipe: Recipe, *, stage: str
) -> Tuning:
    """How a stress test fine-tunes a model: at a constant rate."""
    train, size = session.spec.train, recipe.batch_size
    optimization = Optimization(
        recipe.learning_rate,
        schedule="constant",
        warmup_epochs=0,
        weight_decay=0,
        max_grad_norm=1,
        micro_batch=train.micro_batch,
        activation_checkpointing=train.activation_checkpointing,
    )
    epochs = None if recipe.steps else recipe.epochs
    return _tuning(session, encoder, [rows], optimization, stage, size, epochs, recipe.steps)


def fine_tune_briefly(
    session: Session, loaded: Loaded, rows: Sequence[Row], recipe: Recipe, *, stage: str
) -> None:
    """Fine-tune a model in place as a stress test asks: all parameters, and no checkpoint."""
    train_own(loaded.model)
    tuning = plan_briefly(session, session.encoder(loaded.tokenizer), rows, recipe, stage=stage)
    _trainer(session, loaded, tuning, Checkpoints(Path(os.devnull))).fit()
    session.accelerator.free_memory()


def train_own(model: Any) -> None:
    """All parameters of the model itself get gradients, and no others."""
    model.requires_grad_(False)
    for parameter in own_parameters(model):
        parameter.requires_grad_(True)


def _tuning(
    session: Session,
    encoder: Encoder,
    splits: Sequence[Sequence[Row]],
    optimization: Optimization,
    stage: str,
    batch_size: int,
    epochs: float | None,
    steps: int | None = None,
) -> Tuning:
    items = joined([encode(session, encoder, rows, stage).items for rows in splits if rows])
    plan = make_plan(
        forget=len(items),
        retain=0,
        batch_size=batch_size,
        seed=session.spec.seed,
        epochs=epochs,
        steps=steps,
    )
    return Tuning(stage, items, plan, optimization)


def _trainer(
    session: Session,
    loaded: Loaded,
    tuning: Tuning,
    checkpoints: Checkpoints,
    stop: Callable[[], int] = lambda: 0,
) -> Trainer:
    """Plain fine-tuning of a model, about to begin; its checkpoints are the cache's, no run's."""
    return Trainer(
        session.accelerator,
        Scorer(loaded.model),
        loaded.tokenizer,
        tuning.plan,
        tuning.streams,
        tuning.terms,
        tuning.optimization,
        checkpoints,
        stage=tuning.stage,
        emit=lambda event: None if isinstance(event, CheckpointSaved) else session.emit(event),
        stop=stop,
    )
