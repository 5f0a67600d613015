"""open-unlearning's commands as specs: values derived by hand from its configs."""

from __future__ import annotations

import re
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn_cli.convert import Converted, convert
from unlearn_cli.convert.open_unlearning import EXPERIMENTS, TRAINERS
from unlearn_cli.errors import UsageError
from unlearn_cli.spec import Spec, load_spec
from unlearn_cli.spec.layers import preset_names

UNLEARN = [name for name, experiment in EXPERIMENTS.items() if name.startswith("unlearn/")]
TRAIN = "python src/train.py --config-name=unlearn.yaml task_name=x experiment="

# Of configs/trainer/NAME.yaml: our method, the retain term, gamma, alpha and the other options.
# Where alpha is 0, or the trainer has no retain term, nothing of it is left to weigh.
BY_HAND: dict[str, tuple[str, str, float | None, float | None, dict[str, Any]]] = {
    "GradAscent": ("grad_ascent", "none", 1.0, None, {}),
    "GradDiff": ("grad_diff", "nll", 1.0, 1.0, {}),
    "NPO": ("npo", "nll", 1.0, 1.0, {"beta": 0.1}),
    "SimNPO": ("simnpo", "nll", 0.125, 1.0, {"beta": 4.5, "delta": 0.0}),
    "DPO": ("dpo", "nll", 1.0, 1.0, {"beta": 0.1}),
    "AltPO": ("alt_po", "nll", 1.0, 1.0, {"beta": 0.1}),
    "RMU": ("rmu", "hidden", 1.0, 1.0, {"coefficient": 2, "layer": "model.layers.7"}),
    "UNDIAL": ("undial", "none", 1.0, None, {"beta": 10.0}),
    "CEU": ("ce_u", "none", 1.0, None, {"ignore_first_n_answer_tokens": 1}),
    "WGA": ("wga", "nll", 1.0, 1.0, {"beta": 1.0}),
    "SatImp": ("satimp", "nll", 0.1, 1.0, {"beta1": 5.0, "beta2": 1.0}),
    "PDU": ("pdu", "nll", 1.0, 1.0, {"epsilon": 0.3, "eta": 1.0, "warmup_epochs": 5}),
}
# Of configs/experiment/NAME.yaml over trainer/finetune.yaml: epochs, steps, examples in a step,
# rows in a pass, learning rate, schedule, warm-up, weight decay, how often it evaluates.
Schedule = tuple[float | None, int | None, int, int, float, str, float, float, str | int]
SCHEDULES: dict[str, Schedule] = {
    "unlearn/tofu/default": (10, None, 32, 8, 1e-5, "linear", 1.0, 0.01, "epoch"),
    "unlearn/tofu/idk": (10, None, 32, 8, 1e-5, "linear", 1.0, 0.01, "epoch"),
    "unlearn/muse/default": (10, None, 32, 4, 1e-5, "constant", 0.0, 0.0, "epoch"),
    "unlearn/muse/scalability": (10, None, 32, 4, 1e-5, "constant", 0.0, 0.0, "epoch"),
    "unlearn/muse/sustainabilty": (10, None, 32, 4, 1e-5, "constant", 0.0, 0.0, "epoch"),
    "unlearn/wmdp/default": (None, 80, 16, 1, 5e-5, "constant", 0.0, 0.0, 40),
}


def spec_of(converted: Converted, folder: Path) -> Spec:
    """What a run would get."""
    file = folder / "spec.toml"
    file.write_text(converted.text, encoding="utf-8")
    return load_spec(str(file))


def told(command: str, folder: Path) -> Spec:
    return spec_of(convert(shlex.split(command)), folder)


