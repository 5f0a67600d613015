"""Verification finds every change, names it, and never ends in a traceback."""

from __future__ import annotations

import json
import shutil
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.evidence.conftest import evaluation, make_key
from unlearn_cli.api.evaluate import Number, Table
from unlearn_cli.cli import main
from unlearn_cli.errors import UnlearnError
from unlearn_cli.evaluations import Evaluation
from unlearn_cli.evidence.verify import compare_figures, read_evidence
from unlearn_cli.runs import RunFolder

Call = Callable[..., tuple[int, str, str]]
COVERED = (
    "model/config.json",
    "model/model.safetensors",
    "spec.toml",
    "manifest.json",
    "events.jsonl",
    "evaluations/step-0/tofu.json",
    "evaluations/step-4/tofu.json",
)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """`unlearn ARGS`: exit code, stdout, stderr."""

    def call(*args: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        out = "\n".join(" ".join(line.split()) for line in out.splitlines())
        return int(str(left.value.code)), out, err

    return call


@pytest.fixture
def evidence(run: RunFolder, call: Call) -> Path:
    code, out, _ = call("certify", run.folder)
    assert code == 0
    assert Path(out.strip()) == run.folder / "evidence.json"
    return run.folder / "evidence.json"


def test_what_was_certified_is_verified(evidence: Path, call: Call) -> None:
    """Every hash and every claim holds; that nobody signed is said."""
    code, out, _ = call("verify", evidence)
    assert code == 0
    assert out.splitlines() == [
        "passed form a statement about run made",
        "not checked signature the statement is not signed",
        "passed files 7 files have the hashes that are stated",
        "passed claims as the run folder has them",
        "passed verdict the stored figures give it again: forgotten",
        "passed verdict tofu.forget.probability is 0.25, required is < 0.2",
    ]


@pytest.mark.parametrize("name", COVERED)
def test_one_byte_more_in_any_file_is_found_and_named(
    name: str, evidence: Path, run: RunFolder, call: Call
) -> None:
    """Each file that is covered, one after the other."""
    with (run.folder / name).open("ab") as file:
        file.write(b" ")
    code, out, _ = call("verify", evidence)
    assert code == 1
    assert f"failed files {name} was changed" in out.splitlines()


@pytest.mark.parametrize("name", COVERED[:2] + COVERED[4:])
def test_a_file_that_is_gone_is_named(
    name: str, evidence: Path, run: RunFolder, call: Call
) -> None:
    """Deleting is a change too."""
    (run.folder / name).unlink()
    code, out, _ = call("verify", evidence)
    assert code == 1
    assert f"failed files {name} is gone" in out.splitlines()


def test_a_file_that_was_added_to_the_model_is_named(
    evidence: Path, run: RunFolder, call: Call
) -> None:
    """Weights in another form beside ours could be what is loaded."""
    (run.model / "pytorch_model.bin").write_bytes(b"")
    code, out, _ = call("verify", evidence)
    assert code == 1
    assert "failed files model/pytorch_model.bin was added" in out.splitlines()


CLAIMS: dict[str, Callable[[dict[str, Any]], object]] = {
    "verdict": lambda p: p["verdict"].update(name="over-forgotten"),
    "evaluations": lambda p: p["evaluations"][0]["figures"].update({"forget.probability": 0.0}),
    "result": lambda p: p.update(result="0" * 64),
    "inputs": lambda p: p["inputs"].update(model="0" * 64),
    "environment": lambda p: p["environment"].update(torch="1.0"),
    "run": lambda p: p["run"].update(seed=4),
    "tool": lambda p: p["tool"].update(version="9"),
    "retainReference": lambda p: p.update(retainReference="0" * 64),
}


@pytest.mark.parametrize("key", CLAIMS)
def test_a_claim_that_the_run_does_not_bear_out_is_named(
    key: str, evidence: Path, call: Call
) -> None:
    """Hashes alone would let a statement say anything else: each claim is made again."""
    statement = json.loads(evidence.read_text())
    CLAIMS[key](statement["predicate"])
    evidence.write_text(json.dumps(statement))
    code, out, _ = call("verify", evidence)
    assert code == 1
    assert f"failed claims {key} is not what the run folder has" in out.splitlines()


def certify_anew(run: RunFolder, call: Call) -> None:
    """What a forger does who can certify: every hash fits again."""
    run.update_manifest(files=run.hashes())
    assert call("certify", run.folder)[0] == 0


def test_a_verdict_that_was_edited_is_found(run: RunFolder, call: Call) -> None:
    """In manifest and statement together, so that hashes and claims hold: name, words and
    requirements are each reached again from the stored figures."""
    own = run.manifest["verdict"]
    for key, value in (("name", "collapsed"), ("explanation", "Like new."), ("missed", [])):
        run.update_manifest(verdict=own | {key: value})
        certify_anew(run, call)
        code, out, _ = call("verify", run.folder / "evidence.json")
        assert code == 1
        shown = own[key] if isinstance(own[key], str) else own[key][0]
        failed = [line for line in out.splitlines() if line.startswith("failed")]
        assert failed == [f"failed verdict {key} is not what the stored figures give: {shown}"]


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (evaluation("unlearned", 4, quality=0.01), "name is not what the stored figures give: "),
        (
            replace(evaluation("unlearned", 4), model="e" * 64),
            "the evaluation tofu of the unlearned is of another model",
        ),
        (
            replace(evaluation("unlearned", 4), data="e" * 64),
            "the evaluation tofu of the unlearned is of other rows",
        ),
    ],
)
def test_an_evaluation_that_was_swapped_is_found(
    changed: Evaluation, line: str, run: RunFolder, evidence: Path, call: Call
) -> None:
    """One with other figures, of another model, or on other rows: by its hash; and by the verdict
    where the hashes were made to fit."""
    run.write_evaluation(changed)
    code, out, _ = call("verify", evidence)
    assert code == 1
    assert "failed files evaluations/step-4/tofu.json was changed" in out.splitlines()
    assert f"failed verdict {line}" in out
    certify_anew(run, call)
    code, out, _ = call("verify", evidence)
    assert code == 1
    assert {text.split()[1] for text in out.splitlines() if text[0] == "f"} == {"verdict"}
    assert f"failed verdict {line}" in out


