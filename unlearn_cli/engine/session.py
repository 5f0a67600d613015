"""What the stages of a run share: spec, processes, rows, the clock, and where results go."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list
from transformers.utils import logging as transformers_logging

from unlearn_cli import catalog
from unlearn_cli.api.data import Bundle, DataContext, Row
from unlearn_cli.engine.cache import content_key
from unlearn_cli.engine.data import check_overlap
from unlearn_cli.engine.encode import Encoder
from unlearn_cli.engine.lora import merge
from unlearn_cli.engine.memory import give_back, keep_freed
from unlearn_cli.engine.models import Loaded, load_model
from unlearn_cli.engine.parts import UNSHARDED, Parts
from unlearn_cli.engine.rows import fingerprint, keep
from unlearn_cli.engine.sharding import one_after_another, shard, sharding
from unlearn_cli.engine.zero import name_device, take_over
from unlearn_cli.errors import UnlearnError, UsageError
from unlearn_cli.events import (
    EvaluationDone,
    Event,
    Listener,
    Notice,
    StageFinished,
    StageProgress,
    StageStarted,
    StepDone,
)
from unlearn_cli.spec.tables import Spec

MOMENTS = 1000
"""Reports of progress in a stage of known length, at most, and in one of unknown length as often as
it has grown by such a part of itself: the log does not grow with rows."""
ALONE = timedelta(hours=2)
"""How long processes wait for what one does alone, as to write a large model; torch's own limit is
ten minutes with GPUs. One that has died ends the others at once, through whatever launched them."""


class Session:
    """One run, or one evaluation, on all its processes."""

    def __init__(self, spec: Spec, listener: Listener) -> None:
        transformers_logging.disable_progress_bar()  # the engine emits events and never prints
        transformers_logging.set_verbosity_error()
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses kernels on import
        keep_freed()
        self.spec, self.listener = spec, listener
        _refuse_twins(spec)
        self.accelerator = _accelerator(spec)
        self.device: torch.device = self.accelerator.device
        name_device(self.device)
        self.sharding = sharding(self.accelerator)
        if self.sharding:
            _refuse_sharded(spec, self.sharding)

    def emit(self, event: Event) -> None:
        """Tell the listener, on the main process."""
        if self.accelerator.is_main_process:
            self.listener(event)

    def decide(self, question: Callable[[], bool]) -> bool:
        """The main process's answer, on all processes: what is on disk may change in between."""
        yes = self.accelerator.is_main_process and question()
        flag = torch.tensor([float(yes)], device=self.device)
        return bool(self.accelerator.reduce(flag).item())

    def on_main(self, work: Iterator[int], progress: Callable[[int], None]) -> None:
        """Run a generator on the main process alone, and report what it yields.

        The others wait by short looks, since their collective operations time out, and fail with
        it where an error of the user's stops it.
        """
        failed: list[UnlearnError | None] = [None]

        def go_on() -> bool:
            try:
                done = next(work, None)
            except UnlearnError as error:
                failed[0], done = error, None
            if done is not None:
                progress(done)
            return done is not None

        while self.decide(go_on):
            pass
        broadcast_object_list(failed)
        if failed[0]:
            raise failed[0]

    @contextmanager
    def stage(
        self, name: str, title: str, total: int | None = None, unit: str = "steps"
    ) -> Iterator[Callable[[int], None]]:
        """A stage with its clock; yields a function that reports progress."""
        give_back()  # an optimizer, say, that lived until the stage before had ended
        started = time.perf_counter()
        self.emit(StageStarted(name, title, total, unit))
        told = 0

        def progress(done: int) -> None:
            nonlocal told
            if done - told >= (total or told) / MOMENTS or done == total:
                self.emit(StageProgress(name, done))
                told = done

        yield progress
        give_back()
        self.emit(StageFinished(name, time.perf_counter() - started))

    def cached(self, name: str, title: str) -> None:
        """A stage whose result was there already."""
        self.emit(StageStarted(name, title))
        self.emit(StageFinished(name, 0.0, cached=True))

    @cached_property
    def bundle(self) -> Bundle:
        """All rows, as text, checked for overlap."""
        data = self.spec.data
        dataset = catalog.build("dataset", data.dataset, data.options)
        # Rows that are kept are those of this data set, as this version of it reads them.
        plugin = catalog.find("dataset", data.dataset)
        reader = f"{plugin.qualified} {plugin.version}"
        context = DataContext(self.spec.seed, Path.cwd(), partial(keep, self, reader))
        bundle: Bundle = dataset.load(context)
        for text in check_overlap(bundle, data.overlap):
            self.emit(Notice(text))
        return bundle

    def texts(self) -> Iterable[str]:
        """Every text of the bundle, in a fixed order, as often as it is gone through: what a
        tokenizer made in code learns."""
        bundle = self.bundle
        return _Texts((bundle.forget, bundle.retain, *bundle.evaluation.values()))

    def load(self, path: str, *, whole: bool = False) -> Loaded:
        """Load a model and put it, or its part of it, on this process's device. `whole`: not in 4
        bits, and with an adapter merged into it."""
        spec = self.spec
        texts = self.texts() if path.startswith("builtin:") else ()
        quantized = spec.lora.base == "nf4" and not whole

        def load() -> Loaded:
            loaded = load_model(
                spec.model, path, self.device, texts, spec.seed, quantized=quantized
            )
            if whole:
                merge(loaded.model)
            if self.sharding:
                shard(loaded.model, self.device, self.sharding)
            else:
                loaded.model.to(self.device)
            return loaded

        return one_after_another(load, wanted=bool(self.sharding))

    def encoder(self, tokenizer: Any) -> Encoder:
        """The encoder that the spec asks for."""
        return Encoder(tokenizer, self.spec.template, self.spec.data.max_length)

    def start_trackers(self) -> None:
        """Open the trackers that the spec asks for (TensorBoard)."""
        self.accelerator.init_trackers("tensorboard")

    def track(self, event: Event) -> None:
        """Send curves to the trackers: the training losses, and the metrics over steps."""
        if isinstance(event, StepDone) and event.stage == "train":
            values = {f"loss/{name}": value for name, value in event.losses.items()}
            rate = {"train/learning_rate": event.learning_rate}
            self.accelerator.log(values | rate, step=event.step)
        elif isinstance(event, EvaluationDone) and event.label != "retain_reference":
            numbers = event.table.numbers.items()
            values = {f"{event.evaluator}/{k}": n.value for k, n in numbers if n.value is not None}
            self.accelerator.log(values, step=event.step)

    def inputs(self) -> dict[str, str]:
        """Content of everything that training reads, besides the model and the spec."""
        bundle, alternates = self.bundle, Path(self.spec.data.alternates)
        lines = alternates.read_text("utf-8") if alternates.is_file() else ""
        return {
            "forget rows": fingerprint(bundle.forget),
            "retain rows": fingerprint(bundle.retain),
            "evaluation rows": self.data_hash,
            "alternates": content_key(lines),
        }

    @cached_property
    def data_hash(self) -> str:
        """Content of all rows that the evaluations may score."""
        bundle = self.bundle
        names = sorted({"forget", "retain", "holdout", *bundle.evaluation})
        return content_key({name: fingerprint(bundle.rows(name)) for name in names})


