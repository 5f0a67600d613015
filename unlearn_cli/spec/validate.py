"""What is wrong with the tables of a spec, in words for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from unlearn_cli.spec.paths import is_file, user_path
from unlearn_cli.spec.positions import KeyPath
from unlearn_cli.spec.tables import RequireTable, Spec
from unlearn_cli.spec.tree import Problem, lookup


def table_problems(data: Mapping[str, Any]) -> list[Problem]:
    """Unknown and missing keys, wrong types and impossible values; one problem a key."""
    try:
        Spec.model_validate(data)
    except ValidationError as error:
        found = [_problem(data, item["type"], item["loc"]) for item in error.errors()]
        return list({problem.path: problem for problem in found}.values())
    return []


def rule_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    """What the types cannot say: keys that need or exclude each other."""
    if lookup(data, ("model", "path")) is lookup(data, ("target", "base")) is None:
        hint = "give a hub id, a folder or a .gguf file, or make the target with target.base"
        yield Problem(("model", "path"), "missing", hint)
    for table, one, other in (
        ("train", "epochs", "steps"),
        ("retain_reference", "path", "evaluation"),
        ("wrap", "sam_rho", "noise_sigma"),
    ):
        if None not in (lookup(data, (table, one)), lookup(data, (table, other))):
            yield Problem((table, other), f"given together with {one}", "keep one of the two")
    yield from _best_problems(data)
    yield from _four_bit_problems(data)
    yield from _text_problems(data)


def _best_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    if lookup(data, ("checkpoints", "best")) is not None and not data.get("evaluate"):
        what = "there is no evaluation to choose by"
        yield Problem(("checkpoints", "best"), what, "add a table [[evaluate]]")


def _four_bit_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    """An adapter is all that can be trained on weights of 4 bits."""
    if lookup(data, ("lora", "base")) != "nf4":
        return
    if lookup(data, ("lora", "rank")) is None:
        hint = "set lora.rank, or leave lora.base out"
        yield Problem(("lora", "base"), "there is no adapter to train on it", hint)
    if lookup(data, ("wrap", "saliency")) is not None:
        what = "needs gradients of the weights, and those in 4 bits have none"
        yield Problem(("wrap", "saliency"), what, 'leave it out, or set lora.base = "full"')
    path = lookup(data, ("model", "path"))
    if lookup(data, ("target", "base")) is None and str(path).endswith(".gguf"):
        hint = 'name the model that it was made from, or set lora.base = "full"'
        yield Problem(("model", "path"), "a .gguf file cannot be loaded in 4 bits", hint)


def _text_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    prompt = lookup(data, ("template", "prompt"))
    if isinstance(prompt, str) and "{question}" not in prompt:
        hint = 'e.g. "Question: {question}\\nAnswer: "'
        yield Problem(("template", "prompt"), "has no {question} in it", hint)
    asked = lookup(data, ("alternates", "prompt"))
    if isinstance(asked, str) and "{question}" not in asked:
        hint = "every row would be asked the same"
        yield Problem(("alternates", "prompt"), "has no {question} in it", hint)
    folder = lookup(data, ("output", "folder"))
    if isinstance(folder, str) and is_file(user_path(folder)):
        yield Problem(("output", "folder"), f"{folder} is a file", "name a folder")


def _problem(data: Mapping[str, Any], kind: str, loc: tuple[int | str, ...]) -> Problem:
    path, model, field = _field_at(loc)
    if field is None and model is RequireTable:
        hint = 'e.g. ">= 0.05"; a name with a dot in it is quoted, too'
        return Problem(path, "must be a condition in quotes", hint)
    if field is None:
        return Problem(path, "unknown key", unknown_key_hint(str(path[-1]), model))
    if kind == "missing":
        return Problem(path, "missing", _first_sentence(field.description or ""))
    value = lookup(data, path)
    expected = "a table" if isinstance(path[-1], int) else _expected(field.annotation, field)
    hint = _hint(path, expected, value, field)
    return Problem(path, f"must be {expected}, not {_shown(value)}", hint)


def _field_at(loc: KeyPath) -> tuple[KeyPath, type[BaseModel], FieldInfo | None]:
    """The path that pydantic means, without the branches of unions that it appends, the model
    that the last key stands in, and its field; None where the model has no such key."""
    model: type[BaseModel] = Spec
    field: FieldInfo | None = None
    for depth, key in enumerate(loc):
        if isinstance(key, int):
            continue
        field = model.model_fields.get(key)
        inner = _table_model(field.annotation) if field else None
        if inner is None:
            return loc[: depth + 1], model, field
        if not _is_last(loc, depth):
            model = inner
    return loc, model, field


def _is_last(loc: KeyPath, depth: int) -> bool:
    return all(isinstance(key, int) for key in loc[depth + 1 :])


def _table_model(annotation: Any) -> type[BaseModel] | None:
    inner = get_args(annotation)[0] if get_origin(annotation) is tuple else annotation
    return inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None


def unknown_key_hint(key: str, model: type[BaseModel], options: tuple[str, ...] = ()) -> str:
    """Did you mean; or the table that the key belongs in; or the keys that there are."""
    known = [*model.model_fields, *options]
    if close := get_close_matches(key, known, n=1):
        return f"did you mean {close[0]}?"
    if tables := _tables_with(key):
        return f"it belongs in {_either(tables)}"
    return f"known here: {', '.join(known)}"


def _tables_with(key: str) -> list[str]:
    models = {table: _table_model(field.annotation) for table, field in Spec.model_fields.items()}
    return [f"[{table}]" for table, model in models.items() if model and key in model.model_fields]


def _hint(path: KeyPath, expected: str, value: Any, field: FieldInfo) -> str:
    if expected == "an array of tables":
        return f"write [[{path[-1]}]] in double brackets"
    if expected == "a table" and isinstance(value, list):
        return f"write [{path[-1]}] in single brackets"
    if expected.startswith("a list") and isinstance(value, str):
        return f'write ["{value}"]'
    choices = [choice for choice in _choices(field.annotation) if isinstance(value, str)]
    close = get_close_matches(str(value), choices, n=1)
    return f'did you mean "{close[0]}"?' if close else ""


def _choices(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [choice for inner in get_args(annotation) for choice in _choices(inner)]


def _expected(annotation: Any, *constraints: Any) -> str:
    """What a type takes: `a whole number greater than 0`, `"epoch", "end" or ...`."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _expected(args[0], *args[1:])
    if origin is Literal:
        return _either([f'"{choice}"' for choice in args])
    if origin in (Union, UnionType):
        return _either([_expected(arg) for arg in args if arg is not NoneType])
    if model := _table_model(annotation):
        return "a table" if model is annotation else "an array of tables"
    if origin is tuple:
        return f"a list of {_expected(args[0])}"
    return _NOUNS[annotation] + _range(_bounds(constraints))