def twin(run: RunFolder) -> None:
    run.write_evaluation(evaluation("unlearned", 9, quality=0.01))


def stated_reference(run: RunFolder) -> None:
    run.update_manifest(retain_reference="e" * 64)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (twin, "has 2 evaluations of the unlearned by tofu"),
        (stated_reference, "there is no evaluation of the retain reference that is stated"),
    ],
)
def test_evaluations_from_which_a_verdict_could_be_chosen_are_refused(
    change: Callable[[RunFolder], None], line: str, run: RunFolder, call: Call
) -> None:
    """A second evaluation of the same model, or none of a reference that is named."""
    change(run)
    certify_anew(run, call)
    code, out, _ = call("verify", run.folder / "evidence.json")
    assert code == 1
    assert [text for text in out.splitlines() if text.startswith("failed") and line in text]


@pytest.mark.parametrize("place", ["else/tofu.json", "step-4/deep/tofu.json", "step-4/other.json"])
def test_an_evaluation_in_another_place_is_not_certified(
    place: str, run: RunFolder, call: Call
) -> None:
    """Each stands where a run writes it; so no reader takes one that another overlooks."""
    path = run.folder / "evaluations" / place
    path.parent.mkdir(exist_ok=True)
    shutil.copy(run.folder / "evaluations" / "step-4" / "tofu.json", path)
    run.update_manifest(files=run.hashes())
    code, _, err = call("certify", run.folder)
    assert code == 1
    assert f"{place}: is no file that a run writes" in err


@pytest.mark.parametrize("name", ["model", "evaluations", "manifest.json"])
def test_a_link_in_place_of_what_was_certified_is_found(
    name: str, evidence: Path, run: RunFolder, tmp_path: Path, call: Call
) -> None:
    """Also where it leads to the same bytes: they could be changed from elsewhere."""
    moved = (run.folder / name).rename(tmp_path / "elsewhere")
    (run.folder / name).symlink_to(moved)
    code, out, _ = call("verify", evidence)
    assert code == 1
    assert f"failed files {run.folder / name}: is a link, not a file" in out


@pytest.mark.parametrize(
    "edit",
    [
        lambda s: s["subject"].insert(0, {**s["subject"][0], "digest": {"sha256": "0" * 64}}),
        lambda s: s["predicate"]["materials"].update(
            {s["subject"][0]["name"]: s["subject"].pop(0)["digest"]["sha256"]}
        ),
    ],
)
def test_files_that_are_named_twice_or_elsewhere_are_found(
    edit: Callable[[dict[str, Any]], object], evidence: Path, call: Call
) -> None:
    """A file with two hashes, and one of the model that is no subject: every reader would find
    other files stated."""
    statement = json.loads(evidence.read_text())
    edit(statement)
    evidence.write_text(json.dumps(statement))
    code, out, _ = call("verify", evidence)
    assert code == 1
    assert "failed claims subject is not what the run folder has" in out.splitlines()


