"""Verification: what a piece of evidence says, held against the run folder, offline."""

from __future__ import annotations

import json
import math
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from unlearn_cli.api.evaluate import Number
from unlearn_cli.errors import RunError, UnlearnError, UsageError
from unlearn_cli.evaluations import Evaluation
from unlearn_cli.evidence.form import Envelope, Statement
from unlearn_cli.evidence.rows import holds
from unlearn_cli.evidence.signing import is_signed
from unlearn_cli.evidence.statement import changes, files_of, hashes, make_statement
from unlearn_cli.files import parse_json, plain, read_text
from unlearn_cli.judgement import judge_again
from unlearn_cli.runs import RunFolder
from unlearn_cli.safe_text import redact

TOLERANCE = 1e-6
"""Largest difference of a figure that is computed again."""

Status = Literal["passed", "failed", "not checked"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and what came out."""

    name: str
    status: Status
    details: tuple[str, ...]


@dataclass(frozen=True)
class Evidence:
    """A statement as read from a file, and the envelope around it where it is signed."""

    path: Path
    statement: Mapping[str, Any]
    envelope: Mapping[str, Any] | None

    @property
    def predicate(self) -> Mapping[str, Any]:
        """What is stated of the files."""
        found: Mapping[str, Any] = self.statement["predicate"]
        return found

    def run(self, given: Path | None) -> RunFolder | None:
        """The run folder: the one given, else that in which the file lies; None where neither."""
        if given:
            return RunFolder.open(given)
        around = RunFolder(self.path.parent)
        return around if around.spec.is_file() else None


def read_evidence(path: Path) -> Evidence:
    """Read a statement, or an envelope with one. Nothing is verified but its form.

    Raises:
        RunError: the file cannot be read, is cut, or is something else; says where.
    """
    where = str(path)
    parsed = _parse(read_text(path), where)
    if not (isinstance(parsed, dict) and "payload" in parsed):
        return Evidence(path, _of_form(Statement, parsed, where), None)
    envelope = _of_form(Envelope, parsed, where)
    text = b64decode(envelope["payload"]).decode("utf-8", "replace")
    return Evidence(path, _of_form(Statement, _parse(text, where), where), envelope)


def _parse(text: str, where: str) -> Any:
    """JSON in which no key stands twice: of two values, readers would take different ones."""
    parsed = parse_json(text, where)
    try:
        json.loads(text, object_pairs_hook=_once)
    except ValueError as error:
        raise RunError(f"is no evidence of this tool: {error}", where=where) from None
    return parsed


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for n, (key, _) in enumerate(pairs) if key in dict(pairs[:n]))
        raise ValueError(f"{twice!r} stands twice")
    return found


def verify(
    evidence: Evidence, run: RunFolder | None, public_key: Path | None, rows: Sequence[str]
) -> Iterator[Check]:
    """Every check that can be made.

    Args:
        evidence: as read.
        run: the folder to hold it against.
        public_key: of whoever should have signed.
        rows: texts that should be rows of the forget set.

    Raises:
        UsageError: the public key cannot be read, or the statement has no hashes of rows.
    """
    yield Check("form", "passed", (f"a statement about run {evidence.predicate['run']['name']}",))
    yield _signature(evidence, public_key)
    if run:
        yield _files(evidence, run)
        yield _claims(evidence, run)
        yield _verdict(evidence, run)
    else:
        hint = "no run folder around the file: name it with --run"
        yield Check("files", "not checked", (hint,))
    for text in rows:
        yield _row(evidence, text)


def compare_figures(
    evidence: Evidence, stored: Sequence[Evaluation], again: Sequence[Evaluation]
) -> Check:
    """The evaluations of the run against those made anew, of the same model and rows."""
    before = {e.evaluator: e for e in stored if e.label == "unlearned"}
    now = {e.evaluator: e for e in again}
    both = [name for name in before if name in now]
    wrong = [f"{name} was not computed twice" for name in sorted({*before} ^ {*now})]
    result = evidence.predicate["result"]
    wrong += [f"{name}: another model" for name in both if now[name].model != result]
    wrong += [f"{name}: other rows" for name in both if now[name].data != before[name].data]
    same = [name for name in both if now[name].settings == before[name].settings]
    wrong += [f"{name}: other settings" for name in both if name not in same]
    gaps = {
        f"{name}: {figure}": _gap(one.get(figure), other.get(figure))
        for name in both
        for one, other in ((before[name].table.numbers, now[name].table.numbers),)
        for figure in sorted({*one, *other})
    }
    wrong += [f"{name} differs by {gap:.2g}" for name, gap in gaps.items() if gap > TOLERANCE]
    if wrong:
        return Check("evaluation", "failed", tuple(wrong))
    largest = max(gaps.values(), default=0.0)
    apart = f"the largest difference is {largest:.2g}" if largest else "the same bits"
    return Check("evaluation", "passed", (f"{len(gaps)} figures computed again: {apart}",))


def _gap(one: Number | None, other: Number | None) -> float:
    """How far two figures are apart; infinity where only one of them is there."""
    if one is None or other is None:
        return math.inf
    if one.value is None or other.value is None:
        return 0.0 if one.value is other.value else math.inf
    return abs(one.value - other.value)


def _signature(evidence: Evidence, public_key: Path | None) -> Check:
    if evidence.envelope is None:
        status: Status = "failed" if public_key else "not checked"
        return Check("signature", status, ("the statement is not signed",))
    if public_key is None:
        return Check("signature", "not checked", ("signed; --public-key FILE tells by whom",))
    if is_signed(evidence.envelope, public_key):
        return Check("signature", "passed", (f"by the key of {public_key}",))
    what = f"not by the key of {public_key}, or changed since"
    return Check("signature", "failed", (what,))


def _files(evidence: Evidence, run: RunFolder) -> Check:
    stated = files_of(evidence.statement)
    try:
        wrong = changes(stated, hashes(run))
    except UnlearnError as error:
        wrong = [error.line()]
    if wrong:
        return Check("files", "failed", tuple(wrong))
    return Check("files", "passed", (f"{len(stated)} files have the hashes that are stated",))


def _claims(evidence: Evidence, run: RunFolder) -> Check:
    """What is stated beside hashes follows from the folder, so it is made again."""
    try:
        made = _told(make_statement(run))
    except UnlearnError as error:
        return Check("claims", "failed", (error.line(),))
    told = _told(evidence.statement)
    wrong = [key for key in sorted({*made, *told}) if made.get(key) != told.get(key)]
    if wrong:
        lines = (f"{key} is not what the run folder has" for key in wrong)
        return Check("claims", "failed", tuple(lines))
    return Check("claims", "passed", ("as the run folder has them",))


def _told(statement: Mapping[str, Any]) -> dict[str, Any]:
    """All that is stated beside hashes, which `_files` compares, and rows, which have a salt."""
    predicate = {k: v for k, v in statement["predicate"].items() if k != "forgetRows"}
    subject = [item["name"] for item in statement["subject"]]
    return predicate | {"subject": subject, "materials": sorted(predicate["materials"])}


def _verdict(evidence: Evidence, run: RunFolder) -> Check:
    """What is stated as verdict, against the one that the stored evaluations give."""
    stated = evidence.predicate["verdict"]
    try:
        wrong = _of_others(evidence.predicate, run.evaluations())
        text = json.dumps(plain(judge_again(run)), ensure_ascii=False)
        again = json.loads(redact(text))  # as a manifest has it
    except UnlearnError as error:
        return Check("verdict", "failed", (error.line(),))
    wrong += [
        f"{key} is not what the stored figures give: {_shown(again[key])}"
        for key in stated
        if stated[key] != again[key]
    ]
    if wrong:
        return Check("verdict", "failed", tuple(wrong))
    lines = (f"the stored figures give it again: {stated['name']}", *stated["missed"])
    return Check("verdict", "passed", lines)


def _of_others(predicate: Mapping[str, Any], evaluations: Sequence[Evaluation]) -> list[str]:
    """A line for each evaluation that enters the verdict and is of another model than stated, or of
    other rows than the first. Logs of other tools name neither."""
    models = {
        "target": predicate["inputs"].get("model"),
        "unlearned": predicate["result"],
        "retain_reference": predicate["retainReference"],
    }
    own = [e for e in evaluations if e.label in models]
    found = [e for e in own if e.data or e.label != "retain_reference"]
    if models["retain_reference"] and own and not any(e.label == "retain_reference" for e in own):
        return ["there is no evaluation of the retain reference that is stated"]
    place = "the evaluation {0.evaluator} of the {0.label} is of {1}"
    wrong = [
        place.format(e, "another model") for e in found if models[e.label] not in (e.model, None)
    ]
    return wrong + [place.format(e, "other rows") for e in found if e.data != found[0].data]


def _shown(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else "; ".join(value) or "nothing"


def _row(evidence: Evidence, text: str) -> Check:
    part = evidence.predicate.get("forgetRows")
    if part is None:
        hint = "`unlearn certify --rows` puts them in"
        raise UsageError("has no hashes of rows", where=str(evidence.path), hint=hint)
    if holds(part, text):
        return Check("row", "passed", (f"in the forget set: {text}",))
    return Check("row", "failed", (f"not in the forget set: {text}",))


def _of_form(form: type[BaseModel], parsed: Any, where: str) -> dict[str, Any]:
    """What was parsed, where it has the form; RunError naming the first key that has not."""
    try:
        form.model_validate(parsed, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        what = f"is no evidence of this tool: {key}: {first['msg']}"
        raise RunError(what, where=where) from None
    found: dict[str, Any] = parsed
    return found
