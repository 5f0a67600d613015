"""What makes no sense together: the same words in `check` and in a run. Imports no plugin."""

from __future__ import annotations

from collections.abc import Collection
from typing import get_args

from unlearn_cli.api.method import RetainTerm

OF_ACTIVATIONS = ("hidden", "hidden_norm")
"""Retain terms for methods that read activations."""


def retain_problem(
    method: str, retain: str | None, activations: bool, retains: Collection[str]
) -> tuple[str, str] | None:
    """What is wrong with a retain term, and what would work; None where it makes sense.

    Args:
        method: its name.
        retain: the term.
        activations: whether the method reads activations.
        retains: terms that the method takes; empty for all.
    """
    terms = [t for t in get_args(RetainTerm) if activations or t not in OF_ACTIVATIONS]
    sensible = [term for term in terms if not retains or term in retains]
    if retain in sensible:
        return None
    what = f"retain = {retain!r} makes no sense with method {method!r}"
    return what, f"use {' or '.join(sensible)}"


def alternates_problem(method: str, own: bool, alternates: str) -> tuple[str, str] | None:
    """The same of alternates; `own` says that each question needs some of its own."""
    if not own or alternates != "refusals":
        return None
    what = f"method {method!r} needs alternates that were made for each question"
    return what, 'set data.alternates = "model", "column" or a file'
