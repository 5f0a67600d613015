"""Options checked against the source of a plugin, before anything is imported."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from unlearn_cli.catalog import hints
from unlearn_cli.catalog.model import Option, Plugin


@dataclass(frozen=True)
class OptionProblem:
    """One option that cannot be."""

    key: str
    what: str
    """What is wrong, without the key."""
    hint: str = ""
    """What would work."""


def check_options(plugin: Plugin, options: Mapping[str, Any]) -> list[OptionProblem]:
    """Everything that is wrong with the options, as far as the source tells.

    An annotation that is not understood, and a plugin with a base class in another module, pass
    here and are checked by `build`.
    """
    return [*_unknown(plugin, options), *_missing(plugin, options), *_misfits(plugin, options)]


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """`did you mean 'beta'?`, or all the words where none is close."""
    words = sorted(words)
    close = difflib.get_close_matches(word, words, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there is {', '.join(words)}" if words else ""


def _unknown(plugin: Plugin, options: Mapping[str, Any]) -> Iterator[OptionProblem]:
    known = [option.name for option in plugin.options]
    for key in options if plugin.closed else ():
        if key not in known:
            what = f"{plugin.kind} {plugin.name} has no such option"
            yield OptionProblem(key, what, did_you_mean(key, known))


def _missing(plugin: Plugin, options: Mapping[str, Any]) -> Iterator[OptionProblem]:
    for option in plugin.options:
        if option.required and option.name not in options:
            what = f"is missing; {plugin.kind} {plugin.name} needs it"
            yield OptionProblem(option.name, what, f"give {option.type}")


def _misfits(plugin: Plugin, options: Mapping[str, Any]) -> Iterator[OptionProblem]:
    for option in plugin.options:
        if option.name in options and not _fits(option, options[option.name]):
            yield _misfit(option, options[option.name])


def _fits(option: Option, value: object) -> bool:
    try:
        return hints.fits(_annotation(option), value)
    except hints.NotUnderstood:
        return True


def _misfit(option: Option, value: object) -> OptionProblem:
    allowed = hints.choices(_annotation(option))
    close = difflib.get_close_matches(value, allowed, n=1) if isinstance(value, str) else []
    hint = f"did you mean {close[0]!r}?" if close else ""
    return OptionProblem(option.name, f"must be {option.type}, not {value!r}", hint)


def _annotation(option: Option) -> ast.expr:
    return ast.parse(option.annotation, mode="eval").body