@dataclass(frozen=True)
class _Texts:
    splits: Sequence[Sequence[Row]]

    def __iter__(self) -> Iterator[str]:
        return (text for rows in self.splits for row in rows for text in _texts(row))


def _texts(row: Row) -> Iterator[str]:
    yield from (message.content for message in row.messages)
    yield from (row.prompt, row.answer, row.paraphrase or "", row.paraphrased_question or "")
    yield from (*row.perturbed, *row.answers, *row.alternates)


def _refuse_twins(spec: Spec) -> None:
    """Results are filed under the evaluator's name."""
    names = [table.evaluator for table in spec.evaluate]
    if twins := {name for name in names if names.count(name) > 1}:
        raise UsageError(
            f"{', '.join(sorted(twins))} is there more than once",
            where="[[evaluate]]",
            hint="name each evaluator once in a run; `unlearn evaluate` takes other options",
        )


def _refuse_sharded(spec: Spec, way: Parts) -> None:
    """What would look at a weight as if it were whole, or be measured on a whole model."""
    recipes: Mapping[str, Any] = {
        "train": spec.train,
        "target": spec.target,
        "reinforce": spec.reinforce,
    }
    wrong = {
        "[lora].dora": spec.lora.dora,
        "[lora].base": spec.lora.base == "nf4",
        "[train].micro_batch": spec.train.micro_batch == "auto",
        "[wrap].saliency": spec.wrap.saliency is not None and not way.gives_gradients,
        **{f"[{name}].optimizer": recipe.optimizer != "adamw" for name, recipe in recipes.items()},
    }
    for where in (key for key, is_wrong in wrong.items() if is_wrong):
        raise UsageError("does not go with a sharded model", where=where, hint=UNSHARDED)


def _accelerator(spec: Spec) -> Accelerator:
    trackers: dict[str, Any] = {}
    if spec.output.tensorboard:
        if find_spec("tensorboard") is None:
            raise UsageError(
                "TensorBoard is not installed",
                where="[output].tensorboard",
                hint="pip install 'unlearn-cli[tensorboard]'",
            )
        folder = Path(spec.output.folder) / spec.name
        trackers = {"log_with": "tensorboard", "project_dir": str(folder)}
    if "LOCAL_RANK" in os.environ and not torch.accelerator.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # else processes do not find each other
    take_over(spec)
    # accelerate keeps the precision of a process's first run and refuses another; a sweep has many.
    AcceleratorState._reset_state()  # there is no public way; accelerate's own tests use it
    waiting = InitProcessGroupKwargs(timeout=ALONE)
    accelerator = Accelerator(
        mixed_precision=spec.train.mixed_precision, kwargs_handlers=[waiting], **trackers
    )
    if accelerator.device.type == "cpu":
        # Of several processes it numbers it, and tensors without data are not on `cpu` and `cpu:0`.
        accelerator.state.device = torch.device("cpu")
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != accelerator.num_processes:  # each would do the whole run, in the same folder
        raise UsageError(
            f"the launcher started {started} processes, which did not find each other",
            where="launcher",
            hint="on CPU set ACCELERATE_USE_CPU=true, or use `unlearn run --processes`",
        )
    if spec.train.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise UsageError(
            "fp16 needs an accelerator", where="[train].mixed_precision", hint='use "no" or "bf16"'
        )
    return accelerator
