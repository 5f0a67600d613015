"""The statement says what stands in the run folder, and says it the same way every time."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evidence.conftest import MODEL, UNLEARNED, WEIGHTS
from unlearn_cli.errors import RunError, UsageError
from unlearn_cli.evidence.statement import changes, dump, make_statement, refuse_changed
from unlearn_cli.runs import RunFolder


def test_the_subject_is_the_model_with_its_hashes(run: RunFolder) -> None:
    """in-toto's form; SHA-256 of bytes that this test knows: `{}` and the weights."""
    statement = make_statement(run)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["subject"] == [
        {
            "name": "model/config.json",
            "digest": {
                "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
            },
        },
        {
            "name": "model/model.safetensors",
            "digest": {"sha256": hashlib.sha256(WEIGHTS).hexdigest()},
        },
    ]


def test_the_predicate_holds_all_that_decides_the_result(run: RunFolder) -> None:
    """Models, data, spec, log, evaluations with their figures, verdict, versions and times."""
    predicate = make_statement(run)["predicate"]
    assert predicate["inputs"] == {"model": MODEL, "forget rows": "d" * 64}
    assert predicate["result"] == UNLEARNED
    assert sorted(predicate["materials"]) == [
        "evaluations/step-0/tofu.json",
        "evaluations/step-4/tofu.json",
        "events.jsonl",
        "manifest.json",
        "spec.toml",
    ]
    spec = hashlib.sha256(run.spec.read_bytes()).hexdigest()
    assert predicate["materials"]["spec.toml"] == spec
    found = [(e["label"], e["step"], e["figures"]) for e in predicate["evaluations"]]
    assert found == [
        ("target", 0, {"forget.probability": 0.9, "forget_quality": 1e-9}),
        ("unlearned", 4, {"forget.probability": 0.25, "forget_quality": 0.4}),
    ]
    assert predicate["verdict"]["name"] == "forgotten"
    assert predicate["tool"] == {"name": "unlearn-cli", "version": "0.1.0"}
    assert predicate["environment"]["torch"] == "2.13.0"
    assert predicate["run"]["finished"] == "2025-01-31T12:00:00.000Z"
    assert (predicate["run"]["seed"], predicate["run"]["method"]) == (3, "npo")


def test_the_same_folder_gives_the_same_bytes(run: RunFolder) -> None:
    """Keys are sorted, and the statement holds no time of its own: so its hash is stable."""
    text = dump(make_statement(run))
    assert text == dump(make_statement(RunFolder.open(run.folder)))
    assert text == json.dumps(json.loads(text), sort_keys=True, ensure_ascii=False, indent=2) + "\n"


@pytest.mark.parametrize("status", ["running", "failed", "interrupted"])
def test_an_unfinished_run_is_refused(run: RunFolder, status: str) -> None:
    """What has not ended has no result to certify."""
    run.update_manifest(status=status)
    with pytest.raises(UsageError, match="the run is not finished"):
        make_statement(run)


@pytest.mark.parametrize("key", ["verdict", "unlearned", "inputs", "environment"])
def test_a_manifest_without_what_a_run_notes_is_refused(run: RunFolder, key: str) -> None:
    """A key that is gone is one line that names it."""
    path = run.folder / "manifest.json"
    kept = {name: value for name, value in run.manifest.items() if name != key}
    path.write_text(json.dumps(kept), "utf-8")
    with pytest.raises(RunError, match=f"lacks what a finished run has: '{key}'"):
        make_statement(run)


def test_a_result_that_changed_after_the_run_is_refused(run: RunFolder) -> None:
    """A byte of the weights, a file more, a file less: each is named."""
    refuse_changed(run)
    (run.model / "model.safetensors").write_bytes(b"other weights")
    (run.model / "more.py").write_text("print()")
    (run.model / "config.json").unlink()
    with pytest.raises(RunError) as caught:
        refuse_changed(run)
    line = caught.value.line()
    assert "model/config.json is gone" in line
    assert "model/model.safetensors was changed" in line
    assert "model/more.py was added" in line


def test_a_link_is_refused(run: RunFolder, tmp_path: Path) -> None:
    """A link could lead to a file that is not the run's."""
    (tmp_path / "elsewhere").write_bytes(WEIGHTS)
    (run.model / "model.safetensors").unlink()
    (run.model / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=r"model\.safetensors: is a link"):
        make_statement(run)


def test_changes() -> None:
    """Same, changed, gone and added are told apart, in the order of names."""
    before, now = {"a": "1", "b": "1", "c": "1"}, {"a": "1", "b": "2", "d": "1"}
    assert changes(before, now) == ["b was changed", "c is gone", "d was added"]


def test_needs_no_torch(run: RunFolder) -> None:
    """Certifying and verifying hash files: no model is loaded, and no torch."""
    code = (
        "import sys\n"
        "from unlearn_cli.cli import main\n"
        "for args in (['certify', sys.argv[1]], ['verify', sys.argv[1] + '/evidence.json']):\n"
        "    try:\n        main(args)\n"
        "    except SystemExit as left:\n        assert left.code == 0, left.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(run.folder)], check=True)