def test_a_key_that_stands_twice_is_refused(evidence: Path, call: Call) -> None:
    """Of two verdicts one reader takes the first and another the last."""
    text = evidence.read_text()
    evidence.write_text(text.replace('"verdict": {', '"verdict": null, "verdict": {', 1))
    code, _, err = call("verify", evidence)
    assert code == 1
    assert "is no evidence of this tool: 'verdict' stands twice" in err


@pytest.mark.parametrize(
    "threshold", ["[verdict]\nforget_quality = 0.5", "[verdict]\nforget_quality = 'x'"]
)
def test_thresholds_that_were_edited_are_found(threshold: str, run: RunFolder, call: Call) -> None:
    """The verdict is held against the thresholds of the spec that lies in the folder."""
    run.spec.write_text(f"{run.spec.read_text()}\n{threshold}\n")
    certify_anew(run, call)
    code, out, _ = call("verify", run.folder / "evidence.json")
    assert code == 1
    assert "failed verdict" in out
    assert "passed files" in out


def test_a_moved_folder_is_verified_where_it_is(
    evidence: Path, run: RunFolder, tmp_path: Path, call: Call
) -> None:
    """Paths in the statement are relative: `--run` says where the folder went."""
    kept = shutil.copy(evidence, tmp_path / "kept.json")
    moved = run.folder.rename(tmp_path / "moved")
    assert call("verify", kept, "--run", moved)[0] == 0
    assert call("verify", moved / "evidence.json")[0] == 0
    code, _, err = call("verify", kept)
    assert code == 2
    assert "there is no run folder around it; name it with --run" in err


def test_signed_evidence(run: RunFolder, tmp_path: Path, call: Call) -> None:
    """The right key verifies, another does not; a statement swapped in the envelope is found."""
    (key, public), (_, other) = make_key(tmp_path, "a"), make_key(tmp_path, "b")
    assert call("certify", run.folder, "--key", key)[0] == 0
    path = run.folder / "evidence.json"
    code, out, _ = call("verify", path, "--public-key", public)
    assert code == 0
    assert f"passed signature by the key of {public}" in out.splitlines()
    code, out, _ = call("verify", path, "--public-key", other)
    assert code == 1
    assert f"failed signature not by the key of {other}, or changed since" in out.splitlines()
    envelope = json.loads(path.read_text())
    text = b64decode(envelope["payload"]).replace(b'"seed": 3', b'"seed": 4')
    path.write_text(json.dumps(envelope | {"payload": b64encode(text).decode()}))
    code, out, _ = call("verify", path, "--public-key", public)
    assert code == 1
    assert "failed signature" in out
    assert "failed claims run is not what the run folder has" in out.splitlines()


def test_a_signature_that_should_be_there(evidence: Path, tmp_path: Path, call: Call) -> None:
    """Whoever gives a key expects a signature: none is a failure, without the folder too."""
    _, public = make_key(tmp_path, "a")
    alone = shutil.copy(evidence, tmp_path / "alone.json")
    code, out, _ = call("verify", alone, "--public-key", public, "--json")
    assert code == 1
    found = {check["name"]: check["status"] for check in json.loads(out)["checks"]}
    assert found == {"form": "passed", "signature": "failed", "files": "not checked"}


def test_rows(run: RunFolder, tmp_path: Path, monkeypatch: Any, call: Call) -> None:
    """A row that was there is found, one that was not is refused, and rows that changed since are
    not certified."""
    from unlearn_plugins.datasets.files import Files

    from unlearn_cli.engine.rows import fingerprint
    from unlearn_cli.evidence import statement

    monkeypatch.chdir(tmp_path)
    data = tmp_path / "forget.jsonl"
    data.write_text('{"question": "Where was Mara born?", "answer": "In Oslo."}\n')
    from unlearn_cli.api.data import DataContext

    rows = Files(str(data)).load(DataContext(seed=3, base=tmp_path)).forget
    files = run.manifest["files"]
    run.update_manifest(inputs={"model": "a" * 64, "forget rows": fingerprint(rows)}, files=files)
    path = run.folder / "evidence.json"
    assert call("certify", run.folder)[0] == 0
    code, _, err = call("verify", path, "--row", "Where was Mara born? In Oslo.")
    assert code == 2
    assert "has no hashes of rows; `unlearn certify --rows` puts them in" in err
    assert call("certify", run.folder, "--rows")[0] == 0
    code, out, _ = call("verify", path, "--row", "where was mara born? in oslo.")
    assert code == 0
    assert "passed row in the forget set: where was mara born? in oslo." in out.splitlines()
    code, out, _ = call("verify", path, "--row", "Where was Mara born? In Bergen.")
    assert code == 1
    assert "failed row not in the forget set" in out
    assert "Oslo" not in path.read_text()
    data.write_text('{"question": "Where was Mara born?", "answer": "In Bergen."}\n')
    code, _, err = call("certify", run.folder, "--rows")
    assert code == 1
    assert "the forget rows changed since the run" in err
    assert path.name == statement.FILE


