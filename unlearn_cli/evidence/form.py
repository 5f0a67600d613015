"""The form of evidence: what stands where in a statement and in the envelope around it."""

from __future__ import annotations

from base64 import b64decode
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from unlearn_cli.evidence.rows import SCHEME
from unlearn_cli.evidence.signing import PAYLOAD
from unlearn_cli.evidence.statement import PREDICATE, TYPE


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or str(path) != name:
        raise ValueError("leads out of the run folder")
    return name


def _base64(text: str) -> str:
    b64decode(text, validate=True)
    return text


Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(min_length=1), AfterValidator(_inside)]
Base64 = Annotated[str, AfterValidator(_base64)]


class Form(BaseModel):
    """Strict types, no unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Digest(Form):
    """The hash of a file."""

    sha256: Hash


class Subject(Form):
    """A file that the statement is about."""

    name: FileName
    digest: Digest


class Facts(Form):
    """Which run it was."""

    name: str
    seed: int
    method: str
    created: str
    finished: str


class Measured(Form):
    """One evaluation: of which weights, on which rows, with which figures."""

    file: FileName
    evaluator: str
    label: str
    step: int
    model: str
    rows: str
    figures: dict[str, float | int | None]


class Verdict(Form):
    """As in the manifest."""

    name: str
    explanation: str
    missed: list[str]


class Rows(Form):
    """Salted hashes of the forget rows."""

    scheme: Literal[SCHEME]  # type: ignore[valid-type]
    salt: Hash
    hashes: list[Hash]


class Predicate(Form):
    """What is stated of the subject."""

    tool: dict[str, str]
    run: Facts
    inputs: dict[str, str]
    retainReference: str | None  # noqa: N815 - in-toto writes its keys so
    result: Hash
    materials: dict[FileName, Hash]
    evaluations: list[Measured]
    verdict: Verdict
    environment: dict[str, Any]
    forgetRows: Rows | None = None  # noqa: N815


class Statement(Form):
    """An in-toto Statement v1."""

    type: Literal[TYPE] = Field(alias="_type")  # type: ignore[valid-type]
    subject: Annotated[list[Subject], Field(min_length=1)]
    predicateType: Literal[PREDICATE]  # type: ignore[valid-type]  # noqa: N815
    predicate: Predicate


class Signature(Form):
    """One signature, and the name of its key."""

    keyid: str
    sig: Base64


class Envelope(Form):
    """A DSSE envelope."""

    payloadType: Literal[PAYLOAD]  # type: ignore[valid-type]  # noqa: N815
    payload: Base64
    signatures: list[Signature]
