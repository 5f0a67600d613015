"""A configuration of open-unlearning as a spec of ours, with notes on what has no counterpart."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unlearn_cli.convert.command import Command, parse_command
from unlearn_cli.convert.config import Config, Note, Setting, compose, reason
from unlearn_cli.convert.draft import Draft
from unlearn_cli.convert.hydra import Value
from unlearn_cli.convert.open_unlearning import (
    ALTERNATES,
    ARGS,
    DIRECT,
    DTYPES,
    METHOD,
    MODEL,
    OPTIMIZERS,
    PATH,
    REQUIRED,
    RETAIN_MODELS,
    RETAIN_TERMS,
    SCHEDULES,
    TEMPLATE,
    Trainer,
)
from unlearn_cli.convert.several import FIRST, ONE_BY_ONE, Axis, apart, sweep
from unlearn_cli.errors import UsageError


@dataclass(frozen=True)
class Converted:
    """A spec as TOML, and what of the command has no counterpart in it."""

    text: str
    notes: tuple[Note, ...]


def convert(words: Sequence[str], file: str = "spec.toml") -> Converted:
    """Turn a command of open-unlearning into a spec that passes `unlearn check`.

    Args:
        words: the command line: variables and launcher, script, overrides.
        file: where the spec is to be written; the commands that it tells of name it.

    Raises:
        UsageError: it is no such command, or names an experiment or trainer that is not known.
        SpecError: a value is none that the spec takes; names what was said.
    """
    command, axes = apart(parse_command(words))
    config, draft = _one(command)
    name = shlex.quote(file)
    several = [
        (axis, [draft, *(_one(axis.single(command, value))[1] for value in axis.values[1:])])
        for axis in axes
    ]
    swept, said = sweep(name, several) if config.experiment.trainer else ("", _not_swept(axes))
    notes = tuple(dict.fromkeys((*said, *config.notes, *_left(config))))
    return Converted(draft.toml(words, name, swept or _run(config, command, name), notes), notes)


def _not_swept(axes: Sequence[Axis]) -> list[Note]:
    return [Note(str(axis), FIRST, ONE_BY_ONE) for axis in axes]


def _one(command: Command) -> tuple[Config, Draft]:
    """The configuration of a command in which each key has one value, and its spec."""
    config = compose(command)
    draft = Draft(_preset(config))
    if not config.experiment.target:
        draft.put("evaluate.evaluator", config.experiment.benchmark)
    _top(config, draft)
    _model(config, draft)
    _DATA[config.experiment.benchmark](config, draft)
    _rename(config, draft)
    if config.experiment.trainer:
        _length(config, draft)
        _batch(config, command, draft)
    if config.trainer:
        _method(config.trainer, config, draft)
        _checkpoints(config, draft)
    _evaluate(config, draft)
    draft.check()
    return config, draft


def _preset(config: Config) -> str:
    if config.experiment.benchmark != "muse":
        return config.experiment.benchmark
    corpus = _choice(config, "data_split", {"News": "muse-news", "Books": "muse-books"})
    return str(corpus)


def _top(config: Config, draft: Draft) -> None:
    said = config.get("task_name")
    task = str(said.value) if said else ""
    name = re.sub(r"[^A-Za-z0-9._@-]+", "-", task).strip("-._@")
    if not name:
        name = f"{draft.preset}-{config.trainer_name or 'eval'}".lower()
        _note(config, "task_name", "a run needs a name", "set name")
    elif name != task:
        _note(config, "task_name", f"a name is a folder's, so it became {name}", "set name")
    draft.put("name", name, said)


def _model(config: Config, draft: Draft) -> None:
    path = config.get(PATH)
    draft.put("target.base" if config.experiment.target else "model.path", _text(path), path)
    if config.get(f"{MODEL}torch_dtype"):
        draft.put("model.dtype", _choice(config, f"{MODEL}torch_dtype", DTYPES))
    elif config.model:
        draft.put("model.dtype", config.model.dtype, why=f"model/{config.model_name}.yaml")
    if config.model and config.experiment.benchmark == "tofu":
        file = f"model/{config.model_name}.yaml"
        draft.put("template.system", config.model.system, why=file)
        draft.put("template.prompt", config.model.prompt, why=file)
        draft.put("template.chat", "never" if config.model.prompt else None, why=file)
    chat = config.get(f"{TEMPLATE}apply_chat_template")
    if chat:
        draft.put("template.chat", "auto" if chat.value is True else "never", chat)


def _tofu(config: Config, draft: Draft) -> None:
    draft.put("data.dataset", "tofu")
    if config.experiment.target:
        return _tofu_target(config, draft)
    forget, retain = config.get("forget_split"), config.get("retain_split")
    if forget is None or not isinstance(forget.value, str) or not forget.value:
        where, hint = forget.said if forget else "forget_split", "e.g. forget_split=forget10"
        raise UsageError("names nothing that is to be forgotten", where=where, hint=hint)
    draft.put("data.forget", _text(forget), forget)
    holdout = config.get("holdout_split")
    draft.put("data.holdout", _text(holdout) or None, holdout)
    rest = _rest(_text(forget))
    if retain and retain.value == rest:
        draft.put("data.retain", rest, retain)
    elif retain and retain.value and config.experiment.trainer:
        why = f"{retain.value} is not what {_text(forget)} leaves"
        _note(config, "retain_split", why, f"here the rest is kept: {rest or 'set data.retain'}")
    return _tofu_reference(config, draft, rest)


def _tofu_target(config: Config, draft: Draft) -> None:
    """Fine-tuning: of all rows, or of those that a split leaves."""
    named = re.compile(r"data\.train\.\w+\.args\.hf_args\.name")
    rows = [_text(config.get(key)) for key in config.settings if named.fullmatch(key)]
    for key in [key for key in config.settings if key.startswith("data/datasets@data.train")]:
        config.get(key)
    forget = next((f"forget{100 - int(row[6:]):02}" for row in rows if _is_retain(row)), "forget10")
    draft.put("data.forget", forget, why="decides what the retain reference is trained on")
    why = "one file makes both models, and goes on to unlearn"
    _note(config, "experiment", why, "see [target] and [method]; the models are cached")


def _is_retain(split: str) -> bool:
    return re.fullmatch(r"retain\d\d", split) is not None


def _rest(forget: str) -> str:
    """`retain90` for `forget10`; empty for other splits."""
    return f"retain{100 - int(forget[6:]):02}" if re.fullmatch(r"forget\d\d", forget) else ""


def _tofu_reference(config: Config, draft: Draft, rest: str) -> None:
    """The stored log, or the public retain model, or where open-unlearning would write the log."""
    logs, path = config.get("retain_logs_path"), config.get(PATH)
    public = re.fullmatch(RETAIN_MODELS, _text(path))
    if logs and logs.value is not None:
        draft.put("retain_reference.evaluation", _text(logs), logs)
    elif public and rest:
        model = f"open-unlearning/tofu_{public[1]}_{rest}"
        draft.put("retain_reference.path", model, why="no retain_logs_path: the public model")
    else:
        log = f"saves/eval/tofu_{config.model_name}_{rest or 'RETAIN'}/TOFU_EVAL.json"
        draft.put("retain_reference.evaluation", log, why="open-unlearning's own place")
        do = f"make {log}, or set retain_reference.path to a retain model"
        _note(config, "retain_logs_path", "without it forget quality is null", do)


def _muse(config: Config, draft: Draft) -> None:
    draft.put("data.dataset", "muse")
    if config.experiment.part:
        fold = config.get("forget_split")
        number = re.fullmatch(r"forget_([1-4])", _text(fold))
        if number is None:
            hint = "write forget_1, forget_2, forget_3 or forget_4"
            raise UsageError("is no fold", where=fold.said if fold else "forget_split", hint=hint)
        draft.put("data.part", config.experiment.part)
        draft.put("data.fold", int(number[1]), fold)
    elif _text(config.get("forget_split")) not in ("", "forget"):
        _note(config, "forget_split", "the whole of the texts is forgotten", "see data.part")
    if _text(config.get("retain_split")) not in ("", "retain1"):
        _note(config, "retain_split", "retain1 is kept", 'use data.dataset = "files" for others')
    logs = config.get("retain_logs_path")
    if logs and logs.value is not None:
        why = "logs of MUSE are not read: the retrained model of the preset is measured"
        _note(config, "retain_logs_path", why, "set retain_reference.path for another")


def _wmdp(config: Config, draft: Draft) -> None:
    domain = _choice(config, "data_split", {"cyber": "cyber", "bio": "bio"})
    draft.put("data.dataset", "wmdp")
    draft.put("data.domains", [domain], config.get("data_split"))
    draft.put("data.retain", "corpora")
    if config.get("eval.lm_eval.tasks") is None:
        draft.put("evaluate.tasks", [f"wmdp_{domain}", "mmlu"])
    draft.put("evaluate.tasks", *_pair(config, "eval.lm_eval.tasks"))


_DATA = {"tofu": _tofu, "muse": _muse, "wmdp": _wmdp}


def _rename(config: Config, draft: Draft) -> None:
    """Keys that only change their name."""
    for key, ours in DIRECT.items():
        if config.experiment.trainer is None and ours.startswith(("train.", "checkpoints.")):
            continue
        draft.put(_place(config, ours), *_pair(config, key))


def _place(config: Config, key: str) -> str:
    """The schedule of a target is in its own table."""
    here = config.experiment.target and key != "train.activation_checkpointing"
    return f"target.{key[6:]}" if here and key.startswith("train.") else key


def _length(config: Config, draft: Draft) -> None:
    table = "target" if config.experiment.target else "train"
    steps, epochs = config.get(f"{ARGS}max_steps"), config.get(f"{ARGS}num_train_epochs")
    if steps and not (isinstance(steps.value, int) and steps.value <= 0):
        draft.put("train.steps", steps.value, steps)
        if epochs and not epochs.file:
            _note(config, epochs.said, f"{steps.said} counts more", "nothing to do")
    elif epochs:
        draft.put(f"{table}.epochs", epochs.value, epochs)
    _optimizer(config, f"{table}.optimizer", draft)
    schedule = _choice(config, f"{ARGS}lr_scheduler_type", SCHEDULES)
    draft.put(f"{table}.schedule", schedule, config.get(f"{ARGS}lr_scheduler_type"))


def _optimizer(config: Config, key: str, draft: Draft) -> None:
    """Of what is said; AdamW is the default there and here."""
    setting = config.settings.get(f"{ARGS}optim")
    ours = OPTIMIZERS.get(_text(setting).lower())
    if ours:
        draft.put(key, ours, config.get(f"{ARGS}optim"))
    if setting and ours == "adafactor":
        why = "steps follow the size of each tensor here, there the learning rate alone"
        _note(config, setting.said, why, "tune the learning rate again")


def _batch(config: Config, command: Command, draft: Draft) -> None:
    """The global number of examples in a step."""
    each = _count(config, "per_device_train_batch_size")
    passes = _count(config, "gradient_accumulation_steps")
    table = "target" if config.experiment.target else "train"
    processes = f"{command.processes} processes" if command.processes > 1 else "1 process"
    why = f"{each} a device x {passes} accumulated x {processes}"
    draft.put(f"{table}.batch_size", each * passes * command.processes, why=why)
    draft.put("train.micro_batch", each, why="changes speed and memory alone")
    if not command.counted:
        do = f"multiply {table}.batch_size by them"
        _note(config, "launcher", "how many processes is not said; 1 is taken", do)


def _count(config: Config, name: str) -> int:
    setting = config.get(f"{ARGS}{name}")
    value = setting.value if setting else None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise UsageError(
            "must be a whole number greater than 0", where=setting.said if setting else name
        )
    return value


def _method(trainer: Trainer, config: Config, draft: Draft) -> None:
    for key, name in REQUIRED.items():
        if name == config.trainer_name and config.get(key) is None:
            raise UsageError("is missing", where=key, hint=f"{name} has no default for it")
    draft.put("method.name", trainer.method, why=f"trainer {config.trainer_name}")
    for theirs, ours in trainer.options.items():
        value, setting = _pair(config, f"{METHOD}{theirs}")
        if theirs.endswith("_regex"):
            value = _patterns(config, f"{METHOD}{theirs}", value)
        draft.put(f"method.{ours}", value, setting)
    for method, alternates, why in ALTERNATES:
        draft.put("data.alternates", alternates if method == trainer.method else None, why=why)
    _retain(config, draft)


def _retain(config: Config, draft: Draft) -> None:
    """The retain term; none where its weight is 0."""
    alpha = config.get(f"{METHOD}alpha")
    kind = config.get(f"{METHOD}retain_loss_type")
    if alpha is None and kind is None:
        return
    if alpha and alpha.value == 0:
        draft.put("method.retain", "none", alpha, why=f"alpha = 0 ({alpha.file or 'said'})")
        return
    term = _choice(config, f"{METHOD}retain_loss_type", RETAIN_TERMS)
    draft.put("method.retain", term, kind)
    draft.put("method.alpha", alpha.value if alpha and term != "none" else None, alpha)
    if term == "kl":
        draft.put("method.kl_positions", "all", why="prompts count, too; padding never does")


def _patterns(config: Config, key: str, value: Value) -> Value:
    """Regular expressions of names as patterns; None, with a note, for one that is no pattern."""
    if isinstance(value, list):
        found = [_pattern(str(item)) for item in value]
        if all(found):
            return [pattern or "" for pattern in found]
    elif value is not None and (pattern := _pattern(str(value))):
        return pattern
    _note(config, key, "cannot be turned into a pattern", "set it by hand, see `unlearn show rmu`")
    return None


def _pattern(regex: str) -> str | None:
    text = regex.replace(r"\.", "\0").replace(".*", "*")
    text = re.sub(r"\((\w(?:\|\w)+)\)", lambda found: f"[{found[1].replace('|', '')}]", text)
    text = text.replace("\0", ".")
    return text if re.fullmatch(r"[\w.*\[\]-]+", text) else None


def _checkpoints(config: Config, draft: Draft) -> None:
    every = _every(config, "save", {"no": "end", "epoch": "epoch", "best": "epoch"})
    draft.put("checkpoints.every", every, config.get(f"{ARGS}save_strategy"))


def _evaluate(config: Config, draft: Draft) -> None:
    """The benchmark's evaluator."""
    if config.experiment.target:
        return
    benchmark = config.experiment.benchmark
    if config.experiment.trainer:
        every = _every(config, "eval", {"no": "end", "epoch": "epoch"})
        draft.put("evaluate.every", every, config.get(f"{ARGS}eval_strategy"))
    draft.put("evaluate.batch_size", *_pair(config, f"eval.{benchmark}.batch_size"))


