"""What `--dry-run` says of memory, against what the run then took."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.end_to_end.conftest import Workplace
from unlearn_cli.engine.builtin import make_tiny
from unlearn_cli.engine.models import save_model

RUN = """
import resource
from unlearn_cli.cli import main
try:
    main({arguments!r})
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def save_medium(folder: Path) -> None:
    """36 million weights, so that Python and its libraries are not what is measured."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=8192,
        tie_word_embeddings=True,
    )
    save_model(LlamaForCausalLM(config), make_tiny(["Who? A person called so."], 0)[1], folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"method.name": "npo"},
        {"method.name": "grad_diff", "method.retain": "kl", "train.micro_batch": "4"},
        {"method.name": "npo", "lora.rank": "8", "train.activation_checkpointing": "true"},
    ],
    ids=["npo", "kl-small-parts", "lora-checkpointing"],
)
def test_the_peak_is_within_a_fifth_of_what_was_said(
    place: Workplace, settings: dict[str, str]
) -> None:
    """The estimate of the whole process, and what stands above Python and its libraries, against
    the peak of the process that ran: weights, gradients, optimizer, activations, logits."""
    save_medium(place.folder / "medium")
    given = settings | {"model.path": "medium", "train.batch_size": "12", "train.steps": "3"}
    settings_of = [f"--set={key}={value}" for key, value in given.items()]
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
