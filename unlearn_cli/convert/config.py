"""The configuration that open-unlearning's files and the overrides make together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from unlearn_cli.catalog.check import did_you_mean
from unlearn_cli.convert.command import ECHO, Command, Override
from unlearn_cli.convert.hydra import Value, parse_value
from unlearn_cli.convert.open_unlearning import (
    EXPERIMENTS,
    FINETUNE,
    GROUPS,
    MODELS,
    NOTES,
    NOTHING_THERE,
    PATH,
    TRAINERS,
    TRANSFORMERS,
    UNKNOWN,
    Experiment,
    Model,
    Trainer,
)
from unlearn_cli.errors import UsageError


@dataclass(frozen=True)
class Setting:
    """A value, and the file that set it; no file where the command line did."""

    value: Value
    file: str
    said: str
    """As it was written, for messages."""


@dataclass(frozen=True)
class Note:
    """A key without counterpart: why, and what to do."""

    key: str
    why: str
    do: str

    def __str__(self) -> str:
        return f"{self.key}: {self.why}; {self.do}"


@dataclass
class Config:
    """What open-unlearning would run, and which keys of it have been read."""

    experiment: Experiment
    name: str
    """Of the experiment."""
    trainer: Trainer | None
    trainer_name: str
    model: Model | None
    """None where its file is not known."""
    model_name: str
    settings: dict[str, Setting]
    notes: list[Note] = field(default_factory=list)
    read: set[str] = field(default_factory=set)

    def get(self, key: str) -> Setting | None:
        """A setting, which has now been read; None where there is none."""
        self.read.add(key)
        return self.settings.get(key)

    def unread(self) -> Iterator[tuple[str, Setting]]:
        """What the command line said and nobody asked for."""
        for key, setting in self.settings.items():
            if not setting.file and key not in self.read:
                yield key, setting


def compose(command: Command) -> Config:
    """Layer the files and the overrides as Hydra does: an experiment's values count more than its
    trainer's.

    Raises UsageError for an experiment or a trainer that is not known.
    """
    notes: list[Note] = []
    _refuse_no_group(command.overrides)
    said = dict(_said(command))
    name, experiment = _experiment(said.pop("experiment", None))
    chosen = said.pop("trainer", None)
    trainer_name, trainer = _trainer(chosen, experiment)
    if chosen and experiment.trainer is None:
        notes.append(Note(chosen.said, "nothing is trained", "nothing to do"))
    group = said.pop("model", None)
    model_name = _name(group) if group else experiment.model
    model = MODELS.get(model_name)
    layers = [
        ("transformers", TRANSFORMERS if experiment.trainer else {}),
        ("trainer/finetune.yaml", FINETUNE if experiment.trainer else {}),
        (f"trainer/{trainer_name}.yaml", trainer.settings if trainer else {}),
        (f"model/{model_name}.yaml", {PATH: model.path} if model else {}),
        (f"experiment/{name}.yaml", _fitting(experiment, trainer_name)),
    ]
    settings = {
        key: Setting(value, file, f"{key}={value}")
        for file, values in layers
        for key, value in values.items()
    }
    settings |= _removed(said, settings, notes)
    _interpolate(settings)
    config = Config(experiment, name, trainer, trainer_name, model, model_name, settings, notes)
    if model is None:
        why = "its prompt is not known here"
        notes.append(Note(f"model={model_name}", why, "set [template] and check with --dry-run"))
    elif group and settings[PATH].file.startswith("experiment/"):
        why = f"open-unlearning takes the weights of {settings[PATH].value} all the same"
        notes.append(Note(f"model={model_name}", why, "set model.path if that is not meant"))
    return config


def _fitting(experiment: Experiment, trainer: str) -> Mapping[str, Value]:
    """Without the options of the experiment's own trainer, where another one is named."""
    same = trainer == experiment.trainer
    return {
        key: value
        for key, value in experiment.settings.items()
        if same or not key.startswith("trainer.method_args.")
    }


