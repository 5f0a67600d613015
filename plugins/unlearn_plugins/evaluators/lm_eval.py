"""Any benchmark of the Language Model Evaluation Harness."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from importlib.util import find_spec
from io import StringIO
from typing import Annotated, Any

from annotated_types import Ge, Gt

from unlearn_cli.api import Location, Number, Subject, Table
from unlearn_cli.api.evaluate import Direction
from unlearn_cli.errors import DataError, PluginError

INSTALL = "pip install 'unlearn-cli[lm-eval]'"


@dataclass(frozen=True)
class LMEval:
    """Tasks of the harness, on the loaded model.

    The set of a task is its name, with `forget_` before it where the task measures what is to be
    forgotten: there lower is better. Every metric of a task is reported, with a value for every
    question where the task has one.

    Source: `lm_eval` (EleutherAI), `simple_evaluate`, to which the options go unchanged.

    Several processes share the questions. What stands in a batch depends on their number, so
    figures of a benchmark may differ in their last digits.
    """

    tasks: tuple[str, ...]
    """Names of tasks or groups, such as `mmlu`; `lm_eval ls tasks` has them."""
    forget_tasks: tuple[str, ...] = ("wmdp*",)
    """Patterns of the tasks that measure what is to be forgotten."""
    num_fewshot: Annotated[int, Ge(0)] | None = None
    """Examples before each question; the task's own number where it is not given."""
    limit: Annotated[int, Gt(0)] | None = None
    """Ask the first so many questions of each task."""
    apply_chat_template: bool = False
    """Ask in the chat template of the tokenizer."""
    include_path: Location | None = None
    """Folder of further tasks, as YAML; these may name Python functions, so that
    `trust_remote_code` must be set."""
    trust_remote_code: bool = False
    """Run Python code that comes with the tasks of `include_path`. Nothing runs unless the command
    says `--trust-remote-code` too."""

    def measure(self, subject: Subject) -> Table:
        """Every figure of every task."""
        if self.include_path and not self.trust_remote_code:
            hint = "if you trust that code, set trust_remote_code = true beside it"
            raise DataError("tasks in YAML may run code", where="include_path", hint=hint)
        if find_spec("lm_eval") is None:
            raise PluginError("lm-eval is not installed", where="[[evaluate]]", hint=INSTALL)
        was_training = subject.model.training
        with _silent():
            try:
                found = self._run(subject)
            finally:
                subject.model.train(was_training)
        return Table(self._rows(found), self._numbers(found))

    def _run(self, subject: Subject) -> Mapping[str, Any]:
        import torch
        from accelerate.utils import broadcast_object_list
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=self.include_path)
        for task in self.tasks:
            if not manager.match_tasks([task]):
                near = get_close_matches(task, manager.all_tasks, n=3)
                hint = f"did you mean {', '.join(near)}?" if near else "see `lm_eval ls tasks`"
                raise DataError(f"the harness has no task {task!r}", where="tasks", hint=hint)
        model = HFLM(
            pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=subject.batch_size
        )
        _share_out(model)
        with torch.random.fork_rng():  # the harness seeds every generator that it knows
            try:
                result = simple_evaluate(
                    model=model,
                    tasks=list(self.tasks),
                    task_manager=manager,
                    num_fewshot=self.num_fewshot,
                    limit=self.limit,
                    apply_chat_template=self.apply_chat_template,
                    bootstrap_iters=0,
                )
            except Exception as error:
                what = f"the tasks {', '.join(self.tasks)} cannot be run: {error}"
                hint = "their data come from the hub, or from the files that their YAML names"
                raise DataError(what, where="[[evaluate]]", hint=hint) from error
        found = [_plain(result) if result else None]  # None on all processes but the first
        broadcast_object_list(found)
        return dict(found[0] or {})

    def _rows(self, found: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float | None]]]:
        rows: dict[str, dict[str, dict[str, float | None]]] = {}
        for task, samples in found.get("samples", {}).items():
            for sample in sorted(samples, key=lambda sample: int(sample["doc_id"])):
                for metric in sample["metrics"]:
                    value = sample.get(metric)
                    known = value if isinstance(value, int | float) else None
                    of_set = rows.setdefault(self._set(task), {}).setdefault(metric, {})
                    of_set[str(sample["doc_id"])] = None if known is None else float(known)
        return rows

    def _numbers(self, found: Mapping[str, Any]) -> dict[str, Number]:
        return {
            f"{self._set(task)}.{name}": Number(
                float(value), self._direction(task, name, found), n=self._count(task, found)
            )
            for task, figures in found["results"].items()
            for name, value in _figures(figures)
        }

    def _direction(self, task: str, metric: str, found: Mapping[str, Any]) -> Direction:
        higher = (found["higher_is_better"].get(task) or {}).get(metric, True)
        return "higher" if higher != self._forgets(task) else "lower"

    def _count(self, task: str, found: Mapping[str, Any]) -> int:
        counts = found.get("n-samples", {})
        parts: Sequence[str] = found.get("group_subtasks", {}).get(task) or [task]
        return sum(counts[part]["effective"] for part in parts if part in counts)

    def _forgets(self, task: str) -> bool:
        return any(fnmatchcase(task, pattern) for pattern in self.forget_tasks)

    def _set(self, task: str) -> str:
        return f"forget_{task}" if self._forgets(task) else task


def _share_out(model: Any) -> None:
    """Let the processes share the questions, as the harness does with models that it loads."""
    from accelerate import Accelerator

    model.accelerator = Accelerator()
    model._rank = model.accelerator.process_index
    model._world_size = model.accelerator.num_processes


PARTS = ("results", "samples", "higher_is_better", "n-samples", "group_subtasks")


def _plain(result: Mapping[str, Any]) -> dict[str, Any]:
    """What is read of the result, as JSON has it: the rest may hold functions."""
    parts = {name: result[name] for name in PARTS if name in result}
    plain: dict[str, Any] = json.loads(json.dumps(parts, default=str))
    return plain


def _figures(figures: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(metric, value) of a task: `acc,none` is accuracy without a filter."""
    for key, value in figures.items():
        metric, _, filtered = key.partition(",")
        if filtered and not metric.endswith("_stderr") and isinstance(value, int | float):
            yield (metric if filtered == "none" else f"{metric}_{filtered}"), value


@contextmanager
def _silent() -> Iterator[None]:
    """The harness logs and draws bars; errors come as exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with redirect_stderr(StringIO()), redirect_stdout(StringIO()):
            yield
    finally:
        logging.disable(before)
