"""The run folder keeps what it is told, survives being killed, and refuses to lose anything."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn_cli.api.evaluate import Number, Table
from unlearn_cli.engine.record import open_folder
from unlearn_cli.environment import environment
from unlearn_cli.errors import RunError, UsageError
from unlearn_cli.evaluations import Evaluation, Generated
from unlearn_cli.events import Notice
from unlearn_cli.files import write_atomically
from unlearn_cli.runs import RunFolder

ESCAPES = ("../x", "..", ".", "/x/y", "a/../../b", "a/b", "a\\b", "a\0b", "", " ", "a\n", ".x")


def evaluation(label: str = "unlearned", step: int = 7) -> Evaluation:
    numbers = {
        "forget.probability": Number(0.25, "lower", n=2, skipped=1),
        "forget_quality": Number(None, "higher", reason="there is no retain reference"),
    }
    rows = {"forget": {"probability": {"a": 0.5, "b": 0.0, "c": None}}}
    return Evaluation(
        evaluator="tofu",
        label=label,
        step=step,
        table=Table(rows, numbers, notes=("a note",)),
        model="sha256:1",
        data="sha256:2",
        settings={"max_new_tokens": 200, "nested": {"on": True}},
        samples=(Generated("forget", "a", "Who?", "Ada.", "é\x1b[2J\u2028"),),
    )


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", 'name = "é"\n')


class TestEvaluation:
    def test_round_trip(self) -> None:
        """What is written is read back equal, whatever characters a model produced."""
        written = evaluation()
        assert Evaluation.from_json(written.to_json()) == written

    def test_written_again_it_is_the_same_text(self) -> None:
        """What comes out of a cache is, byte for byte, what was made; also a figure that was 0."""
        text = replace(evaluation(), table=Table({}, {"utility": Number(0, "higher")})).to_json()
        assert Evaluation.from_json(text).to_json() == text

    def test_not_finite_becomes_null(self) -> None:
        """NaN and infinity are never written; a figure that was one says so."""
        half: Any = np.float32(0.5)
        rows = {"forget": {"truth_ratio": {"a": math.inf, "b": half}}}
        table = Table(rows, {"forget_quality": Number(math.nan, "higher")})
        text = replace(evaluation(), table=table, settings={"x": math.nan}).to_json()
        parsed = json.loads(text, parse_constant=lambda name: pytest.fail(name))
        assert parsed["table"]["rows"]["forget"]["truth_ratio"] == {"a": None, "b": 0.5}
        assert parsed["settings"] == {"x": None}
        quality = Evaluation.from_json(text).table.numbers["forget_quality"]
        assert (quality.value, quality.reason) == (None, "the value was nan")

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (lambda d: d.update(format=99), "format 99"),
            (lambda d: d.pop("format"), "not a stored evaluation"),
            (lambda d: d.pop("table"), "table"),
            (lambda d: d.update(step="7"), "step"),
            (lambda d: d["table"]["numbers"]["forget_quality"].update(direction="up"), "direction"),
            (lambda d: d["table"]["rows"]["forget"]["probability"].update(a="0.5"), "probability"),
        ],
    )
    def test_wrong_content_is_refused(self, edit: Any, message: str, tmp_path: Path) -> None:
        """Another version, a missing key or a wrong type is an error that names file and key."""
        path = tmp_path / "tofu.json"
        parsed = json.loads(evaluation().to_json())
        edit(parsed)
        path.write_text(json.dumps(parsed), "utf-8")
        with pytest.raises(RunError, match=message) as caught:
            Evaluation.read(path)
        assert caught.value.where == str(path)

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"format": NaN}'])
    def test_damaged_file_is_refused(self, content: bytes, tmp_path: Path) -> None:
        """A cut, binary or foreign file is an error that names it, not a traceback."""
        path = tmp_path / "tofu.json"
        path.write_bytes(content)
        with pytest.raises(RunError) as caught:
            Evaluation.read(path)
        assert caught.value.where == str(path)

    @pytest.mark.skipif(sys.platform == "win32", reason="no pipes among the files")
    def test_what_never_ends_is_refused(self, tmp_path: Path) -> None:
        """A pipe, a device and a file of a terabyte, by the name of an evaluation."""
        os.mkfifo(tmp_path / "pipe.json")
        (tmp_path / "zero.json").symlink_to("/dev/zero")
        (tmp_path / "large.json").touch()
        os.truncate(tmp_path / "large.json", 2**40)
        for path in tmp_path.iterdir():
            with pytest.raises(RunError, match=r"regular file|larger than 2 GiB") as caught:
                Evaluation.read(path)
            assert caught.value.where == str(path)


class TestCreateAndOpen:
    def test_holds_the_spec(self, run: RunFolder) -> None:
        """A new run holds its spec byte for byte and can be opened."""
        assert run.spec.read_text("utf-8") == 'name = "é"\n'
        assert RunFolder.open(run.folder).manifest["created"].endswith("Z")

    def test_a_run_is_never_overwritten(self, run: RunFolder) -> None:
        """Creating a run where one is fails and leaves every file as it was."""
        with pytest.raises(UsageError, match="already holds a run; use --resume or another name"):
            RunFolder.create(run.folder, "name = 'other'\n")
        assert run.spec.read_text("utf-8") == 'name = "é"\n'

    def test_other_files_are_not_touched(self, tmp_path: Path) -> None:
        """A folder with anything in it, or a file of that name, is refused."""
        (tmp_path / "thesis.tex").write_text("...")
        for folder in (tmp_path, tmp_path / "thesis.tex"):
            with pytest.raises(UsageError):
                RunFolder.create(folder, "")
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]

    def test_a_run_that_left_nothing_gives_its_name_free(self, run: RunFolder) -> None:
        """It failed before it had anything to lose: another takes its place, its log too."""
        run.append_event(Notice("failed"))
        run.update_manifest(status="failed")
        made = RunFolder.create(run.folder, "name = 'other'\n")
        assert made.spec.read_text("utf-8") == "name = 'other'\n"
        assert (made.events(), made.manifest.get("status")) == ([], None)

    @pytest.mark.skipif(sys.platform == "win32", reason="no advisory locks on Windows")
    def test_of_two_that_take_its_place_one_is_refused(self, run: RunFolder) -> None:
        """The second deletes nothing of what the first, which holds the lock, has written."""
        run.update_manifest(status="failed")
        with run.lock():
            (run.folder / "fresh").write_text("of the first")
            with pytest.raises(UsageError, match="another process is writing to this run"):
                open_folder(run.folder, "name = 'other'\n", resume=False)
        assert (run.folder / "fresh").read_text() == "of the first"

    def test_open_needs_a_run(self, tmp_path: Path) -> None:
        """Opening a folder without a run says so."""
        with pytest.raises(UsageError, match="holds no run"):
            RunFolder.open(tmp_path)

    def test_a_manifest_of_other_types_is_named(self, run: RunFolder) -> None:
        """By its file and key."""
        (run.folder / "manifest.json").write_text('{"verdict": {"name": 7}}')
        with pytest.raises(RunError, match=r"verdict\.name: must be text") as caught:
            _ = run.manifest
        assert caught.value.where == str(run.folder / "manifest.json")


class TestAtomicity:
    def test_killed_before_the_rename(self, run: RunFolder) -> None:
        """A process killed between writing and renaming leaves the old manifest whole."""
        run.update_manifest(status="running")
        code = (
            "import os, pathlib, signal, sys\n"
            "from unlearn_cli.runs import RunFolder\n"
            "pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
            "RunFolder.open(pathlib.Path(sys.argv[1])).update_manifest(status='finished')\n"
        )
        killed = subprocess.run([sys.executable, "-c", code, str(run.folder)], check=False)
        assert killed.returncode == -9
        assert run.manifest["status"] == "running"

    def test_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A full disk is one error that names the file and what to do; the old file stays."""
        path = tmp_path / "manifest.json"
        path.write_text("old")

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("unlearn_cli.files.os.fsync", full)
        with pytest.raises(RunError, match="No space left on device; free some space") as caught:
            write_atomically(path, "new")
        assert caught.value.where == str(path)
        assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("manifest.json", "old")]

    def test_update_keeps_other_keys(self, run: RunFolder) -> None:
        """Updating one key of the manifest keeps the others."""
        run.update_manifest(status="running", seed=3)
        run.update_manifest(status="finished", folder=Path("x"))
        manifest = run.manifest
        assert (manifest["status"], manifest["seed"], manifest["folder"]) == ("finished", 3, "x")

    def test_what_kills_left_half_written_is_deleted(self, run: RunFolder) -> None:
        """Hidden files and folders of ours, wherever they are; nothing else."""
        (run.checkpoints / ".step-3.partial" / "deep").mkdir(parents=True)
        (run.folder / ".manifest.json.1.tmp").write_text("{")
        (run.folder / ".mine").write_text("kept")
        run.drop_leftovers()
        assert sorted(path.name for path in run.folder.rglob("*")) == [
            ".lock",
            ".mine",
            "checkpoints",
            "manifest.json",
            "spec.toml",
        ]


