"""A finished run folder made by hand: what is certified are bytes, so no model is needed."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from unlearn_cli.api.evaluate import Number, Table
from unlearn_cli.evaluations import Evaluation
from unlearn_cli.events import Notice
from unlearn_cli.runs import RunFolder

SPEC = """
name = "made"
seed = 3

[model]
path = "builtin:tiny"

[data]
dataset = "files"
forget = "forget.jsonl"

[method]
name = "npo"

[require]
"tofu.forget.probability" = "< 0.2"
"""
VERDICT = {
    "name": "forgotten",
    "explanation": "Forget quality is 0.4, above 0.05: on the forget set the model cannot be told "
    "from one that never saw it. What it cost is not known: there is no utility to compare.",
    "missed": ["tofu.forget.probability is 0.25, required is < 0.2"],
}
"""What the figures below give: a p-value of 0.4 after, and next to nothing before."""
WEIGHTS = b"these are weights"
MODEL = "a" * 64
UNLEARNED = "b" * 64


def evaluation(
    label: str, step: int, probability: float = 0.25, quality: float = 0.4
) -> Evaluation:
    numbers = {
        "forget.probability": Number(probability, "lower", n=2),
        "forget_quality": Number(quality, "higher", n=2),
    }
    model = MODEL if label == "target" else UNLEARNED
    return Evaluation("tofu", label, step, Table({}, numbers), model=model, data="c" * 64)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder.create(tmp_path / "runs" / "made", SPEC)
    run.model.mkdir()
    (run.model / "model.safetensors").write_bytes(WEIGHTS)
    (run.model / "config.json").write_text("{}")
    run.write_evaluation(evaluation("target", 0, 0.9, 1e-9))
    run.write_evaluation(evaluation("unlearned", 4))
    run.append_event(Notice("done"))
    run.update_manifest(
        environment={"unlearn-cli": "0.1.0", "torch": "2.13.0", "devices": ["cpu"]},
        inputs={"model": MODEL, "forget rows": "d" * 64},
        model=MODEL,
        unlearned=UNLEARNED,
        verdict=VERDICT,
        files=run.hashes(),
        finished="2025-01-31T12:00:00.000Z",
        status="finished",
    )
    return run


def make_key(
    folder: Path,
    name: str,
    key: Ed25519PrivateKey | X25519PrivateKey | None = None,
    password: bytes = b"",
) -> tuple[Path, Path]:
    """A key and its public half as PEM files, Ed25519 unless another is given."""
    key = key or Ed25519PrivateKey.generate()
    lock = BestAvailableEncryption(password) if password else NoEncryption()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
    halves = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    public.write_bytes(halves)
    return private, public