_NOUNS = {
    str: "text in quotes",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}


def _bounds(constraints: tuple[Any, ...]) -> dict[str, Any]:
    """Constraints such as Gt(0), alone or in a FieldInfo, by their names."""
    flat = [
        item
        for constraint in constraints
        for item in (constraint.metadata if isinstance(constraint, FieldInfo) else [constraint])
    ]
    names = ("gt", "ge", "lt", "le", "min_length", "pattern")
    return {name: getattr(item, name) for item in flat for name in names if hasattr(item, name)}


def _range(bounds: Mapping[str, Any]) -> str:
    if "pattern" in bounds:
        return " of letters, digits, '.', '_', '@' and '-' that starts with a letter or digit"
    if "min_length" in bounds:
        return ", not empty"
    if "gt" in bounds:
        return f" greater than {bounds['gt']}"
    if "ge" not in bounds:
        return ""
    top = bounds.get("le", bounds.get("lt", 0) - 1)
    return f" from {bounds['ge']} to {top}" if top > 0 else f", {bounds['ge']} or more"


def _either(choices: list[str]) -> str:
    return " or ".join([", ".join(choices[:-1]), choices[-1]] if choices[1:] else choices)


def _shown(value: Any) -> str:
    """A value as it stands in the file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        return "a table"
    return "an array" if isinstance(value, list) else str(value)


def _first_sentence(text: str) -> str:
    return text.split("\n\n")[0].replace("\n", " ").partition(". ")[0].rstrip(".").strip()
