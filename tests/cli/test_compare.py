"""`unlearn compare`, as a user and as a script sees it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from unlearn_cli.api.evaluate import Number, Table
from unlearn_cli.cli import main
from unlearn_cli.evaluations import Evaluation
from unlearn_cli.events import RunStarted, StageFinished
from unlearn_cli.runs import RunFolder

SPEC = """
name = "{name}"
seed = {seed}
[method]
name = "{method}"
[[evaluate]]
evaluator = "tofu"
"""


def evaluation(label: str, step: int, utility: float) -> Evaluation:
    numbers = {
        "forget.probability": Number(0.1, "lower"),
        "forget_quality": Number(0.5, "higher"),
        "model_utility": Number(utility, "higher"),
    }
    return Evaluation("tofu", label, step, Table({}, numbers), model="m", data="d")


def make(folder: Path, method: str, seed: int, utility: float, status: str = "finished") -> str:
    """A run folder as `unlearn run` leaves it; its path."""
    name = f"{method}-{seed}"
    run = RunFolder.create(folder / name, SPEC.format(name=name, seed=seed, method=method))
    run.append_event(RunStarted(name, str(run.folder), method, "cpu", 1))
    run.append_event(StageFinished("train", 2.5))
    run.write_evaluation(evaluation("target", 0, 0.8))
    run.write_evaluation(evaluation("unlearned", 4, utility))
    verdict = {"name": "forgotten", "explanation": ""}
    run.update_manifest(status=status, verdict=verdict, environment={"torch": "2.13"})
    return str(run.folder)


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """Two methods of two seeds; utility 0.8 and 0.78 against 0.2 and 0.22."""
    values = [("npo", 0, 0.8), ("npo", 1, 0.78), ("simnpo", 0, 0.2), ("simnpo", 1, 0.22)]
    return [make(tmp_path, *value) for value in values]


def code(*args: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["compare", *args])
    return int(str(left.value.code))


def test_methods_stand_side_by_side(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Mean and interval by hand: 0.79 ± 12.706 * 0.01; the large difference is beyond noise."""
    assert code(*runs) == 0
    out = capsys.readouterr().out
    assert "0.790 ± 0.127" in out or "0.790 +- 0.127" in out
    assert "Beyond noise: model_utility, npo against simnpo: +0.58" in out
    assert "2 forgotten" in out


def test_json_says_all(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A script gets values, intervals and tests; kept utility is after divided by before."""
    assert code(*runs, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    npo = found["groups"][0]
    assert (npo["label"], npo["seeds"], npo["runs"]) == ("npo", [0, 1], runs[:2])
    assert npo["after"]["model_utility"]["values"] == [0.8, 0.78]
    assert npo["after"]["kept_utility"]["values"] == pytest.approx([1.0, 0.975])
    assert npo["after"]["train_seconds"]["mean"] == 2.5
    assert npo["before"]["model_utility"]["mean"] == pytest.approx(0.8)
    beyond = {d["metric"] for d in found["differences"] if d["beyond_noise"]}
    assert beyond == {"model_utility", "kept_utility"}
    assert found["notes"] == []


def test_the_plot_is_written(runs: list[str], tmp_path: Path) -> None:
    """`--plot` leaves an SVG file with a large dot for each method."""
    assert code(*runs, "--plot", str(tmp_path / "plot.svg")) == 0
    svg = (tmp_path / "plot.svg").read_text("utf-8")
    assert svg.startswith("<svg xmlns=")
    assert svg.count('class="mean') == 2


def test_one_seed_is_said_plainly(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """No interval, no test, and the reason."""
    assert code(runs[0], runs[2]) == 0
    out = capsys.readouterr().out
    assert "Nothing can be said about noise where there is one seed: npo; simnpo." in out
    assert "0.800" in out
    assert "Beyond noise" not in out


def test_a_missing_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that names the folder; exit code 2."""
    assert code(str(tmp_path / "nope")) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {tmp_path / 'nope'}: holds no run")
    assert err.count("\n") == 1


def test_an_unfinished_run(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line with the command that finishes it."""
    begun = make(tmp_path, "dpo", 0, 0.5, status="interrupted")
    assert code(*runs, begun) == 2
    err = capsys.readouterr().err
    assert "the run is not finished (interrupted)" in err
    assert f"unlearn run {Path(begun) / 'spec.toml'} --resume" in err


def test_a_run_named_twice(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """It would count as two seeds: refused."""
    assert code(runs[0], runs[0] + os.sep) == 2
    assert "it would count twice" in capsys.readouterr().err


def test_a_sweep_is_all_its_finished_runs(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder of a sweep stands for the runs that its list names, without the unfinished."""
    make(tmp_path, "dpo", 0, 0.5, status="failed")
    listed: dict[str, Any] = {"runs": {"npo-0": {}, "simnpo-0": {}, "dpo-0": {}, "not-begun": {}}}
    (tmp_path / "sweep.json").write_text(json.dumps(listed), encoding="utf-8")
    assert code(str(tmp_path), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [group["runs"] for group in found["groups"]] == [[runs[0]], [runs[2]]]


def test_every_difference_of_environment_is_a_line(
    runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Versions, threads, devices, types: what differs is named with its values, what is the same
    is not; an older run that noted less counts as unset."""
    same = {"torch": "2.13", "dtype": "float32", "threads": {"OMP_NUM_THREADS": "1"}}
    other = {"torch": "2.13", "dtype": "bfloat16", "threads": {"OMP_NUM_THREADS": "4"}}
    RunFolder(Path(runs[0])).update_manifest(environment=same | {"devices": ["H100"]})
    RunFolder(Path(runs[1])).update_manifest(environment=other)
    assert code("--json", *runs[:2]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    a, b = runs[:2]
    assert notes == [
        f"Not under the same conditions, dtype: float32 ({a}); bfloat16 ({b}).",
        f"Not under the same conditions, threads.OMP_NUM_THREADS: 1 ({a}); 4 ({b}).",
        f"Not under the same conditions, devices: H100 ({a}); unset ({b}).",
    ]
    assert code(*runs[:2]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert all(" ".join(note.split()) in told for note in notes)


def test_names_are_shown_not_obeyed(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Markup, links, pictures and control characters in what a run folder holds do nothing."""
    evil = "[red]x[/red] [link=https://e.example]y[/link] :smile: \x1b[31m\u202e"
    run = RunFolder(Path(runs[0]))
    run.update_manifest(verdict={"name": evil, "explanation": ""}, environment={"torch": evil})
    assert code(*runs) == 0
    out = capsys.readouterr().out
    assert "[red]x[/red]" in out
    assert ":smile:" in out
    assert not {"\x1b", "\u202e"} & {*out}
    assert code("--json", *runs) == 0
    out = capsys.readouterr().out
    assert out.isascii()
    assert evil in json.loads(out)["groups"][0]["verdicts"]
