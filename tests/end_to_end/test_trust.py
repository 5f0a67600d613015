"""What a real run leaves can be certified and verified, and gives no token away."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Here, Outcome, Workplace, evaluation
from unlearn_cli.results import flatten

pytestmark = pytest.mark.slow
Finished = tuple[Workplace, Outcome, Path]
MARK = "hf-made-up-marker-0123456789"


@pytest.fixture
def run(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished run, to certify and to spoil."""
    return Path(shutil.copytree(finished[2], tmp_path / "copy"))


def found(outcome: Outcome) -> dict[str, str]:
    """Check -> status."""
    return {check["name"]: check["status"] for check in json.loads(outcome.out)["checks"]}


def test_a_run_is_certified_and_its_figures_are_computed_again(run: Path, here: Here) -> None:
    """The copy lies elsewhere; its model is measured anew and has the same figures."""
    assert here("certify", str(run), "--rows").code == 0
    path = str(run / "evidence.json")
    outcome = here("verify", path, "--evaluate", "--json")
    assert outcome.code == 0, outcome.err
    assert found(outcome) == {
        "form": "passed",
        "signature": "not checked",
        "files": "passed",
        "claims": "passed",
        "verdict": "passed",
        "evaluation": "passed",
    }
    statement = json.loads((run / "evidence.json").read_text())
    manifest = json.loads((run / "manifest.json").read_text())
    assert statement["predicate"]["result"] == manifest["unlearned"]
    assert evaluation(run, "step-4")["model"] == manifest["unlearned"]


def test_rows_of_the_run_are_found(run: Path, here: Here) -> None:
    """The first question of the forget set, with its true answer, was in it; another was not."""
    assert here("certify", str(run), "--rows").code == 0
    samples = evaluation(run, "step-0")["samples"]
    row = next(sample for sample in samples if sample["set"] == "forget")
    path, text = str(run / "evidence.json"), f"{row['question']} {row['truth']}"
    assert here("verify", path, "--row", text).code == 0
    other = here("verify", path, "--row", row["question"], "--json")
    assert other.code == 1
    assert found(other)["row"] == "failed"


def test_figures_that_were_forged_are_found(run: Path, here: Here) -> None:
    """Somebody changes a stored figure and certifies afterwards, with hashes that fit: the model
    itself gives it away."""
    path = run / "evaluations" / "step-4" / "tofu.json"
    parsed = json.loads(path.read_text())
    parsed["table"]["numbers"]["forget.probability"]["value"] = 0.0
    path.write_text(json.dumps(parsed))
    refused = here("certify", str(run))
    assert refused.code == 1
    assert "evaluations/step-4/tofu.json was changed" in refused.err
    from unlearn_cli.runs import RunFolder

    folder = RunFolder.open(run)
    folder.update_manifest(files=folder.hashes())
    assert here("certify", str(run)).code == 0
    outcome = here("verify", str(run / "evidence.json"), "--evaluate")
    assert outcome.code == 1
    assert "forget.probability differs by" in outcome.out


def test_the_manifest_says_what_else_decides(finished: Finished) -> None:
    """Versions, threads, processes, devices, types, kernels."""
    import torch
    import transformers

    environment = json.loads((finished[2] / "manifest.json").read_text())["environment"]
    expected = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "processes": 1,
        "devices": ["cpu"],
        "torch_threads": 1,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "dtype": "float32",
        "attention": "sdpa",
        "deterministic": False,
        "cuda": None,
    }
    assert {key: environment[key] for key in expected} == expected
    assert {"python", "tokenizers", "accelerate", "peft", "numpy"} <= environment.keys()
    assert environment["threads"]["OMP_NUM_THREADS"] == "1"


def test_compare_says_in_what_environment_runs_differ(run: Path, here: Here) -> None:
    """One line for each difference, in text and in JSON: here torch and the CPU's capability."""
    path = run / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["environment"] |= {"torch": "2.6.0", "cpu_capability": "made up"}
    path.write_text(json.dumps(manifest))
    spec = run / "spec.toml"
    spec.write_text(spec.read_text().replace("seed = 0", "seed = 1", 1))
    original = here("run", "spec.toml")
    assert original.code in (0, 3), original.err
    text = here("compare", "runs/tiny", str(run))
    told = " ".join(text.out.split())
    for key, value in (("torch", "2.6.0"), ("cpu_capability", "made up")):
        assert f"Not under the same conditions, {key}: " in told
        assert f"; {value} (" in told
    notes = json.loads(here("compare", "runs/tiny", str(run), "--json").out)["notes"]
    assert sum(note.startswith("Not under the same conditions") for note in notes) == 2


VARIANTS = {
    "works": (),
    "no such model": ("target.base=no/such-model",),
    "token in a revision": ("target.base=no/such-model", f"model.revision={MARK}"),
    "token in a url": (f"target.base=https://user:{MARK}@host.example/model",),
    "token in a path": ("data.dataset=files", f"data.forget=https://user:{MARK}@host.example/x"),
    "no such column": ("train.learning_rate=1e-30",),
}


@pytest.mark.parametrize("case", VARIANTS)
def test_no_token_is_written_or_said(
    case: str, here: Here, place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A marker as token, in runs that work and that fail in different ways: searched in every file
    and every line."""
    monkeypatch.setenv("HF_TOKEN", MARK)
    flags = [part for flag in VARIANTS[case] for part in ("--set", flag)]
    outcome = here("run", "spec.toml", "--set", "train.steps=1", *flags)
    assert (outcome.code == 0) == (case == "works"), outcome.err
    assert MARK not in outcome.out + outcome.err
    texts = dict(_files(place.folder))
    assert texts or case != "works"
    assert [name for name, content in texts.items() if MARK.encode() in content] == []


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in folder.rglob("*"):
        if (path.is_file() and path.name != "spec.toml") or path.match("runs/*/spec.toml"):
            yield str(path), path.read_bytes()


def test_the_environment_is_flat_enough_to_compare(finished: Finished) -> None:
    """Every entry is one value with one name, which is how `compare` tells them apart."""
    environment = json.loads((finished[2] / "manifest.json").read_text())["environment"]
    assert all(not isinstance(value, dict) for _, value in flatten(environment))
