"""What `--dry-run` says of memory, against what the run then took."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.end_to_end.conftest import Here, Workplace, events
from unlearn_cli.engine import imagined
from unlearn_cli.engine.builtin import make_tiny
from unlearn_cli.engine.models import save_model
from unlearn_cli.engine.train import recompute_activations

RUN = """
import resource
from unlearn_cli.cli import main
try:
    main({arguments!r})
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def save_medium(folder: Path, width: int, layers: int) -> None:
    """Some 30 million weights, so that Python and its libraries are not what is measured."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 128,
        vocab_size=8192,
        tie_word_embeddings=True,
    )
    save_model(LlamaForCausalLM(config), make_tiny(["Who? A person called so."], 0)[1], folder)


RELEARN = "{evaluator = 'relearn', share = 0.5, epochs = 3, rows_per_step = 1}"
STRESSED = f"evaluate=[{{evaluator = 'tofu', every = 2, max_new_tokens = 4}}, {RELEARN}]"
RECOMPUTED = ("lora.rank=8", "train.activation_checkpointing=true")
WIDE, DEEP = (512, 8), (256, 40)
"""Width and layers; of the deep one, what a layer hands on is well below 1 MiB, many times."""
SHARP = ("method.retain=none", "wrap.sam_rho=0.01", "wrap.saliency=0.5", STRESSED)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        (WIDE, ("method.name=npo",)),
        (WIDE, ("method.name=grad_diff", "method.retain=kl", "train.micro_batch=4")),
        (WIDE, ("method.name=npo", "lora.rank=8", "train.micro_batch=3")),
        (WIDE, ("method.name=npo", *RECOMPUTED)),
        (DEEP, ("method.name=npo", *RECOMPUTED)),
        (WIDE, ("method.name=npo", "wrap.sam_rho=0.01")),
        (WIDE, ("method.name=npo", *SHARP)),
    ],
    ids=[
        "npo",
        "kl-small-parts",
        "adapter",
        "recomputed",
        "deep",
        "sharp",
        "sharp-salient-relearned",
    ],
)
def test_the_peak_is_within_a_fifth_of_what_was_said(
    place: Workplace, shape: tuple[int, int], settings: tuple[str, ...]
) -> None:
    """The estimate of the whole process, and what stands above Python and its libraries, against
    the peak of the process that ran: weights, gradients, optimizer, activations, logits, copies."""
    save_medium(place.folder / "medium", *shape)
    given = (*settings, "model.path=medium", "train.batch_size=12", "train.steps=3")
    settings_of = [f"--set={setting}" for setting in given]
    spec = place.spec.read_text("utf-8")
    place.spec.write_text(spec.replace('base = "builtin:tiny"\n', ""), encoding="utf-8")
    said = place.unlearn("run", "spec.toml", "--dry-run", "--json", *settings_of)
    assert said.code == 0, said.err
    forecast = json.loads(said.out)["forecast"]

    code = RUN.format(arguments=["run", "spec.toml", *settings_of])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=place.folder,
        env=place.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    measured = 1024 * int(done.stdout.splitlines()[-1])
    assert forecast["peak"] == pytest.approx(measured, rel=0.2)
    libraries = forecast["libraries"]  # most of this small process, and known
    assert forecast["peak"] - libraries == pytest.approx(measured - libraries, rel=0.35)


def logged(run: Path) -> dict[str, list[int]]:
    """Title of each stage in the log -> the steps or rows that it did, and the tokens of its steps;
    those of one title together."""
    found: dict[str, list[int]] = {}
    open_: list[list[int]] = []
    for event in events(run):
        if event["event"] == "StageStarted":
            open_.append(found.setdefault(event["title"], [0, 0]))
            open_[-1][0] += event["total"] if event["unit"] == "rows" else 0
        elif event["event"] == "StageFinished":
            open_.pop()
        elif event["event"] == "StepDone":
            open_[-1][0] += 1
            open_[-1][1] += event["tokens"]
    return found


def test_the_stages_are_those_of_the_log(
    place: Workplace, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which stages, in which order, how many steps and rows, and how many tokens in training, with
    sharpness, saliency and relearning, and nothing in the cache.

    By hand: 4 forget and 6 retain rows among 48, since the tiny data has 42 facts more; 50 answers
    are asked of each model, by `tofu` after steps 2 and 4 of 4 too. The target learns 52 rows in
    batches of 16, twice; half of the forget rows are relearned one by one, three times. Each step
    takes its 2 rows twice through the model; two steps see them all, so that all are taken 4 times.
    The salient tensors are looked for in the steps of the first epoch."""
    monkeypatch.setenv("UNLEARN_CACHE", str(place.folder / "cache"))
    settings = [f"--set={setting}" for setting in ("method.name=npo", *SHARP)]
    said = here("run", "spec.toml", "--dry-run", "--json", *settings)
    stages = json.loads(said.out)["forecast"]["stages"]
    counts = {stage["title"]: stage["count"] for stage in stages}
    assert counts == {
        "Fine-tune the retain reference on retain": 6,
        "Evaluate the retain reference: tofu": 50,
        "Stress the retain reference: relearn": 6,
        "Evaluate the retain reference: relearn": 50,
        "Fine-tune the target on forget + retain": 8,
        "Evaluate the target: tofu": 50,
        "Score the model before its first update": 4,
        "Find the parameters to train": 2,
        "Unlearn with npo": 4,
        "Evaluate the checkpoint: tofu": 100,
        "Stress the unlearned: relearn": 6,
        "Evaluate the unlearned: relearn": 50,
    }
    plan = json.loads(said.out)["plan"]
    forget = int(next(line for line in plan if line.startswith("forget: 4 rows, ")).split()[3])
    tokens = {stage["title"]: stage["tokens"] for stage in stages}
    assert tokens["Unlearn with npo"] == 4 * forget

    done = here("run", "spec.toml", *settings)
    assert done.code == 0, done.err
    found = logged(place.run_folder("tiny"))
    assert list(found) == list(counts)
    found.pop("Find the parameters to train")  # its passes are no steps, and not in the log
    assert {title: number for title, (number, _) in found.items()} == {
        title: counts[title] for title in found
    }
    assert {title: number for title, (_, number) in found.items()} == {
        title: tokens[title] for title in found
    }


def test_every_training_recomputes_activations(
    place: Workplace, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `activation_checkpointing`, unlearning, fine-tuning and stress tests keep fewer
    activations, and their forecasts say so: less memory for the first two. One row's activations
    are never the most that a step has, so that the third recomputes is seen by the calls, four in
    all: unlearning, the retain reference, the target and what is relearned."""
    save_medium(place.folder / "medium", 256, 8)
    tuned: list[object] = []

    def recompute(model: object) -> None:
        tuned.append(model)
        recompute_activations(model)

    monkeypatch.setattr(imagined, "recompute_activations", recompute)

    def memory(recomputed: str) -> dict[str, int]:
        recomputing = f"train.activation_checkpointing={recomputed}"
        settings = ("target.base=medium", STRESSED, recomputing)
        given = [f"--set={setting}" for setting in settings]
        said = here("run", "spec.toml", "--dry-run", "--json", *given)
        stages = json.loads(said.out)["forecast"]["stages"]
        return {stage["title"]: stage["memory"] for stage in stages}

    kept = memory("false")
    assert not tuned
    recomputed = memory("true")
    assert len(tuned) == 4
    assert {title for title in kept if recomputed[title] < kept[title]} >= {
        "Fine-tune the retain reference on retain",
        "Fine-tune the target on forget + retain",
        "Unlearn with simnpo",
    }
