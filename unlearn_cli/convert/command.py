"""A command line of open-unlearning, taken apart."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from unlearn_cli.convert.hydra import split_top
from unlearn_cli.errors import UsageError

SCRIPTS = ("train.py", "eval.py")
HINT = "give it whole, e.g. python src/train.py experiment=unlearn/tofu/default trainer=NPO ..."
ECHO = (
    "put `echo` before the command, run the script, and convert what it prints: the shell's "
    "variables are then filled in"
)
FUNCTIONS = (
    *("choice", "range", "glob", "interval", "shuffle", "sort", "tag", "extend_list"),
    *("int", "float", "str", "bool", "json_str"),
)
"""Of Hydra's override grammar."""
MOST = 1000
"""Values of a sweep over one key."""
_OVERRIDE = re.compile(r"(?P<sign>\+\+|\+|~)?(?P<key>[\w./@-]+)(?P<is>=)?(?P<value>.*)", re.DOTALL)
_SETS = re.compile(r"\s*(export\s+)?CUDA_VISIBLE_DEVICES=")
_SEPARATORS = ("&&", "||", "|", "&", ";")
_REDIRECTS = re.compile(r"(?:\d|&)?(?:>>?|<)(?:&\d|(.*))")


def _spelt(*names: str) -> tuple[str, ...]:
    return tuple(f"--{name.replace('_', mark)}" for name in names for mark in "_-")


_TOTALS = _spelt("num_processes")
_EACH = _spelt("nproc_per_node", "num_gpus")
_NODES = _spelt("nnodes", "num_nodes")


@dataclass(frozen=True)
class Override:
    """One `key=value`, its value still text."""

    sign: str
    """`+`, `++`, `~` or nothing."""
    key: str
    text: str

    def __str__(self) -> str:
        bare = self.sign == "~" and not self.text
        return f"{self.sign}{self.key}" if bare else f"{self.sign}{self.key}={self.text}"


@dataclass(frozen=True)
class Command:
    """What a command line says."""

    words: tuple[str, ...]
    overrides: tuple[Override, ...]
    flags: tuple[str, ...]
    """Of Hydra, such as `--config-name=unlearn.yaml`."""
    processes: int
    counted: str
    """Where the number of processes comes from; empty where nothing says."""


def words_of(text: str) -> list[str]:
    """The words of the one command of open-unlearning in a script, behind the variables that are
    set before it: backslashes continue lines, comments are left out.

    Raises UsageError where a quote does not close, or where there are several such commands.
    """
    joined = re.sub(r"\\\s*\n", " ", text.replace("\r\n", "\n"))
    lines = [line for line in joined.splitlines() if _is_command(line) or _SETS.match(line)]
    try:
        commands = [part for line in lines or [joined] for part in _commands(line)]
    except ValueError as error:
        raise UsageError(f"this is no shell command: {error}", hint=HINT) from None
    ours = [command for command in commands if any(map(_is_script, command))]
    if len(ours) > 1:
        what = f"there are {len(ours)} commands of open-unlearning here"
        raise UsageError(what, hint="a spec is one run: give one of them")
    before = commands[: commands.index(ours[0]) + 1] if ours else commands
    return [word for command in before for word in command]


def _commands(line: str) -> list[list[str]]:
    """The words of each command of a line, without where its output goes."""
    found: list[list[str]] = [[]]
    words = iter(shlex.split(line, comments=True))
    for word in words:
        if redirection := _REDIRECTS.fullmatch(word):
            if not redirection[1]:
                next(words, "")
        elif word in _SEPARATORS:
            found.append([])
        else:
            found[-1].append(word.removesuffix(";"))
            if word.endswith(";"):
                found.append([])
    return [command for command in found if command]


def parse_command(words: Sequence[str]) -> Command:
    """Take a command apart.

    Raises UsageError where it is none of open-unlearning, or not filled in.
    """
    _refuse_bytes(words)
    place = next((i for i, word in enumerate(words) if _is_script(word)), None)
    if place is None and not any(word.startswith("experiment=") for word in words):
        raise UsageError("there is no src/train.py and no src/eval.py", hint=HINT)
    launch = () if place is None else words[:place]
    rest = words if place is None else words[place + 1 :]
    flags, said = _flags(rest)
    _refuse_other_script("" if place is None else words[place], said)
    processes, counted = _processes(launch)
    return Command(
        tuple(words),
        tuple(_override(word) for word in said),
        tuple(flags),
        processes,
        counted,
    )


def _refuse_other_script(script: str, said: Sequence[str]) -> None:
    """Somebody who measures must not get a spec that trains, nor the other way round."""
    name = PurePosixPath(script).name
    experiments = [word.partition("=")[2] for word in said if word.startswith("experiment=")]
    for experiment in experiments if name else ():
        if experiment.startswith("eval/") != (name == "eval.py"):
            other = "train.py" if name == "eval.py" else "eval.py"
            what = f"src/{name} does not run experiment={experiment}"
            raise UsageError(what, hint=f"that is one of src/{other}")


