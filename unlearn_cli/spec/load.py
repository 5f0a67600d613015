"""Read a spec: the one way from TOML to a `Spec`, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unlearn_cli.errors import SpecError, UnlearnError
from unlearn_cli.spec.layers import flags, read_tree
from unlearn_cli.spec.plugins import plugin_problems
from unlearn_cli.spec.resolve import fill, resolve
from unlearn_cli.spec.tables import Spec
from unlearn_cli.spec.tree import Origin, Tree
from unlearn_cli.spec.validate import rule_problems, table_problems


def load_spec(
    source: str,
    overrides: Sequence[str] = (),
    *,
    name: str | None = None,
    seed: int | None = None,
) -> Spec:
    """Read, check and resolve a spec.

    Precedence: name and seed, overrides, source, what it extends, default.

    Args:
        source: path of a TOML file, or the name of a preset where no such file exists.
        overrides: `table.key=value`, the value in TOML or a bare word.
        name: replaces the spec's, as it is: no TOML.
        seed: replaces the spec's.

    Returns:
        The spec with the defaults of its plugins filled in and existing paths made absolute.

    Raises:
        SpecError: with everything that is wrong, each problem with its file and line or its flag.
    """
    try:
        return _load(source, overrides, {"name": name, "seed": seed})
    except RecursionError:
        raise SpecError([UnlearnError("nested too deep", where=source)]) from None


def _load(source: str, overrides: Sequence[str], values: Mapping[str, Any]) -> Spec:
    tree = read_tree(source)
    top, problems = flags(overrides, values)
    tree.overlay(top)
    problems += problems_of(tree)
    if problems:
        raise SpecError(problems)
    return Spec.model_validate(resolve(tree))


def problems_of(tree: Tree) -> list[UnlearnError]:
    """Everything that is wrong with the tables of a tree, in the order of their lines."""
    data = tree.data
    return tree.located([*table_problems(data), *rule_problems(data), *plugin_problems(data)])


def check_again(spec: Spec, origin: str) -> Spec:
    """A spec that code changed, held against all that holds for one that is read, and filled in.

    Args:
        spec: as made by `model_copy`, which checks nothing.
        origin: who changed it, for the problems.

    Raises:
        SpecError: with everything that is wrong.
    """
    try:
        data = spec.model_dump(mode="json", exclude_none=True, warnings="error")
    except ValueError as error:  # of what is no table, or no text: pydantic says it on lines
        raise SpecError([UnlearnError(" ".join(str(error).split()), where=origin)]) from None
    if problems := problems_of(Tree(data, {(): Origin(origin)})):
        raise SpecError(problems)
    return Spec.model_validate(fill(data))


def dump_spec(spec: Spec) -> str:
    """The spec as TOML that `load_spec` reads back to an equal spec; None is left out."""
    import tomlkit

    data = spec.model_dump(mode="json", exclude_none=True)
    return tomlkit.dumps({key: value for key, value in data.items() if value != {}})