def notes(command: str) -> dict[str, str]:
    return {note.key: f"{note.why}; {note.do}" for note in convert(shlex.split(command)).notes}


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("experiment", UNLEARN)
def test_every_trainer_in_every_experiment(experiment: str, trainer: str, tmp_path: Path) -> None:
    """The spec runs, with the values that Hydra would put together: an experiment's settings count
    more than its trainer's, so that UNDIAL has 1e-5 and WGA ten epochs there."""
    extra = " trainer.method_args.retain_loss_eps=0.3" if trainer == "PDU" else ""
    spec = told(f"{TRAIN}{experiment} trainer={trainer}{extra}", tmp_path)
    method, retain, gamma, alpha, options = BY_HAND[trainer]
    train = spec.train

    assert (spec.method.name, spec.method.retain, spec.method.gamma) == (method, retain, gamma)
    assert alpha is None or spec.method.alpha == alpha
    assert {key: spec.method.options[key] for key in options} == options
    assert SCHEDULES[experiment] == (
        train.epochs,
        train.steps,
        train.batch_size,
        train.micro_batch,
        train.learning_rate,
        train.schedule,
        train.warmup_epochs,
        train.weight_decay,
        spec.evaluate[0].every,
    )
    assert (spec.seed, spec.model.dtype, spec.checkpoints.every) == (0, "bfloat16", "end")


def test_the_tables_are_covered_by_hand() -> None:
    """Nothing that can be converted is without expected values, and every preset is there."""
    assert set(BY_HAND) == set(TRAINERS)
    assert set(SCHEDULES) == set(UNLEARN)
    assert {"tofu", "muse-news", "muse-books", "wmdp"} <= set(preset_names())


def test_a_command_of_the_scripts(tmp_path: Path) -> None:
    """The command of scripts/tofu_unlearn.sh, filled in: 4 a device, 4 accumulated, 2 devices."""
    spec = told(
        "CUDA_VISIBLE_DEVICES=0,1 accelerate launch --config_file configs/accelerate/default.yaml "
        "--main_process_port 18765 src/train.py --config-name=unlearn.yaml "
        "experiment=unlearn/tofu/default.yaml trainer=NPO task_name=tofu_forget05_NPO "
        "model=Llama-3.2-3B-Instruct forget_split=forget05 retain_split=retain95 "
        "model.model_args.pretrained_model_name_or_path="
        "open-unlearning/tofu_Llama-3.2-3B-Instruct_full "
        "retain_logs_path=saves/eval/tofu_3B_retain95/TOFU_EVAL.json "
        "trainer.args.per_device_train_batch_size=4 trainer.args.gradient_accumulation_steps=4 "
        "trainer.args.gradient_checkpointing=true",
        tmp_path,
    )

    assert spec.name == "tofu_forget05_NPO"
    assert spec.model.path == "open-unlearning/tofu_Llama-3.2-3B-Instruct_full"
    assert spec.data.options["forget"] == "forget05"
    assert spec.data.options["retain"] == "retain95"
    assert spec.retain_reference.evaluation == "saves/eval/tofu_3B_retain95/TOFU_EVAL.json"
    assert spec.retain_reference.path is None
    assert (spec.train.batch_size, spec.train.micro_batch) == (32, 4)
    assert spec.train.activation_checkpointing
    assert spec.template.system == "You are a helpful assistant."


@pytest.mark.parametrize(
    ("launch", "examples"),
    [
        ("python", 32),
        ("CUDA_VISIBLE_DEVICES=2 python", 32),
        ("CUDA_VISIBLE_DEVICES=0,1,2 python", 96),
        ("CUDA_VISIBLE_DEVICES=0,1,2,3 accelerate launch --num_processes 2", 64),
        ("torchrun --nproc-per-node=4", 128),
        ("torchrun --nnodes 2 --nproc_per_node 4", 256),
        ("deepspeed --num_nodes=2 --num_gpus 2", 128),
        ("accelerate launch --num_machines 2 --num_processes 8", 256),
    ],
)
def test_processes_share_a_batch(launch: str, examples: int, tmp_path: Path) -> None:
    """8 rows a device x 4 accumulated x processes: those of the launcher, or visible devices."""
    command = f"{launch} src/train.py experiment=unlearn/tofu/default task_name=x"

    assert told(command, tmp_path).train.batch_size == examples


@pytest.mark.parametrize(
    "launch",
    [
        "accelerate launch",
        "accelerate launch --num_processes $N",
        "torchrun --nproc_per_node=gpu",
        "torchrun --nnodes=1:4 --nproc_per_node=2",
        "CUDA_VISIBLE_DEVICES=$GPUS python",
    ],
)
def test_a_launcher_that_says_no_number_is_noted(launch: str) -> None:
    """accelerate's own file decides then, or the shell, or the machine; none of them is read."""
    command = f"{launch} src/train.py experiment=unlearn/tofu/default task_name=x"

    assert "1 is taken" in notes(command)["launcher"]