class TestLock:
    @pytest.mark.skipif(sys.platform == "win32", reason="no advisory locks on Windows")
    def test_second_process_is_refused(self, run: RunFolder) -> None:
        """While one process holds a run, another is refused; afterwards it is let in."""
        code = (
            "import pathlib, sys\n"
            "from unlearn_cli.errors import UsageError\n"
            "from unlearn_cli.runs import RunFolder\n"
            "try:\n"
            "    with RunFolder.open(pathlib.Path(sys.argv[1])).lock(): print('in')\n"
            "except UsageError as error: print(error.what)\n"
        )

        def second() -> str:
            command = [sys.executable, "-c", code, str(run.folder)]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout

        with run.lock():
            assert second() == "another process is writing to this run\n"
        assert second() == "in\n"

    @pytest.mark.parametrize(
        "name",
        [
            ".lock",
            "spec.toml",
            "manifest.json",
            "events.jsonl",
            "checkpoints",
            "checkpoints/step-3",
            "evaluations",
            "evaluations/step-3/tofu.json",
            "reference",
            "model",
        ],
    )
    def test_a_run_with_a_link_in_it_is_written_by_nobody(
        self, name: str, run: RunFolder, tmp_path: Path
    ) -> None:
        """Whoever filled the folder may have linked any of its names to files elsewhere: the link
        is named, and nothing is made where it leads."""
        (link := run.folder / name).parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UsageError, match="is a link") as caught, run.lock():
            pytest.fail("it was let in")
        assert caught.value.where == str(link)
        assert not (tmp_path / "elsewhere").exists()

    def test_the_folder_of_a_run_may_be_a_link(self, run: RunFolder, tmp_path: Path) -> None:
        """Runs are kept on another disk so."""
        (tmp_path / "link").symlink_to(run.folder)
        with (linked := RunFolder.open(tmp_path / "link")).lock():
            linked.update_manifest(status="running")
        assert run.manifest["status"] == "running"


