"""Many runs of one spec: a grid, random draws, seeds. Here is what they are; `workers` runs them.

A sweep is a folder: `sweep.json`, which lists its runs, and the folder of each run, named by what
is varied. Runs share the target and the retain reference through the cache, by content. Imports no
torch.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from unlearn_cli.errors import SpecError, UnlearnError, UsageError
from unlearn_cli.files import is_name, parse_toml, read_toml
from unlearn_cli.results import flatten
from unlearn_cli.runs import RunFolder
from unlearn_cli.spec.tables import Spec

NOT_VARIED = ("name", "seed", "output", "extends", "train.micro_batch")
MAY_CHANGE = ("output.", "train.micro_batch")
"""Keys that do not touch the result, so a run may go on under other values."""
LONGEST_PART = 40  # characters of a value in the name of a run

Point = dict[str, str]
"""Key -> value as `--set` takes it."""


@dataclass(frozen=True)
class Range:
    """Values of a key to draw from; whole numbers where both ends are."""

    key: str
    low: float
    high: float
    log: bool
    whole: bool

    def draw(self, generator: random.Random) -> str:
        """A value, uniform in the range or in its logarithm."""
        share = generator.random()
        if self.log:
            value = math.exp(math.log(self.low) + share * math.log(self.high / self.low))
        else:
            value = self.low + share * (self.high - self.low)
        return self.text(value)

    def text(self, value: float) -> str:
        """A value as `--set` takes it, to four significant digits."""
        return str(round(value)) if self.whole else f"{value:.4g}"


@dataclass(frozen=True)
class Variant:
    """One run of a sweep."""

    name: str
    point: Point
    spec: Spec
    toml: str
    """The spec as text, for the run folder."""

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return Path(self.spec.output.folder) / self.name


def parse_grid(text: str) -> tuple[str, list[str]]:
    """`KEY=VALUE,VALUE...` as key and values. Commas in brackets and quotes do not part values.

    Raises:
        UsageError: it has another form, or a key that a sweep sets itself.
    """
    key, values = _key_and_rest(text, "--grid", "method.beta=0.05,0.1")
    parts = [part.strip() for part in _split(values)]
    if not all(parts):
        raise UsageError("a value is empty", where=f"--grid {text}")
    return key, list(dict.fromkeys(parts))


def parse_range(text: str) -> Range:
    """`KEY=LOW:HIGH` or `KEY=LOW:HIGH:log`.

    Raises:
        UsageError: it has another form, or its ends are not in order.
    """
    example = "method.beta=0.01:1:log"
    key, rest = _key_and_rest(text, "--range", example)
    found = re.fullmatch(r"([^:]+):([^:]+?)(:log)?", rest)
    try:
        if found is None:
            raise ValueError
        low, high = float(found[1]), float(found[2])
    except ValueError:
        raise _malformed(text, "--range", example) from None
    log = found[3] is not None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError("the low end must be below the high end", where=f"--range {text}")
    if log and low <= 0:
        raise UsageError("a logarithmic range starts above 0", where=f"--range {text}")
    whole = all(re.fullmatch(r"\s*[+-]?\d+\s*", end) for end in (found[1], found[2]))
    return Range(key, low, high, log, whole)


def points(
    grid: Sequence[tuple[str, list[str]]], ranges: Sequence[Range], draws: int
) -> list[Point]:
    """Every combination of the grid, each with every draw.

    Draws depend on their number alone: more of them begin with the same ones.

    Raises:
        UsageError: a key is varied twice.
    """
    keys = [*(key for key, _ in grid), *(r.key for r in ranges)]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise UsageError(f"varied twice: {', '.join(twice)}", hint="give each key once")
    drawn = _draws(ranges, draws) if ranges else [{}]
    combinations = [
        dict(zip((key for key, _ in grid), values, strict=True))
        for values in product(*(values for _, values in grid))
    ]
    return [combination | draw for combination in combinations for draw in drawn]


def _draws(ranges: Sequence[Range], count: int) -> list[Point]:
    """Different draws; UsageError where the ranges have fewer."""
    generator = random.Random(0)  # noqa: S311 - to repeat, not to be secret
    found: dict[tuple[str, ...], Point] = {}
    for _ in range(100 * count):
        if len(found) < count:
            point = {r.key: r.draw(generator) for r in ranges}
            found.setdefault(tuple(point.values()), point)
    if len(found) < count:
        keys = ", ".join(r.key for r in ranges)
        hint = f"draw {len(found)}, or write a range with a decimal point: 1.0:2.0"
        raise UsageError(
            f"{keys}: there are no {count} different draws", where="--random", hint=hint
        )
    return [*found.values()]


def variants(
    load: Callable[[Sequence[str], int | None], Spec],
    varied: Sequence[Point],
    seeds: Sequence[int | None],
    name: str | None,
) -> tuple[Path, list[Variant]]:
    """The sweep's folder and all its runs, checked.

    Args:
        load: from `--set` flags and a seed (None is the spec's) to a resolved spec.
        varied: as from `points`.
        seeds: of each point.
        name: of the sweep; None is the spec's, with `-sweep`.

    Raises:
        SpecError: with everything that is wrong with any run.
        UsageError: a folder holds something else, or nothing would be evaluated.
    """
    loaded: list[tuple[str, Point, Spec]] = []
    problems: dict[str, UnlearnError] = {}
    for point, seed in product(varied, seeds):
        try:
            spec = load([f"{key}={value}" for key, value in point.items()], seed)
            loaded.append((variant_name(point, spec.seed), point, spec))
        except SpecError as error:  # noqa: PERF203 - all that is wrong, not the first
            problems.update({problem.line(): problem for problem in error.problems})
    if problems:
        raise SpecError([*problems.values()])
    folder = sweep_folder(loaded[0][2], name)
    found = [_variant(label, point, spec, folder) for label, point, spec in loaded]
    _check(found)
    return folder, found


def sweep_folder(base: Spec, name: str | None) -> Path:
    """Where the sweep of a spec is; UsageError where it cannot be."""
    name = name or f"{base.name}-sweep"
    folder = Path(base.output.folder) / name
    _check_name(name, folder)
    return folder


def _variant(name: str, point: Point, spec: Spec, folder: Path) -> Variant:
    from unlearn_cli.spec.load import dump_spec

    output = spec.output.model_copy(update={"folder": str(folder)})
    named = spec.model_copy(update={"name": name, "output": output})
    return Variant(name, point, named, dump_spec(named))


def variant_name(point: Point, seed: int) -> str:
    """Name of a run by what is varied, and its seed, e.g. `beta-0.05_seed-1`."""
    last = [key.rpartition(".")[2] for key in point]
    parts = []
    for key, short in zip(point, last, strict=True):
        value = _bare(point[key].lstrip("+"))[:LONGEST_PART]
        shown = _bare(short if last.count(short) == 1 else key)
        parts.append(value if key == "method.name" else f"{shown}-{value}")
    return "_".join([*parts, f"seed-{seed}"]).lstrip("-._@")


def _bare(text: str) -> str:
    """What may stand in the name of a folder; other characters become a dash."""
    return re.sub(r"[^A-Za-z0-9._@]+", "-", text)


def _key_and_rest(text: str, flag: str, example: str) -> tuple[str, str]:
    key, equals, rest = (part.strip() for part in text.partition("="))
    if not (key and equals and rest):
        raise _malformed(text, flag, example)
    if {key, key.split(".")[0]} & {*NOT_VARIED}:
        hint = "use --seeds" if key == "seed" else "use --name and --set"
        what = (
            f"{key} makes no other experiment"
            if key in MAY_CHANGE
            else f"a sweep sets {key} itself"
        )
        raise UsageError(what, where=f"{flag} {text}", hint=hint)
    return key, rest


def _malformed(text: str, flag: str, example: str) -> UsageError:
    return UsageError("has another form", where=f"{flag} {text}", hint=f"write {flag} {example}")


def _split(text: str) -> Iterator[str]:
    """Parts between commas that stand outside brackets and quotes."""
    depth, quote, start = 0, "", 0
    for at, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char == "," and depth == 0:
            yield text[start:at]
            start = at + 1
        else:
            depth += (char in "[{") - (char in "]}")
    yield text[start:]


def _check_name(name: str, folder: Path) -> None:
    if not is_name(name):
        hint = "use letters, digits and . _ @ -"
        raise UsageError("cannot be the name of a sweep", where=f"--name {name}", hint=hint)
    if RunFolder(folder).spec.exists():
        raise UsageError("holds a run", where=str(folder), hint="choose another --name")


def _check(found: Sequence[Variant]) -> None:
    names = [variant.name for variant in found]
    for variant in found:
        if names.count(variant.name) > 1:
            hint = "vary values that differ in letters or digits"
            raise UsageError(f"two runs would be called {variant.name}", hint=hint)
        same = [v.name for v in found if experiment(v.spec) == experiment(variant.spec)]
        if len(same) > 1:
            hint = "give each value once"
            raise UsageError(f"these are one and the same run: {', '.join(same)}", hint=hint)
        if not variant.spec.evaluate:
            hint = "add an [[evaluate]] to the spec"
            raise UsageError("nothing would be measured, so nothing compared", hint=hint)
        _check_folder(variant)


def experiment(spec: Spec) -> dict[str, Any]:
    """All that decides a result, key by key."""
    found = flatten(spec.model_dump(mode="json"))
    return {k: v for k, v in found if k != "name" and not k.startswith(MAY_CHANGE)}


def _check_folder(variant: Variant) -> None:
    """A run that is there must be of the same spec, or it would not be the sweep's."""
    run = RunFolder(variant.folder)
    if not run.spec.is_file():
        return
    before = _deciding(read_toml(run.spec))
    now = _deciding(parse_toml(variant.toml, variant.name))
    changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    if changed:
        what = f"the run that is there has another {', '.join(changed)}"
        raise UsageError(what, where=str(variant.folder), hint="choose another --name")


def _deciding(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flatten(dict(spec)) if not key.startswith(MAY_CHANGE)}