def _refuse_no_group(overrides: Sequence[Override]) -> None:
    """Of a group that a run needs, Hydra refuses an empty choice, and open-unlearning none."""
    for override in overrides:
        taken_away = override.sign == "~" and override.key in GROUPS
        if taken_away and override.key != "eval":  # then nothing is measured, there
            what = f"a run needs its {override.key}"
        elif not taken_away and override.key in GROUPS and _is_nothing(override.text):
            what = f"there is no {override.key} without a name"
        else:
            continue
        raise UsageError(what, where=str(override), hint=GROUPS[override.key])


def _is_nothing(text: str) -> bool:
    return text.strip().lower() in ("", "null", "~", "''", '""')


def _said(command: Command) -> Iterator[tuple[str, Setting | None]]:
    """Key -> setting for every override; None where it takes the key away."""
    for override in command.overrides:
        if override.sign == "~":
            yield override.key, None
            continue
        try:
            value = parse_value(override.text)
        except ValueError as error:
            raise UsageError(str(error), where=str(override)) from None
        yield from _flat(override.key, value, override)


def _flat(key: str, value: Value, override: Override) -> Iterator[tuple[str, Setting | None]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _flat(f"{key}.{name}", item, override)
    else:
        yield key, Setting(value, "", str(override))


def _removed(
    said: Mapping[str, Setting | None], files: dict[str, Setting], notes: list[Note]
) -> dict[str, Setting]:
    """What the command line sets; what it takes away leaves the files' settings."""
    for key in [key for key, setting in said.items() if setting is None]:
        gone = [name for name in files if name == key or name.startswith(f"{key}.")]
        for name in gone:
            _take_away(name, files)
        if not gone:
            notes.append(Note(f"~{key}", *reason(key, NOTHING_THERE)))
    for key in [key for key, setting in said.items() if setting and setting.value is None]:
        _take_away(key, files)
    kept = {key: setting for key, setting in said.items() if setting is not None}
    return {key: setting for key, setting in kept.items() if not _is_default(key, setting)}


def reason(key: str, unknown: tuple[str, str] = UNKNOWN) -> tuple[str, str]:
    """Why a key has no counterpart, and what to do."""
    whole = r"(?:(?<=\W|_)|(?![a-z]))"  # `mode` is no beginning of `model`
    fitting = [start for start in NOTES if re.match(re.escape(start) + whole, key)]
    return NOTES[max(fitting, key=len)] if fitting else unknown


def _is_default(key: str, setting: Setting) -> bool:
    return setting.value is None and key in TRANSFORMERS


def _take_away(key: str, files: dict[str, Setting]) -> None:
    files.pop(key, None)
    if key in TRANSFORMERS:
        value = TRANSFORMERS[key]
        files[key] = Setting(value, "transformers", f"{key}={value}")


def _interpolate(settings: dict[str, Setting]) -> None:
    """Fill in `${key}`, once: the files go no deeper."""
    for key, setting in settings.items():
        if isinstance(setting.value, str) and "${" in setting.value:
            text = setting.value
            for name, other in settings.items():
                text = text.replace(f"${{{name}}}", str(other.value))
            if "${" in text:
                raise UsageError("holds a variable of the shell", where=setting.said, hint=ECHO)
            settings[key] = Setting(text, setting.file, setting.said)


def _name(setting: Setting | None) -> str:
    if setting and "$" in setting.said:
        raise UsageError("holds a variable of the shell", where=setting.said, hint=ECHO)
    return str(setting.value).removesuffix(".yaml") if setting else ""


def _experiment(setting: Setting | None) -> tuple[str, Experiment]:
    name = _name(setting)
    if name not in EXPERIMENTS:
        what = f"there is no experiment {name!r} here" if name else "no experiment is named"
        hint = did_you_mean(name, EXPERIMENTS) if name else "e.g. experiment=unlearn/tofu/default"
        raise UsageError(what, where="experiment", hint=hint)
    return name, EXPERIMENTS[name]


def _trainer(setting: Setting | None, experiment: Experiment) -> tuple[str, Trainer | None]:
    name = _name(setting) or experiment.trainer or ""
    if name in TRAINERS and not experiment.target:
        return name, TRAINERS[name] if experiment.trainer else None
    if name not in ("", "finetune") or not (experiment.target or experiment.trainer is None):
        known = ["finetune"] if experiment.target else TRAINERS
        what = f"there is no trainer {name!r} for this experiment"
        raise UsageError(what, where="trainer", hint=did_you_mean(name, known))
    return name, None