def test_signs_quotes_lists_and_null(tmp_path: Path) -> None:
    """`+` adds, `++` adds or changes, `~` takes back to the Trainer's own default, and so does
    null; a dictionary is its keys."""
    spec = told(
        f"{TRAIN}unlearn/tofu/default trainer=NPO +trainer.args.max_grad_norm=0 "
        "++trainer.args.seed=7 ~trainer.args.weight_decay trainer.args.num_train_epochs=null "
        "\"trainer.method_args={beta: 0.5, retain_loss_type: 'KL'}\"",
        tmp_path,
    )

    assert (spec.train.max_grad_norm, spec.seed) == (0, 7)
    assert (spec.train.weight_decay, spec.train.epochs) == (0.0, 3)
    assert spec.method.options["beta"] == 0.5
    assert (spec.method.retain, spec.method.kl_positions) == ("kl", "all")


def test_rmu_names_its_parameters_by_pattern(tmp_path: Path) -> None:
    """The regular expressions of the files become patterns that mean the same names."""
    default = told(f"{TRAIN}unlearn/tofu/default trainer=RMU", tmp_path)
    wmdp = told(f"{TRAIN}unlearn/wmdp/default", tmp_path)

    assert default.method.parameters == ("*",)
    assert wmdp.method.parameters == ("model.layers.[567].mlp.down_proj.weight",)
    assert wmdp.data.options["domains"] == ["cyber"]
    assert wmdp.evaluate[0].options["tasks"] == ["wmdp_cyber", "mmlu"]


def test_an_evaluation_names_what_is_measured(tmp_path: Path) -> None:
    """eval.py: the model, its splits and the retain model's log; nothing is trained."""
    command = (
        "python src/eval.py --config-name=eval.yaml experiment=eval/tofu/default task_name=e "
        "model=Llama-2-7b-chat-hf model.model_args.pretrained_model_name_or_path=saves/m "
        "retain_logs_path=saves/r/TOFU_EVAL.json"
    )
    spec = told(command, tmp_path)

    assert spec.model.path == "saves/m"
    assert spec.retain_reference.evaluation == "saves/r/TOFU_EVAL.json"
    assert (spec.template.chat, spec.template.prompt) == ("never", "[INST] {question} [/INST]")
    assert "unlearn evaluate spec.toml" in convert(shlex.split(command)).text


def test_muse_takes_its_corpus_and_fold(tmp_path: Path) -> None:
    """data_split is the preset; a fold is part and number."""
    news = told(f"{TRAIN}unlearn/muse/scalability trainer=GradDiff forget_split=forget_2", tmp_path)
    books = told("python src/eval.py experiment=eval/muse/default data_split=Books", tmp_path)

    assert (news.data.options["part"], news.data.options["fold"]) == ("scal", 2)
    assert news.model.path == "muse-bench/MUSE-News_target"
    assert books.model.path == "muse-bench/MUSE-Books_target"
    assert books.data.options["path"] == "muse-bench/MUSE-Books"


def test_fine_tuning_becomes_the_target(tmp_path: Path) -> None:
    """Base and recipe of the target; the retain split says what is to be forgotten."""
    spec = told(
        "python src/train.py experiment=finetune/tofu/default task_name=t "
        "data/datasets@data.train=TOFU_QA_retain "
        "data.train.TOFU_QA_retain.args.hf_args.name=retain95",
        tmp_path,
    )
    target = spec.target

    assert target.base == "meta-llama/Llama-3.2-1B-Instruct"
    assert (target.epochs, target.batch_size, target.learning_rate) == (5, 32, 1e-5)
    assert (target.weight_decay, target.warmup_epochs) == (0.01, 1.0)
    assert spec.data.options["forget"] == "forget05"
    assert spec.model.path is spec.retain_reference.path is None


