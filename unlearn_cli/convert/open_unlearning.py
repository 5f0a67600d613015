"""What open-unlearning's files say, and which of its keys becomes which of ours: tables alone.

Read from its configs at commit d3d7cf9 (December 2025): configs/experiment, configs/trainer,
configs/model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from unlearn_cli.convert.hydra import Value

ARGS, METHOD = "trainer.args.", "trainer.method_args."
MODEL, TEMPLATE = "model.model_args.", "model.template_args."
PATH = f"{MODEL}pretrained_model_name_or_path"

TRANSFORMERS: Mapping[str, Value] = {
    f"{ARGS}per_device_train_batch_size": 8,
    f"{ARGS}gradient_accumulation_steps": 1,
    f"{ARGS}learning_rate": 5e-5,
    f"{ARGS}lr_scheduler_type": "linear",
    f"{ARGS}warmup_epochs": 0.0,
    f"{ARGS}weight_decay": 0.0,
    f"{ARGS}num_train_epochs": 3,
    f"{ARGS}seed": 42,
    f"{ARGS}eval_strategy": "no",
    f"{ARGS}save_strategy": "steps",
}
"""What the Trainer takes where no file and no override says anything."""

FINETUNE: Mapping[str, Value] = {
    f"{ARGS}per_device_train_batch_size": 8,
    f"{ARGS}gradient_accumulation_steps": 4,
    f"{ARGS}learning_rate": 1e-5,
    f"{ARGS}weight_decay": 0.0,
    f"{ARGS}num_train_epochs": 10,
    f"{ARGS}seed": 0,
    f"{ARGS}eval_strategy": "epoch",
    f"{ARGS}save_strategy": "no",
}
"""configs/trainer/finetune.yaml, from which every trainer starts."""


@dataclass(frozen=True)
class Trainer:
    """A trainer: the method that it is, its defaults, and its options by our names."""

    method: str
    options: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Value] = field(default_factory=dict)


def _trainer(
    method: str,
    options: str = "",
    own: Mapping[str, Value] | None = None,
    args: Mapping[str, Value] | None = None,
) -> Trainer:
    """Options are written `theirs` or `theirs:ours`; `own` and `args` are their defaults."""
    pairs = (option.partition(":") for option in options.split())
    settings = {f"{ARGS}{key}": value for key, value in (args or {}).items()}
    settings |= {f"{METHOD}{key}": value for key, value in (own or {}).items()}
    return Trainer(method, {theirs: ours or theirs for theirs, _, ours in pairs}, settings)


_DIFF: Mapping[str, Value] = {"gamma": 1.0, "alpha": 1.0, "retain_loss_type": "NLL"}
_RMU: Mapping[str, Value] = {
    **_DIFF,
    "steering_coeff": 2,
    "retain_loss_type": "EMBED_DIFF",
    "module_regex": r"model\.layers\.7",
    "trainable_params_regex": [".*"],
}
TRAINERS: Mapping[str, Trainer] = {
    "GradAscent": _trainer("grad_ascent"),
    "GradDiff": _trainer("grad_diff", "gamma", _DIFF),
    "NPO": _trainer("npo", "gamma beta", {**_DIFF, "beta": 0.1}),
    "SimNPO": _trainer(
        "simnpo", "gamma beta delta", {**_DIFF, "beta": 4.5, "delta": 0.0, "gamma": 0.125}
    ),
    "DPO": _trainer("dpo", "gamma beta", {**_DIFF, "beta": 0.1}),
    "AltPO": _trainer("alt_po", "gamma beta", {**_DIFF, "beta": 0.1}),
    "RMU": _trainer(
        "rmu",
        "gamma steering_coeff:coefficient module_regex:layer trainable_params_regex:parameters",
        _RMU,
    ),
    "UNDIAL": _trainer(
        "undial", "gamma beta", {**_DIFF, "alpha": 0.0, "beta": 10.0}, {"learning_rate": 1e-4}
    ),
    "CEU": _trainer("ce_u", "ignore_first_n_answer_tokens", {"ignore_first_n_answer_tokens": 1}),
    "WGA": _trainer("wga", "gamma beta", {**_DIFF, "beta": 1.0}, {"num_train_epochs": 5}),
    "SatImp": _trainer(
        "satimp",
        "gamma beta1 beta2",
        {**_DIFF, "beta1": 5.0, "beta2": 1.0, "gamma": 0.1},
        {"num_train_epochs": 5},
    ),
    "PDU": _trainer(
        "pdu",
        "gamma retain_loss_eps:epsilon dual_step_size:eta dual_warmup_epochs:warmup_epochs",
        {**_DIFF, "dual_step_size": 1.0, "dual_warmup_epochs": 5},
    ),
}
"""configs/trainer/*.yaml by name. AltPO is the community's: there DPO on generated alternates."""

ALTERNATES = (
    ("dpo", "refusals", "or the path of its data/idk.jsonl"),
    ("alt_po", "model", "made before training, see [alternates]"),
)
"""Method -> the answers to prefer."""

REQUIRED = {f"{METHOD}retain_loss_eps": "PDU"}
"""Options without a default (`???`) and the trainer that needs them."""


@dataclass(frozen=True)
class Experiment:
    """A file of configs/experiment."""

    benchmark: str
    model: str
    """File of configs/model."""
    trainer: str | None
    """File of configs/trainer; None where nothing is trained."""
    settings: Mapping[str, Value]
    part: str | None = None
    """Of MUSE: the folds that are forgotten."""
    target: bool = False
    """Whether it makes the model that is to forget."""


_TOFU = "open-unlearning/tofu_Llama-3.2-1B-Instruct_full"
_SPLITS: Mapping[str, Value] = {
    "forget_split": "forget10",
    "retain_split": "retain90",
    "retain_logs_path": None,
    PATH: _TOFU,
}
_SCHEDULE: Mapping[str, Value] = {
    f"{ARGS}warmup_epochs": 1.0,
    f"{ARGS}learning_rate": 1e-5,
    f"{ARGS}weight_decay": 0.01,
    f"{ARGS}num_train_epochs": 10,
}
_HOLDOUT: Mapping[str, Value] = {"holdout_split": "holdout10"}
_MUSE_TARGET: Mapping[str, Value] = {
    "data_split": "News",
    "retain_logs_path": None,
    PATH: "muse-bench/MUSE-${data_split}_target",
}
_MUSE: Mapping[str, Value] = {
    **_MUSE_TARGET,
    "retain_split": "retain1",
    f"{ARGS}per_device_train_batch_size": 4,
    f"{ARGS}gradient_accumulation_steps": 8,
    f"{ARGS}learning_rate": 1e-5,
    f"{ARGS}num_train_epochs": 10,
    f"{ARGS}lr_scheduler_type": "constant",
}
_WMDP: Mapping[str, Value] = {
    "data_split": "cyber",
    f"{ARGS}per_device_train_batch_size": 1,
    f"{ARGS}gradient_accumulation_steps": 16,
    f"{ARGS}learning_rate": 5e-5,
    f"{ARGS}eval_strategy": "steps",
    f"{ARGS}eval_steps": 0.5,
    f"{ARGS}max_steps": 80,
    f"{ARGS}lr_scheduler_type": "constant",
    f"{METHOD}trainable_params_regex": [r"model\.layers\.(5|6|7)\.mlp\.down_proj\.weight"],
}
_1B, _LLAMA2 = "Llama-3.2-1B-Instruct", "Llama-2-7b-hf"
EXPERIMENTS: Mapping[str, Experiment] = {
    "unlearn/tofu/default": Experiment(
        "tofu", _1B, "GradAscent", {**_SPLITS, **_HOLDOUT, **_SCHEDULE}
    ),
    "unlearn/tofu/idk": Experiment(
        "tofu", "Llama-3.2-3B-Instruct", "DPO", {**_SPLITS, **_SCHEDULE}
    ),
    "unlearn/muse/default": Experiment(
        "muse", _LLAMA2, "GradAscent", {**_MUSE, "forget_split": "forget"}
    ),
    "unlearn/muse/scalability": Experiment(
        "muse", _LLAMA2, "GradAscent", {**_MUSE, "forget_split": "forget_4"}, part="scal"
    ),
    "unlearn/muse/sustainabilty": Experiment(
        "muse", _LLAMA2, "GradAscent", {**_MUSE, "forget_split": "forget_4"}, part="sust"
    ),
    "unlearn/wmdp/default": Experiment("wmdp", "zephyr-7b-beta", "RMU", _WMDP),
    "finetune/tofu/default": Experiment(
        "tofu", _1B, "finetune", {**_SCHEDULE, f"{ARGS}num_train_epochs": 5}, target=True
    ),
    "eval/tofu/default": Experiment("tofu", _1B, None, {**_SPLITS, **_HOLDOUT}),
    "eval/muse/default": Experiment("muse", _LLAMA2, None, _MUSE_TARGET),
}


@dataclass(frozen=True)
class Model:
    """A file of configs/model."""

    path: str
    system: str | None = None
    """System message of its chat template."""
    prompt: str | None = None
    """Its own prompt, where the chat template is not used."""
    dtype: str | None = "bfloat16"
    """Of the weights; None where the file leaves it to transformers."""


_HELPFUL = "You are a helpful assistant."
_PLAIN = "Question: {question}\nAnswer: "
MODELS: Mapping[str, Model] = {
    "Llama-3.2-1B-Instruct": Model("meta-llama/Llama-3.2-1B-Instruct", _HELPFUL),
    "Llama-3.2-3B-Instruct": Model("meta-llama/Llama-3.2-3B-Instruct", _HELPFUL),
    "Llama-3.1-8B-Instruct": Model("meta-llama/Llama-3.1-8B-Instruct", _HELPFUL),
    "Llama-2-7b-chat-hf": Model(
        "meta-llama/Llama-2-7b-chat-hf", prompt="[INST] {question} [/INST]"
    ),
    "Llama-2-7b-hf": Model("meta-llama/Llama-2-7b-hf", prompt=_PLAIN),
    "Llama-2-13b-hf": Model("meta-llama/Llama-2-13b-hf", prompt=_PLAIN),
    "phi-1_5": Model("microsoft/phi-1_5", prompt=_PLAIN, dtype=None),
    "Phi-3.5-mini-instruct": Model("microsoft/Phi-3.5-mini-instruct", _HELPFUL),
    "Qwen2.5-1.5B-Instruct": Model("Qwen/Qwen2.5-1.5B-Instruct", _HELPFUL),
    "Qwen2.5-3B-Instruct": Model("Qwen/Qwen2.5-3B-Instruct", _HELPFUL),
    "Qwen2.5-7B-Instruct": Model("Qwen/Qwen2.5-7B-Instruct", _HELPFUL),
    "gemma-7b-it": Model("google/gemma-7b-it"),
    "zephyr-7b-beta": Model("HuggingFaceH4/zephyr-7b-beta", _HELPFUL),
}
RETAIN_MODELS = r"open-unlearning/tofu_(Llama-3\.2-[13]B-Instruct|Llama-3\.1-8B-Instruct)_full"
"""Targets on the hub whose retain models are there too: `_retain90` in place of `_full`."""

RETAIN_TERMS: Mapping[str, str] = {
    "None": "none",
    "NLL": "nll",
    "KL": "kl",
    "EMBED_DIFF": "hidden",
}
SCHEDULES: Mapping[str, str] = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
}
DTYPES: Mapping[str, str] = {"bfloat16": "bfloat16", "float32": "float32", "auto": "auto"}

DIRECT: Mapping[str, str] = {
    f"{ARGS}learning_rate": "train.learning_rate",
    f"{ARGS}weight_decay": "train.weight_decay",
    f"{ARGS}warmup_epochs": "train.warmup_epochs",
    f"{ARGS}max_grad_norm": "train.max_grad_norm",
    f"{ARGS}gradient_checkpointing": "train.activation_checkpointing",
    f"{ARGS}save_total_limit": "checkpoints.keep",
    f"{ARGS}seed": "seed",
    f"{MODEL}attn_implementation": "model.attention",
    f"{MODEL}revision": "model.revision",
    f"{MODEL}trust_remote_code": "model.trust_remote_code",
    "model.tokenizer_args.pretrained_model_name_or_path": "model.tokenizer",
    f"{TEMPLATE}system_prompt": "template.system",
    f"{TEMPLATE}date_string": "template.date",
}
"""Keys that only change their name."""

OPTIMIZERS: Mapping[str, str] = {
    **dict.fromkeys(
        ("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused", "paged_adamw_32bit"),
        "adamw",
    ),
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"), "adamw_8bit"),
    "adafactor": "adafactor",
}
"""Names that transformers gives its optimizers; paged state stands in plain memory here."""

GROUPS: Mapping[str, str] = {
    "experiment": "e.g. experiment=unlearn/tofu/default",
    "trainer": "e.g. trainer=NPO; without it the experiment names one",
    "model": "e.g. model=Llama-3.2-1B-Instruct; without it the experiment names one",
    "data": "leave it out: the experiment names the data",
    "eval": "leave it out: the experiment names what is measured",
}
"""Groups of files of which a run needs one each, and what to write."""

_CONSTANTS = "an optimizer's own constants are not options", "compare with their defaults"
_OURS = "the tool decides this itself", "nothing to do"
NOTES: Mapping[str, tuple[str, str]] = {
    f"{ARGS}optim": (
        "there is no such optimizer here: AdamW is used",
        'nothing to do, or set train.optimizer = "adamw_8bit" or "adafactor"',
    ),
    f"{ARGS}adam_": _CONSTANTS,
    f"{ARGS}optim_": _CONSTANTS,
    f"{ARGS}ddp_": _OURS,
    f"{ARGS}bf16": ("the weights' type decides", "see model.dtype and train.mixed_precision"),
    f"{ARGS}fp16": ("the weights' type decides", "see train.mixed_precision"),
    f"{ARGS}logging": ("every step is logged", "read events.jsonl or report.html of the run"),
    f"{ARGS}report_to": (
        "runs are written to their folder",
        "for TensorBoard set output.tensorboard = true",
    ),
    f"{ARGS}do_eval": _OURS,
    f"{ARGS}do_train": _OURS,
    f"{ARGS}eval_on_start": ("the target is always evaluated", "nothing to do"),
    f"{ARGS}eval_steps": ("has no effect unless eval_strategy is steps", "set evaluate.every"),
    f"{ARGS}save_steps": ("has no effect unless save_strategy is steps", "set checkpoints.every"),
    f"{ARGS}save_only_model": ("checkpoints always hold what resuming needs", "nothing to do"),
    f"{ARGS}load_best": ("the best checkpoint is chosen by name", "set checkpoints.best"),
    f"{ARGS}metric_for_best": (
        "the best checkpoint is chosen by name",
        'set checkpoints.best, e.g. "forget_quality"',
    ),
    f"{ARGS}warmup_": ("warm-up is given in epochs", "set train.warmup_epochs"),
    f"{ARGS}per_device_eval": ("changes speed alone", "set evaluate.batch_size"),
    f"{ARGS}deepspeed": ("the launcher decides", "--processes N --profile zero2, or zero3"),
    f"{ARGS}remove_unused": _OURS,
    f"{METHOD}": ("the trainer takes no such option", "see `unlearn show METHOD`"),
    "data.anchor": ("forget rows lead, always", "nothing to do"),
    "collator": ("rows are not padded", "nothing to do"),
    "eval.": (
        "evaluators are chosen as a whole",
        "see `unlearn show tofu --kind evaluator` and docs/evaluation.md",
    ),
    "eval": ("the benchmark's own evaluator is taken", "add tables [[evaluate]]"),
    "data/": ("the data set is the benchmark's", "for own data see docs/own-data.md"),
    "data": ("the data set is the benchmark's", "for own data see docs/own-data.md"),
    "hydra": ("there is no Hydra", "nothing to do"),
    "paths": ("runs go to output.folder/name", "set output.folder"),
    "mode": _OURS,
    "question_key": ("paraphrased questions are a stress test", 'add evaluator = "paraphrase"'),
    f"{MODEL}device_map": _OURS,
    f"{MODEL}load_in_": (
        "weights are held in 4 bits under an adapter alone",
        'set lora.rank and lora.base = "nf4", see docs/reference/spec.md',
    ),
    "model.tokenizer_args.padding": ("rows are not padded", "nothing to do"),
    TEMPLATE: ("the tokenizer's chat template is used", "see [template]"),
    "handler": _OURS,
    "trainer.handler": _OURS,
}
"""Beginning of a key without counterpart -> why, and what to do. The longest that fits counts."""
UNKNOWN = "nothing of that name is known here", "look for it in docs/reference/spec.md"
NOTHING_THERE = "there is nothing to take away", "nothing to do"