def test_figures_that_are_computed_again(evidence: Path) -> None:
    """Equal to the bit, within 1e-6, beyond it, another model, other rows, one not measured."""
    found = read_evidence(evidence)
    stored = [evaluation("target", 0), evaluation("unlearned", 4)]

    def check(**changes: Any) -> tuple[str, str]:
        probability = changes.pop("probability", 0.25)
        again = replace(evaluation("again", 0, probability), **changes)
        made = compare_figures(found, stored, [again])
        return made.status, made.details[0]

    assert check() == ("passed", "2 figures computed again: the same bits")
    near = "2 figures computed again: the largest difference is 5e-07"
    assert check(probability=0.25 + 5e-7) == ("passed", near)
    assert check(probability=0.26) == ("failed", "tofu: forget.probability differs by 0.01")
    assert check(model="0" * 64) == ("failed", "tofu: another model")
    assert check(data="0" * 64) == ("failed", "tofu: other rows")
    assert check(settings={"inside": {}}) == ("failed", "tofu: other settings")
    numbers = evaluation("again", 0).table.numbers
    more = Table({}, {**numbers, "x": Number(None, "lower")})
    assert check(table=more) == ("failed", "tofu: x differs by inf")
    missing = compare_figures(found, stored, [])
    assert (missing.status, missing.details) == ("failed", ("tofu was not computed twice",))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"), "predicateType"),
        (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), "_type"),
        (lambda s: s["subject"].clear(), "subject"),
        (lambda s: s["subject"][0].update(name="../../secret"), "leads out of the run folder"),
        (lambda s: s["subject"][0].update(name="/etc/passwd"), "leads out of the run folder"),
        (lambda s: s["subject"][0]["digest"].update(sha256="x"), r"subject.0.digest.sha256"),
        (lambda s: s["predicate"].update(more=1), "predicate.more"),
        (lambda s: s["predicate"].pop("verdict"), "predicate.verdict"),
        (lambda s: s["predicate"]["run"].update(seed="3"), "predicate.run.seed"),
    ],
)
def test_another_form_is_refused(
    edit: Callable[[dict[str, Any]], object], message: str, evidence: Path, call: Call
) -> None:
    """The key that is wrong is named; a path never leaves the run folder."""
    statement = json.loads(evidence.read_text())
    edit(statement)
    evidence.write_text(json.dumps(statement))
    code, out, err = call("verify", evidence)
    assert (code, out) == (1, "")
    assert "is no evidence of this tool" in err
    assert message in err


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_one_line(share: float, evidence: Path, tmp_path: Path) -> None:
    """Wherever it is cut, signed or not."""
    from unlearn_cli.evidence.signing import sign

    key, _ = make_key(tmp_path, "key")
    whole = evidence.read_bytes().rstrip()
    signed = json.dumps(sign(whole, key)).encode()
    for content in (whole, signed):
        cut = tmp_path / "cut.json"
        cut.write_bytes(content[: int(share * len(content))])
        with pytest.raises(UnlearnError) as caught:
            read_evidence(cut)
        assert "\n" not in caught.value.line()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("_type", "subject", "predicateType", "predicate", "payload", "payloadType", "signatures")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=64)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.sampled_from(KEYS), json_values).map(lambda v: json.dumps(v).encode())
    | st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b'{"payload": "\xff"}'])
)
def test_garbage_is_one_line(content: bytes, tmp_path: Path) -> None:
    """Bytes, JSON of any shape, a bomb of brackets: an error of ours, and no other exception."""
    path = tmp_path / "garbage.json"
    path.write_bytes(content)
    with pytest.raises(UnlearnError) as caught:
        read_evidence(path)
    assert caught.value.exit_code == 1


@settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(data=st.data())
def test_any_value_in_any_place_is_found(data: st.DataObject, evidence: Path) -> None:
    """One value of a good statement replaced by any other: refused, or a failed check."""
    from unlearn_cli.evidence.verify import verify

    original = evidence.read_text()
    statement = json.loads(original)
    place, key = statement, data.draw(st.sampled_from(sorted(statement)))
    while isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
        place = place[key]
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(keys))
    new = data.draw(json_values.filter(lambda value: repr(value) != repr(place[key])))
    place[key] = new
    changed = evidence.with_name("changed.json")
    changed.write_text(json.dumps(statement))
    try:
        found = read_evidence(changed)
        checks = [*verify(found, found.run(None), None, ())]
    except UnlearnError:
        return
    assert json.loads(original) == statement or any(c.status == "failed" for c in checks)