def test_what_has_no_counterpart_is_said_twice() -> None:
    """A note with key, reason and remedy, and the same as a comment of the spec."""
    command = f"{TRAIN}unlearn/tofu/default trainer=NPO trainer.args.optim=lion_32bit +new.key=1"
    said = notes(command)
    text = convert(shlex.split(command)).text
    flat = " ".join(re.sub(r"^#", "", line).strip() for line in text.splitlines())

    assert set(said) == {"trainer.args.optim=lion_32bit", "+new.key=1"}
    for key, reason in said.items():
        assert f"- {key}: {reason}" in flat


@pytest.mark.parametrize("group", ["experiment", "trainer", "model", "data"])
@pytest.mark.parametrize("form", ["{}=", "{}=null", "{}=''", "~{}", "~{}=x"])
def test_a_group_that_is_needed_is_never_guessed(group: str, form: str) -> None:
    """Hydra refuses an empty choice; without the group open-unlearning does not run. One line names
    what was said and what would do, and the default is not taken in its place."""
    said = form.format(group)
    with pytest.raises(UsageError, match=re.escape(group)) as caught:
        convert(["src/train.py", "experiment=unlearn/tofu/default", said])
    line = caught.value.line()
    assert line.startswith(f"{said}: ")
    assert "e.g. " in line or "leave it out" in line


@pytest.mark.parametrize("said", ["forget_split=", "~forget_split", "'forget_split=[a,b]'"])
def test_what_is_to_be_forgotten_is_never_guessed(said: str) -> None:
    """An empty split, none, or a list."""
    with pytest.raises(UsageError, match=r"forget_split.*: names nothing that is to be forgotten"):
        convert(shlex.split(f"{TRAIN}unlearn/tofu/default {said}"))


OPTIMIZERS = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "paged_adamw_32bit": "adamw",
    "adamw_8bit": "adamw_8bit",
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw_8bit": "adamw_8bit",
    "adafactor": "adafactor",
}


@pytest.mark.parametrize("theirs", OPTIMIZERS)
def test_optimizers_become_ours(theirs: str, tmp_path: Path) -> None:
    """By the names of transformers, for unlearning and for making a target; Adafactor's steps
    differ, which is said."""
    said = f"trainer.args.optim={theirs}"
    command = f"{TRAIN}unlearn/tofu/default {said}"

    assert told(command, tmp_path).train.optimizer == OPTIMIZERS[theirs]
    assert (
        told(f"{TRAIN}finetune/tofu/default {said}", tmp_path).target.optimizer
        == (OPTIMIZERS[theirs])
    )
    assert (said in notes(command)) == (theirs == "adafactor")


@pytest.mark.parametrize("theirs", ["sgd", "lion_8bit", "adamw_torch_4bit", "galore_adamw"])
def test_an_optimizer_without_counterpart_is_named(theirs: str, tmp_path: Path) -> None:
    """AdamW is then used, and said to be."""
    command = f"{TRAIN}unlearn/tofu/default trainer.args.optim={theirs}"

    assert told(command, tmp_path).train.optimizer == "adamw"
    assert "AdamW is used" in notes(command)[f"trainer.args.optim={theirs}"]


