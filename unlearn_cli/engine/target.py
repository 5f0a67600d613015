"""Models that a run makes by plain fine-tuning: target, retain reference, reinforced model.

They are cached by the content of their inputs (base weights, tokenization, rows, recipe, seed), so
a sweep over methods pays once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from unlearn_cli.api.data import Row
from unlearn_cli.api.evaluate import Recipe
from unlearn_cli.engine.cache import cache_folder, content_key, ours_to_make
from unlearn_cli.engine.checkpoints import Checkpoints
from unlearn_cli.engine.forward import Scorer
from unlearn_cli.engine.lazy import joined
from unlearn_cli.engine.lora import own_parameters
from unlearn_cli.engine.models import Loaded, save_model
from unlearn_cli.engine.models import fingerprint as model_fingerprint
from unlearn_cli.engine.objective import nll_term
from unlearn_cli.engine.plan import make_plan
from unlearn_cli.engine.rows import fingerprint
from unlearn_cli.engine.session import Session
from unlearn_cli.engine.stop import Stopper
from unlearn_cli.engine.tokens import encode
from unlearn_cli.engine.train import Optimization, Trainer
from unlearn_cli.environment import versions
from unlearn_cli.spec.tables import RecipeTable


class Models:
    """Where the models of a run are: named by the spec, or made as it says."""

    def __init__(self, session: Session, stopper: Stopper) -> None:
        self.session, self.spec, self.stopper = session, session.spec, stopper
        base = session.spec.target.base
        self._from_base = FineTuning(session, stopper, base, session.spec.target) if base else None

    def target(self) -> str:
        """Path of the model to unlearn."""
        if not self._from_base:
            return str(self.spec.model.path)
        bundle = self.session.bundle
        title = "Fine-tune the target on forget + retain"
        folder = self._from_base.make("target", title, bundle.forget, bundle.retain)
        self._from_base.release()
        return str(folder)

    def retain_reference(self) -> str | None:
        """Path of the model that never saw the forget rows; None where the spec has none."""
        if not self._from_base:
            return self.spec.retain_reference.path
        if not self.session.bundle.retain:
            return None
        title = "Fine-tune the retain reference on retain"
        return str(self._from_base.make("retain_reference", title, self.session.bundle.retain))

    def reinforced(self, target: str) -> str:
        """Path of the model that learned the forget rows once more; from the path of the target."""
        tuning = FineTuning(self.session, self.stopper, target, self.spec.reinforce)
        title = "Fine-tune the target once more on forget"
        folder = tuning.make("reinforced", title, self.session.bundle.forget)
        tuning.release()
        return str(folder)


class FineTuning:
    """Models that one recipe makes of one base, each on rows of its own."""

    def __init__(self, session: Session, stopper: Stopper, base: str, recipe: RecipeTable) -> None:
        self.session, self.stopper, self.base, self.recipe = session, stopper, base, recipe
        self._base: Loaded | None = None

    def release(self) -> None:
        """Let go of the base, so that no second model stays in memory."""
        self._base = None

    def _load_base(self) -> Loaded:
        loaded, self._base = self._base, None
        return loaded or self.session.load(self.base, whole=True)

    @cached_property
    def _base_key(self) -> tuple[str, str]:
        """What the base decides of a result: its weights and its tokenization."""
        self._base = self._load_base()
        encoder = self.session.encoder(self._base.tokenizer)
        return model_fingerprint(self._base.model), encoder.fingerprint

    def make(self, stage: str, title: str, *splits: Sequence[Row]) -> Path:
        """Folder of the base model fine-tuned on the rows: from the cache, or made now."""
        folder = cache_folder("models") / self._key(splits)
        with ours_to_make(self.session, folder) as missing:
            if not missing:
                _checkpoints(folder).remove()  # of a run that was killed once the model was there
                self.session.cached(stage, title)
                return folder
            with self.stopper.waiting():
                self._fine_tune(self._load_base(), stage, title, splits, folder)
        return folder

    def _key(self, splits: Sequence[Sequence[Row]]) -> str:
        spec = self.session.spec
        recipe = self.recipe.model_dump(exclude={"base"})
        precision = (spec.train.mixed_precision, spec.model.dtype, spec.model.attention)
        return content_key(
            versions(), self._base_key, [*map(fingerprint, splits)], recipe, precision, spec.seed
        )

    def _fine_tune(
        self,
        loaded: Loaded,
        stage: str,
        title: str,
        splits: Sequence[Sequence[Row]],
        folder: Path,
    ) -> None:
        session, recipe = self.session, self.recipe
        # Long fine-tunings survive an interrupt too: their checkpoints live beside the result.
        checkpoints = _checkpoints(folder)
        trainer = _trainer(
            session,
            loaded,
            splits,
            Optimization(
                recipe.learning_rate,
                recipe.schedule,
                recipe.warmup_epochs,
                recipe.weight_decay,
                recipe.max_grad_norm,
                session.spec.train.micro_batch,
                session.spec.train.activation_checkpointing,
                recipe.optimizer,
            ),
            checkpoints,
            stage=stage,
            batch_size=recipe.batch_size,
            epochs=recipe.epochs,
            stop=self.stopper,
        )
        trainer.resume_newest()
        with session.stage(stage, title, len(trainer.plan.steps)):
            trainer.fit()
        main = session.accelerator.is_main_process
        save_model(loaded.model, loaded.tokenizer, folder, main=main)
        if main:
            checkpoints.remove()
        session.accelerator.wait_for_everyone()
        session.accelerator.free_memory()


def _checkpoints(folder: Path) -> Checkpoints:
    return Checkpoints(folder.with_name(f"{folder.name}.checkpoints"))


def fine_tune_briefly(
    session: Session, loaded: Loaded, rows: Sequence[Row], recipe: Recipe, *, stage: str
) -> None:
    """Fine-tune a model in place as a stress test asks: all parameters, a constant rate, and no
    checkpoint."""
    loaded.model.requires_grad_(False)
    for parameter in own_parameters(loaded.model):
        parameter.requires_grad_(True)
    _trainer(
        session,
        loaded,
        [rows],
        Optimization(recipe.learning_rate, "constant", 0, 0, 1, session.spec.train.micro_batch),
        Checkpoints(Path(os.devnull)),
        stage=stage,
        batch_size=recipe.batch_size,
        epochs=None if recipe.steps else recipe.epochs,
        steps=recipe.steps,
    ).fit()
    session.accelerator.free_memory()


def _trainer(
    session: Session,
    loaded: Loaded,
    splits: Sequence[Sequence[Row]],
    optimization: Optimization,
    checkpoints: Checkpoints,
    *,
    stage: str,
    batch_size: int,
    epochs: float | None,
    steps: int | None = None,
    stop: Callable[[], int] = lambda: 0,
) -> Trainer:
    """Plain fine-tuning of a model on rows, about to begin."""
    encoder = session.encoder(loaded.tokenizer)
    items = joined([encode(session, encoder, rows, stage).items for rows in splits if rows])
    plan = make_plan(
        forget=len(items),
        retain=0,
        batch_size=batch_size,
        seed=session.spec.seed,
        epochs=epochs,
        steps=steps,
    )
    return Trainer(
        session.accelerator,
        Scorer(loaded.model),
        loaded.tokenizer,
        plan,
        {"rows": items},
        [nll_term("rows", 1.0)],
        optimization,
        checkpoints,
        stage=stage,
        emit=session.emit,
        stop=stop,
    )
