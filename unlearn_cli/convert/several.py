"""Several values of a key, which Hydra runs one after the other: the same as `unlearn sweep`.

Each value is converted by itself. Where the specs differ in one key, that is what a sweep varies.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unlearn_cli.convert.command import Command, Override, choices
from unlearn_cli.convert.config import Note
from unlearn_cli.convert.draft import Draft
from unlearn_cli.results import flatten
from unlearn_cli.spec.layers import flags
from unlearn_cli.spec.load import problems_of
from unlearn_cli.spec.positions import KeyPath
from unlearn_cli.spec.resolve import resolve
from unlearn_cli.spec.template import toml_value

NO_RESULT = (("name",), ("train", "micro_batch"))
"""Keys in which two specs may differ and still give the same."""
_Keys = Mapping[str, Any]
"""Dotted key -> value, of a whole spec."""
FIRST = "the spec has the first of the values"
SAME, NOTHING = "the values give the same run here", "nothing to do"
ONE_BY_ONE = "convert one command for each value"
UNUSED = "data.alternates"
"""May be set for all methods: one that reads no alternates is as it was."""
METHOD: KeyPath = ("method", "name")
_BARE = re.compile(r"(?!(?:true|false|inf|nan)$)[A-Za-z][\w./-]*")


@dataclass(frozen=True)
class Axis:
    """An override with several values."""

    override: Override
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.override.sign}{self.override.key}={','.join(self.values)}"

    def single(self, command: Command, value: str) -> Command:
        """The command with one of the values."""
        chosen = replace(self.override, text=value)
        said = tuple(chosen if o is self.override else o for o in command.overrides)
        return replace(command, overrides=said)


def apart(command: Command) -> tuple[Command, list[Axis]]:
    """The command with the first value of each override, and the overrides with several.

    Raises UsageError where brackets or quotes do not close.
    """
    found = [Axis(override, tuple(choices(override))) for override in command.overrides]
    several = [axis for axis in found if len(axis.values) > 1]
    first = tuple(replace(axis.override, text=axis.values[0]) for axis in found)
    told = dict(zip(map(id, command.overrides), first, strict=True))
    axes = [replace(axis, override=told[id(axis.override)]) for axis in several]
    return replace(command, overrides=first), axes


def sweep(file: str, axes: Sequence[tuple[Axis, Sequence[Draft]]]) -> tuple[str, list[Note]]:
    """The command that runs all values, and notes on it; empty where none can.

    Args:
        file: of the spec.
        axes: each with the specs of its values.
    """
    varied: dict[str, str] = {}
    fixed: dict[str, str] = {}
    swept, notes = [], []
    for axis, drafts in axes:
        made, sets, why = _flags(drafts)
        if made.keys() & varied.keys():
            made, sets, why = {}, {}, f"{FIRST}: another key varies {', '.join(made)} already"
        if made:
            swept.append(str(axis))
        if why:
            notes.append(Note(str(axis), why, NOTHING if why == SAME else ONE_BY_ONE))
        varied, fixed = varied | made, fixed | sets
    if not swept:
        return "", notes
    flags_ = [*varied.values(), *(flag for key, flag in fixed.items() if key not in varied)]
    command = " ".join(["unlearn sweep", file, *flags_])
    return command, [Note(" ".join(swept), FIRST, f"all of them: {command}"), *notes]


def _flags(drafts: Sequence[Draft]) -> tuple[dict[str, str], dict[str, str], str]:
    """Key -> flag of `unlearn sweep` that varies it, those that fix a key, and what they leave
    unsaid."""
    keys = {path: None for draft in drafts for path in draft.entries if path not in NO_RESULT}
    values = {path: [draft.entries.get(path, (None, ""))[0] for draft in drafts] for path in keys}
    differing = [path for path, found in values.items() if any(v != found[0] for v in found)]
    if not differing:
        return {}, {}, SAME
    if differing == [("seed",)]:
        return {"seed": f"--seeds {','.join(map(str, values['seed',]))}"}, {}, ""
    lead = METHOD if METHOD in differing else differing[0]
    alike = all(draft.preset == drafts[0].preset for draft in drafts)
    single = lead == METHOD or len(differing) == 1
    if alike and single and None not in values[lead]:
        return _grid(lead, values[lead], drafts)
    return {}, {}, f"{FIRST}: they change {', '.join(_dotted(path) for path in differing)}"


def _grid(
    lead: KeyPath, values: Sequence[Any], drafts: Sequence[Draft]
) -> tuple[dict[str, str], dict[str, str], str]:
    """`--grid`, with a `--set` for what belongs to all values and a change of the key takes away.

    Another method starts without the options of the one before.
    """
    wanted = [_resolved(draft) for draft in drafts]
    single = [f"{_dotted(lead)}={_said(value)}" for value in values]
    shared = {key: _shared(key, wanted) for key in _gaps(drafts[0], single, wanted)}
    sets = [f"{key}={_said(value)}" for key, value in shared.items() if value is not None]
    if any(problems_of(_tree(drafts[0], [flag, *sets])) for flag in single):
        return {}, {}, f"{FIRST}: each needs options of its own"
    left = [key for key in _gaps(drafts[0], single, wanted, sets) if key != UNUSED]
    if lead == METHOD and any(not key.startswith("method.") for key in left):
        return {}, {}, f"{FIRST}: they change {', '.join(left)} as well"
    grid = f"{_dotted(lead)}={','.join(dict.fromkeys(map(_said, values)))}"
    fixed = {flag.partition("=")[0]: f"--set {shlex.quote(flag)}" for flag in sets}
    why = f"in a sweep {', '.join(left)} would not be what it is there" if left else ""
    return {_dotted(lead): f"--grid {shlex.quote(grid)}"}, fixed, why


def _gaps(
    base: Draft, single: Sequence[str], wanted: Sequence[_Keys], sets: Sequence[str] = ()
) -> list[str]:
    """Keys that a sweep would give another value than the spec of that value has."""
    found: dict[str, None] = {}
    for flag, want in zip(single, wanted, strict=True):
        have = _resolved(base, [flag, *sets])
        found |= {key: None for key in {**want, **have} if have.get(key) != want.get(key)}
    ignored = {_dotted(path) for path in NO_RESULT}
    return [key for key in found if key not in ignored]


def _shared(key: str, wanted: Sequence[_Keys]) -> Any:
    """The one value that all specs with this key have; None where there are several."""
    found = [want[key] for want in wanted if key in want]
    return found[0] if found and all(value == found[0] for value in found) else None


def _tree(draft: Draft, said: Sequence[str]) -> Any:
    tree = draft.tree()
    tree.overlay(flags(said, {})[0])
    return tree


def _resolved(draft: Draft, said: Sequence[str] = ()) -> dict[str, Any]:
    return dict(flatten(resolve(_tree(draft, said))))


def _said(value: Any) -> str:
    """As a flag takes it: a bare word, or TOML."""
    return value if isinstance(value, str) and _BARE.fullmatch(value) else toml_value(value)


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))
