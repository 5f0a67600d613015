"""Several values of an override, as Hydra's sweeps have them, become one command of ours."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.convert.test_convert import TRAIN, notes, told
from unlearn_cli.cli import main
from unlearn_cli.convert import convert
from unlearn_cli.convert.open_unlearning import PATH
from unlearn_cli.results import flatten
from unlearn_cli.spec import Spec
from unlearn_cli.sweep import variants

SWEEPS: dict[str, tuple[str, list[str]]] = {
    "trainer=NPO,SimNPO": ("--grid method.name=npo,simnpo", ["trainer=NPO", "trainer=SimNPO"]),
    "trainer.args.seed=0,1,2": ("--seeds 0,1,2", [f"trainer.args.seed={n}" for n in range(3)]),
    "'trainer=choice(NPO,GradDiff)' 'trainer.args.seed=range(0,2)'": (
        "--grid method.name=npo,grad_diff --seeds 0,1",
        [f"trainer={t} trainer.args.seed={n}" for t in ("NPO", "GradDiff") for n in range(2)],
    ),
    # An option that is said is not the old method's own: it stays when the method is changed.
    "trainer=NPO,SimNPO trainer.method_args.gamma=0.5": (
        "--grid method.name=npo,simnpo --set method.gamma=0.5",
        [f"trainer={name} trainer.method_args.gamma=0.5" for name in ("NPO", "SimNPO")],
    ),
    "trainer=NPO,DPO": (
        "--grid method.name=npo,dpo --set data.alternates=refusals",
        ["trainer=NPO", "trainer=DPO"],
    ),
    # 4 rows a device x 4 accumulated, 8 x 4.
    "trainer.args.per_device_train_batch_size=4,8": (
        "--grid train.batch_size=16,32",
        [f"trainer.args.per_device_train_batch_size={n}" for n in (4, 8)],
    ),
    "trainer=NPO trainer.method_args.beta=0.05,0.1 trainer.args.eval_strategy=epoch,no": (
        "--grid method.beta=0.05,0.1 --grid evaluate.0.every=epoch,end",
        [
            f"trainer=NPO trainer.method_args.beta={beta} trainer.args.eval_strategy={every}"
            for beta in ("0.05", "0.1")
            for every in ("epoch", "no")
        ],
    ),
    f"{PATH}=a/b,'./c d'": (
        "--grid 'model.path=a/b,\"./c d\"'",
        [f"{PATH}=a/b", f"{PATH}='./c d'"],
    ),
    "trainer.args.optim=adamw_torch,paged_adamw_8bit": (
        "--grid train.optimizer=adamw,adamw_8bit",
        ["trainer.args.optim=adamw_torch", "trainer.args.optim=paged_adamw_8bit"],
    ),
}


def same_run(spec: Spec) -> dict[str, Any]:
    """What decides a run; alternates only where the method reads them."""
    decides = dict(flatten(spec.model_dump(mode="json", exclude={"name", "output"})))
    del decides["train.micro_batch"]
    return {k: v for k, v in decides.items() if k != "data.alternates" or spec.method.name == "dpo"}


@pytest.mark.parametrize("said", SWEEPS)
def test_several_values_are_one_command_that_can_be_typed(
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The note's command, typed as it stands, is taken by `unlearn sweep`, and its runs are those
    of the commands that Hydra would run, each converted alone."""
    monkeypatch.chdir(tmp_path)
    flags, alone = SWEEPS[said]
    converted = convert(shlex.split(f"{TRAIN}unlearn/tofu/default -m {said}"))
    command = next(note.do for note in converted.notes if "unlearn sweep" in note.do)
    assert command == f"all of them: unlearn sweep spec.toml {flags}"
    Path("spec.toml").write_text(converted.text, encoding="utf-8")
    planned: list[Spec] = []

    def watch(*given: Any) -> Any:
        folder, runs = variants(*given)
        planned.extend(run.spec for run in runs)
        return folder, runs

    monkeypatch.setattr("unlearn_cli.sweep.variants", watch)
    with pytest.raises(SystemExit) as left:
        main([*shlex.split(command.partition("unlearn ")[2]), "--dry-run"])
    assert left.value.code == 0, capsys.readouterr().err
    expected = [told(f"{TRAIN}unlearn/tofu/default {one}", tmp_path) for one in alone]
    assert [same_run(spec) for spec in planned] == [same_run(spec) for spec in expected]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("forget_split=forget05,forget10", "data.forget, retain_reference.path, data.retain"),
        ("trainer=NPO,WGA", "in a sweep method.beta would not be what it is there"),
        ("trainer=NPO,RMU", "each needs options of its own"),
        ("trainer.method_args.retain_loss_type=NLL,KL trainer=NPO", "method.kl_positions"),
        ("trainer.args.logging_steps=1,2", "the same run"),
        ("experiment=unlearn/tofu/default,unlearn/tofu/idk", "data.holdout"),
    ],
)
def test_values_that_no_sweep_has_are_said(said: str, why: str) -> None:
    """Where one value changes several keys, or options that another method loses, each is a command
    of its own."""
    found = notes(f"{TRAIN}unlearn/tofu/default {said}")

    assert any(why in text for text in found.values()), found


def test_evaluations_are_not_swept() -> None:
    """`unlearn sweep` trains: several models to measure are several specs."""
    command = f"src/eval.py experiment=eval/tofu/default {PATH}=a,b"

    assert "convert one command for each value" in notes(command)[f"{PATH}=a,b"]
    assert "unlearn evaluate spec.toml" in convert(shlex.split(command)).text
