"""The statement: an in-toto Statement v1 about the files that a finished run left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from unlearn_cli.errors import DataError, RunError
from unlearn_cli.evaluations import Evaluation
from unlearn_cli.evidence.rows import hash_rows
from unlearn_cli.results import read_spec, refuse_unfinished
from unlearn_cli.runs import Judged, RunFolder, hash_file
from unlearn_cli.shapes import defaults

if TYPE_CHECKING:
    from unlearn_cli.api.data import Row

TYPE = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:unlearn-cli:evidence:v1"
FILE = "evidence.json"
"""Name of the evidence in the run folder."""
LOGS = ("manifest.json", "events.jsonl")


def make_statement(run: RunFolder) -> dict[str, Any]:
    """The statement of a run, as its folder is now. Of one folder it is always the same.

    Raises:
        UsageError: the run is not finished.
        RunError: a file is missing, damaged or a link.
    """
    refuse_unfinished(run, run.manifest)
    found = hashes(run)
    model = {name: value for name, value in found.items() if name.startswith("model/")}
    if not model:
        raise RunError("holds no model", where=str(run.folder))
    return {
        "_type": TYPE,
        "subject": [{"name": name, "digest": {"sha256": model[name]}} for name in model],
        "predicateType": PREDICATE,
        "predicate": _predicate(run, {k: v for k, v in found.items() if k not in model}),
    }


def hashes(run: RunFolder) -> dict[str, str]:
    """SHA-256 (hex) of every file that the statement covers, by its path in the run folder."""
    logs = {name: hash_file(run.folder / name) for name in LOGS if (run.folder / name).is_file()}
    return run.hashes() | logs


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """A line for each file that changed, is gone, or was added."""
    lines = {name: "is gone" for name in before if name not in now}
    lines |= {name: "was added" for name in now if name not in before}
    lines |= {name: "was changed" for name in now if before.get(name, now[name]) != now[name]}
    return [f"{name} {what}" for name, what in sorted(lines.items())]


def refuse_changed(run: RunFolder) -> None:
    """Raise RunError where the result is not what the run wrote when it ended."""
    before = run.manifest.get("files")
    if not isinstance(before, dict):
        what, hint = "the run did not note the hashes of its result", "run it again"
        raise RunError(what, where=str(run.folder), hint=hint)
    if changed := changes(before, run.hashes()):
        what = f"since the run ended: {'; '.join(changed)}"
        raise RunError(what, where=str(run.folder), hint="only what the run made can be certified")


def with_rows(statement: Mapping[str, Any], rows: tuple[Row, ...], salt: bytes) -> dict[str, Any]:
    """The statement with hashes of the forget rows, so that one can ask whether a text was one."""
    predicate = statement["predicate"] | {"forgetRows": hash_rows(rows, salt)}
    return {**statement, "predicate": predicate}


def forget_rows(run: RunFolder) -> tuple[Row, ...]:
    """The forget rows, read anew from the data that the spec names.

    Raises:
        DataError: they are no longer those that the run forgot.
    """
    from unlearn_cli import catalog
    from unlearn_cli.api.data import DataContext
    from unlearn_cli.engine.rows import fingerprint
    from unlearn_cli.spec.load import load_spec

    spec = load_spec(str(run.spec))
    dataset = catalog.build("dataset", spec.data.dataset, spec.data.options)
    rows = tuple(dataset.load(DataContext(seed=spec.seed, base=Path.cwd())).forget)
    if fingerprint(rows) != run.manifest["inputs"]["forget rows"]:
        hint = "put the data back as they were, or certify without --rows"
        raise DataError("the forget rows changed since the run", where="[data]", hint=hint)
    return rows


def dump(value: Mapping[str, Any]) -> str:
    """JSON with sorted keys: the same statement is the same bytes."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def files_of(statement: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of every file that a statement names."""
    subject = {item["name"]: item["digest"]["sha256"] for item in statement["subject"]}
    return subject | dict(statement["predicate"]["materials"])


def _predicate(run: RunFolder, materials: Mapping[str, str]) -> dict[str, Any]:
    manifest, spec = run.manifest, read_spec(run)
    try:
        environment = manifest["environment"]
        verdict = defaults(Judged) | manifest["verdict"]
        return {
            "tool": {"name": "unlearn-cli", "version": environment["unlearn-cli"]},
            "run": {
                "name": spec["name"],
                "seed": spec["seed"],
                "method": spec["method"]["name"],
                "created": manifest["created"],
                "finished": manifest["finished"],
            },
            "inputs": manifest["inputs"],
            "retainReference": manifest.get("retain_reference"),
            "result": manifest["unlearned"],
            "materials": dict(materials),
            "evaluations": [_evaluation(run, name) for name in materials if _is_evaluation(name)],
            "verdict": {item.name: verdict[item.name] for item in fields(Judged)},
            "environment": environment,
        }
    except (KeyError, TypeError) as error:
        raise RunError(f"lacks what a finished run has: {error}", where=str(run.folder)) from None


def _is_evaluation(name: str) -> bool:
    return name.startswith("evaluations/") and PurePosixPath(name).suffix == ".json"


def _evaluation(run: RunFolder, name: str) -> dict[str, Any]:
    found = Evaluation.read(run.folder / name)
    if run.name_of(run.place(found)) != name:
        raise RunError("is no file that a run writes", where=str(run.folder / name))
    return {
        "file": name,
        "evaluator": found.evaluator,
        "label": found.label,
        "step": found.step,
        "model": found.model,
        "rows": found.data,
        "figures": {key: number.value for key, number in found.table.numbers.items()},
    }
