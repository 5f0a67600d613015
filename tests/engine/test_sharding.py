"""What a launcher may ask for, and how work is dealt out; two processes are in end_to_end/."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unlearn_cli.engine.fsdp2 import FSDP2
from unlearn_cli.engine.session import Session
from unlearn_cli.engine.sharding import (
    change_weight,
    dealt,
    one_after_another,
    part,
    sharding,
    spread,
    take,
    whole,
    whole_weights,
)
from unlearn_cli.errors import RunError, UsageError
from unlearn_cli.spec.load import load_spec
from unlearn_cli.testing import tiny_model

TWO: Any = SimpleNamespace(num_processes=2)


def test_without_a_word_of_the_launcher_nothing_is_sharded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor on one process, whatever it says."""
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert not sharding(TWO)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    assert sharding(TWO)
    alone: Any = SimpleNamespace(num_processes=1)
    assert not sharding(alone)


@pytest.mark.parametrize(
    ("variable", "value"), [("FSDP_VERSION", "1"), ("FSDP_OFFLOAD_PARAMS", "true")]
)
def test_what_fsdp_cannot_do_here_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """The first version, and weights kept on the CPU; the profile that works is named."""
    told = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", variable: value}
    for name, text in told.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(UsageError, match="fsdp_version: 2") as raised:
        sharding(TWO)
    assert "--profile fsdp2" in raised.value.line()


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        (("lora.rank=2", "lora.dora=true"), "[lora].dora"),
        (("lora.rank=2", "lora.base=nf4"), "[lora].base"),
        (("train.micro_batch=auto",), "[train].micro_batch"),
        (("train.optimizer=adafactor",), "[train].optimizer"),
        (("target.optimizer=adamw_8bit",), "[target].optimizer"),
    ],
)
def test_what_needs_whole_weights_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...], where: str
) -> None:
    """With the key, and what would work; without the setting nothing is refused."""
    monkeypatch.setattr("unlearn_cli.engine.session.sharding", lambda accelerator: FSDP2())
    Session(load_spec("quickstart"), lambda event: None)
    with pytest.raises(UsageError) as raised:
        Session(load_spec("quickstart", settings), lambda event: None)
    assert raised.value.line().startswith(where)
    assert "--profile ddp" in raised.value.line()


def test_batches_are_dealt_in_rounds_of_all_processes() -> None:
    """Five batches on three processes: two rounds each, each batch counted once; the process
    without a batch in the last round repeats one."""
    rounds = [list(dealt("abcde", 3, me)) for me in range(3)]
    assert rounds[0] == [("a", True), ("d", True)]
    assert rounds[1] == [("b", True), ("e", True)]
    assert rounds[2] == [("c", True), ("a", False)]
    assert list(dealt("", 3, 0)) == []


def test_of_a_model_that_is_not_sharded_everything_is_the_model_itself() -> None:
    """Whole, part and spread are the tensor; a weight is changed in place."""
    model = tiny_model()
    weight = model.get_output_embeddings().weight
    assert whole(weight) is weight
    assert spread(weight, weight) is weight
    assert part(weight).data_ptr() == weight.data_ptr()
    assert one_after_another(lambda: 7, wanted=False) == 7
    change_weight(weight, torch.zeros_like)
    assert not whole_weights(model)["lm_head.weight"].any()


@pytest.mark.parametrize(
    "values",
    [{"weight": torch.ones(1, 2)}, {"weights": torch.ones(3, 2)}, {}],
    ids=["another shape", "another name", "none"],
)
def test_values_of_another_model_are_not_taken(values: dict[str, torch.Tensor]) -> None:
    """Though a row would fit each of three: nothing is changed, and the tensor is named."""
    weight = torch.zeros(3, 2)
    with pytest.raises(RunError, match="weight"):
        take({"weight": weight}, values)
    assert not weight.any()