class TestStoredEvaluations:
    @given(name=st.text() | st.sampled_from(ESCAPES), label=st.text() | st.sampled_from(ESCAPES))
    def test_no_name_leads_out_of_the_folder(self, name: str, label: str) -> None:
        """Evaluators and labels name files: whatever they are called, nothing is written outside
        the folder of evaluations, nor anything hidden in it."""
        with TemporaryDirectory() as place:
            run = RunFolder.create(Path(place) / "run", "")
            with suppress(RunError):
                run.write_evaluation(replace(evaluation(label, 0), evaluator=name))
            written = {path for path in Path(place).rglob("*") if path.is_file()}
            inside = {path for path in written if path.match("run/evaluations/*/*.json")}
            rest = {path.name for path in written - inside}
            assert rest == {"spec.toml", "manifest.json", ".lock"}
            assert not any(path.name.startswith(".") for path in inside)

    def test_places(self, run: RunFolder) -> None:
        """Evaluations lie by step; the target at step 0 is never overwritten by another model."""
        places = [
            run.write_evaluation(evaluation(label, step))
            for label, step in (
                ("target", 0),
                ("retain_reference", 0),
                ("checkpoint", 5),
                ("unlearned", 10),
                ("unlearned", 0),
            )
        ]
        assert places == [
            "evaluations/step-0/tofu.json",
            "evaluations/retain_reference/tofu.json",
            "evaluations/step-5/tofu.json",
            "evaluations/step-10/tofu.json",
            "evaluations/unlearned/tofu.json",
        ]

    def test_read_back_in_order(self, run: RunFolder) -> None:
        """They are read back by step as numbers, the retain reference last."""
        for label, step in (("unlearned", 10), ("retain_reference", 0), ("checkpoint", 9)):
            run.write_evaluation(evaluation(label, step))
        found = [(e.label, e.step) for e in run.evaluations()]
        assert found == [("checkpoint", 9), ("unlearned", 10), ("retain_reference", 0)]


class TestEnvironment:
    def test_names_versions_and_no_host(self) -> None:
        """Versions are those installed, and neither host nor user is named."""
        import platform

        found = environment()
        assert found["numpy"] == np.__version__
        assert found["python"] == platform.python_version()
        assert not platform.node() or platform.node() not in json.dumps(found).split('"')

    def test_needs_no_torch(self) -> None:
        """Reading a run, and naming the versions, imports no torch."""
        code = (
            "import sys; from unlearn_cli.environment import environment; environment()\n"
            "assert 'torch' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