def _every(config: Config, what: str, words: dict[str, str]) -> str | int | None:
    """`epoch`, `end` or a number of steps; a share of the steps is turned into one."""
    strategy = config.get(f"{ARGS}{what}_strategy")
    # Hydra reads an unquoted `no` as text; YAML reads it as false.
    if strategy is None or _text(strategy) != "steps":
        return str(_choice(config, f"{ARGS}{what}_strategy", words | {"False": words["no"]}))
    steps = config.get(f"{ARGS}{what}_steps")
    number = steps.value if steps else 500
    if isinstance(number, float) and 0 < number < 1:
        total = config.get(f"{ARGS}max_steps")
        if total is None or not isinstance(total.value, int):
            why = "a share of the steps, whose number is not known here"
            _note(config, f"{ARGS}{what}_steps", why, "set it in steps; here it is each epoch")
            return "epoch"
        return math.ceil(number * total.value)
    return number if isinstance(number, int) else str(number)


def _left(config: Config) -> list[Note]:
    """Notes on what was said and not read."""
    return [Note(setting.said, *reason(key)) for key, setting in config.unread()]


def _run(config: Config, command: Command, file: str) -> str:
    if config.experiment.trainer is None:
        return f"unlearn evaluate {file}"
    several = f" --processes {command.processes}" if command.processes > 1 else ""
    return f"unlearn run {file}{several}"


def _pair(config: Config, key: str) -> tuple[Value, Setting | None]:
    setting = config.get(key)
    return (setting.value if setting else None), setting


def _choice(config: Config, key: str, words: Mapping[str, str]) -> str | None:
    """Our word for theirs. Raises UsageError where there is none."""
    setting = config.get(key)
    if setting is None:
        return None
    if (said := str(setting.value)) not in words:
        hint = f"one of {', '.join(words)}"
        raise UsageError(f"{said} has no counterpart", where=setting.said, hint=hint)
    return words[said]


def _text(setting: Setting | None) -> str:
    return "" if setting is None or setting.value is None else str(setting.value)


def _note(config: Config, key: str, why: str, do: str) -> None:
    config.notes.append(Note(key, why, do))