def _is_script(word: str) -> bool:
    return PurePosixPath(word).name in SCRIPTS


def _is_command(line: str) -> bool:
    return not line.lstrip().startswith("#") and any(map(_is_script, line.split()))


def _refuse_bytes(words: Sequence[str]) -> None:
    try:
        "".join(words).encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"not UTF-8 text: {error.object[error.start]!r}") from None


VALUED = ("--config-name", "--config-path", "--config-dir", "-cn", "-cp", "-cd")
"""Hydra's flags that take a value."""


def _flags(rest: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hydra's own flags with their values, and the overrides."""
    flags: list[str] = []
    said: list[str] = []
    words = iter(rest)
    for word in words:
        if not word.startswith("-"):
            said.append(word)
        elif word in ("-m", "--multirun") or (word.partition("=")[0] in VALUED and "=" in word):
            flags.append(word)
        elif word in VALUED:
            flags.append(f"{word}={next(words, '')}")
        else:
            hint = (
                f"it has {', '.join(VALUED)}; flags of `unlearn convert` stand before the command"
            )
            raise UsageError(f"{word!r} is no flag of open-unlearning's scripts", hint=hint)
    return flags, said


def _override(word: str) -> Override:
    found = _OVERRIDE.fullmatch(word)
    if found is None or not (found["is"] or found["sign"] == "~"):
        raise UsageError(f"{word!r} is no override of Hydra", hint="write key=value, or ~key")
    if re.search(r"\$(\w|\(|\{\w+\[)", found["value"]):
        raise UsageError("holds a variable of the shell", where=word, hint=ECHO)
    return Override(found["sign"] or "", found["key"], found["value"])


def _processes(launch: Sequence[str]) -> tuple[int, str]:
    """How many, and what says so: a flag of the launcher, or the devices that are visible."""
    told = _pairs(launch)
    total, each, nodes = (_told(told, flags) for flags in (_TOTALS, _EACH, _NODES))
    if total:
        return total, "the launcher"
    if each and nodes != 0:
        return each * (nodes or 1), "the launcher"
    visible = told.get("CUDA_VISIBLE_DEVICES", "")
    devices = [device for device in visible.split(",") if device]
    if devices and "$" not in visible and nodes in (None, 1):
        return len(devices), "CUDA_VISIBLE_DEVICES"
    launched = any(word in ("launch", "torchrun", "deepspeed") for word in launch)
    return 1, "" if launched or "$" in visible else "one process"


def _told(told: Mapping[str, str], flags: Sequence[str]) -> int | None:
    """The number behind one of the flags; 0 where it is no number, None where none is there."""
    said = next((told[flag] for flag in flags if flag in told), None)
    return None if said is None else int(said) if re.fullmatch(r"[1-9]\d{0,8}", said) else 0


def _pairs(launch: Sequence[str]) -> Mapping[str, str]:
    """Variables and flags before the script; a flag's value may be the next word."""
    pairs: dict[str, str] = {}
    for word, following in zip(launch, [*launch[1:], ""], strict=False):
        if "=" in word:
            name, _, value = word.partition("=")
            pairs[name] = value
        elif word.startswith("--"):
            pairs[word] = following
    return pairs


def choices(override: Override) -> list[str]:
    """The values of an override: several where it is a sweep (`a,b`, `choice(a,b)`, `range(0,3)`).

    Raises UsageError where brackets or quotes do not close, or one of several values is empty.
    """
    try:
        found = _choices(override.text)
    except ValueError as error:
        raise UsageError(str(error), where=str(override)) from None
    if len(found) > 1 and not all(value.strip() for value in found):
        raise UsageError("one of the values is empty", where=str(override))
    return found


def _choices(text: str) -> list[str]:
    function = re.fullmatch(rf"\s*({'|'.join(FUNCTIONS)})\((.*)\)\s*", text, re.DOTALL)
    parts = split_top(function[2] if function else text)
    if not function or function[1] == "choice":
        return parts
    if function[1] != "range":
        raise ValueError("of Hydra's functions choice and range alone are known here")
    if not 1 <= len(parts) <= 3 or not all(re.fullmatch(r"\s*-?\d{1,9}\s*", p) for p in parts):
        raise ValueError("a range of whole numbers has the form range(0,3)")
    bounds = [int(part) for part in parts]
    if bounds[2:] == [0] or not 0 < len(values := range(*bounds)) <= MOST:
        raise ValueError(f"a range has 1 to {MOST} values")
    return [str(value) for value in values]