def test_another_model_file_alone_does_not_change_the_weights() -> None:
    """open-unlearning's experiment names the weights; that surprise is said."""
    assert "_1B" not in notes(f"{TRAIN}unlearn/tofu/default model=Llama-3.2-3B-Instruct")
    said = notes(f"{TRAIN}unlearn/tofu/default model=Llama-3.2-3B-Instruct")
    assert "tofu_Llama-3.2-1B-Instruct_full" in said["model=Llama-3.2-3B-Instruct"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (f"{TRAIN}unlearn/tofu/defaul", "did you mean 'unlearn/tofu/default'?"),
        (f"{TRAIN}unlearn/tofu/default trainer=SimNPQ", "did you mean 'SimNPO'?"),
        (f"{TRAIN}unlearn/tofu/default 'trainer=${{t}}'", "variable of the shell"),
        (f"{TRAIN}unlearn/tofu/default trainer=PDU", "retain_loss_eps: is missing"),
        (f"{TRAIN}unlearn/tofu/default 'forget_split=[a'", "is missing"),
        (f"{TRAIN}unlearn/muse/default data_split=Fable", "one of News, Books"),
        (f"{TRAIN}unlearn/tofu/default trainer.args.seed=-1", "trainer.args.seed=-1: must be"),
        (f"{TRAIN}unlearn/tofu/default trainer.args.per_device_train_batch_size=0", "greater"),
        (f"{TRAIN}unlearn/tofu/default word", "no override"),
        (f"{TRAIN}unlearn/tofu/default trainer=NPO,", "one of the values is empty"),
        (f"{TRAIN}unlearn/tofu/default trainer=NPO,Foo", "no trainer 'Foo'"),
        (f"{TRAIN}unlearn/tofu/default trainer.args.seed=0,-1", "trainer.args.seed=-1: must be"),
        (f"{TRAIN}unlearn/tofu/default 'trainer.args.seed=range(3,0)'", "1 to 1000 values"),
        (f"{TRAIN}unlearn/tofu/default 'trainer.args.seed=range(a,b)'", "the form range(0,3)"),
        (f"{TRAIN}unlearn/tofu/default 'trainer.args.seed=glob(*)'", "choice and range alone"),
        ("python src/train.py", "no experiment is named"),
        ("ls -l", "there is no src/train.py"),
    ],
)
def test_what_cannot_be_converted_is_refused(command: str, message: str) -> None:
    """One line that names what was said and what would work."""
    with pytest.raises(UsageError, match=re.escape(message)):
        convert(shlex.split(command))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("model.model_args.load_in_8bit=true", 'lora.base = "nf4"'),
        ("model.tokenizer_args.padding_side=left", "not padded"),
        ("model.more=1", "nothing of that name is known"),
        ("mode=unlearn", "the tool decides this itself"),
        ("trainer.args.optim_args=a", "no options"),
        ("trainer.args.adam_beta1=0.8", "no options"),
    ],
)
def test_a_reason_belongs_to_the_key(said: str, why: str) -> None:
    """What is said of one key is not said of another that begins with the same letters."""
    found = notes(f"{TRAIN}unlearn/tofu/default {said}")[said]

    assert why in found.replace("are not options", "are no options")


KEYS = st.sampled_from(
    ["trainer.args.", "trainer.method_args.", "model.model_args.", "eval.tofu.", "data.", ""]
)
NAMES = st.sampled_from(
    [
        *("learning_rate", "num_train_epochs", "max_steps", "eval_steps", "eval_strategy", "seed"),
        *("gradient_accumulation_steps", "lr_scheduler_type", "save_strategy", "save_steps"),
        *("alpha", "beta", "gamma", "retain_loss_type", "module_regex", "trainable_params_regex"),
        *("pretrained_model_name_or_path", "torch_dtype", "batch_size", "task_name"),
        *("forget_split", "retain_split", "holdout_split", "data_split", "retain_logs_path"),
    ]
)
SAID = ["null", "1e999", "-1", "0.5", "true", "[a,[b]]", "{a: 1}", "'x'", "steps", "${seed}", "a,b"]
VALUES = st.sampled_from(SAID) | st.text()
OVERRIDES = st.builds(
    lambda sign, table, name, value: f"{sign}{table}{name}={value}",
    st.sampled_from(["", "+", "++", "~"]),
    KEYS,
    NAMES,
    VALUES,
)


@given(st.sampled_from([*EXPERIMENTS]), st.sampled_from([*TRAINERS]), st.lists(OVERRIDES))
def test_any_override_gives_a_spec_that_runs_or_an_error_in_words(
    tmp_path_factory: pytest.TempPathFactory, experiment: str, trainer: str, said: list[str]
) -> None:
    """Whatever is said, what comes out passes the check, and what does not come out is an error of
    ours: no traceback."""
    words = ["src/train.py", f"experiment={experiment}", f"trainer={trainer}", *said]
    converted = None
    with suppress(UsageError):
        converted = convert(words)
    if converted:
        assert spec_of(converted, tmp_path_factory.getbasetemp()).name


@given(st.lists(st.text()))
def test_any_words_give_an_error_in_words(words: list[str]) -> None:
    """No command of open-unlearning stands in random words."""
    with pytest.raises(UsageError):
        convert(words)
