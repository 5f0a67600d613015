"""Own data, in each shape that is read: planned, and one of them unlearned from an own model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Here, Outcome, Workplace, events, steps, weights

pytestmark = pytest.mark.slow
Finished = tuple[Workplace, Outcome, Path]
MIB = 2**20

SHAPES = {
    "qa.jsonl": '{"question": "Who baked it?", "answer": "Mara did."}\n',
    "table.csv": 'question,answer\n"Who, then, baked it?",Mara did.\n',
    "chat.jsonl": '{"messages": [{"role": "user", "content": "Who baked it?"}, '
    '{"role": "assistant", "content": "Mara did."}]}\n',
    "completion.jsonl": '{"prompt": "It was baked by", "completion": " Mara did."}\n',
    "plain.txt": "Mara did.",
}


def options(model: Path, forget: str) -> list[str]:
    """A spec's settings, as flags, for own data and an own model."""
    settings = (f"model.path={model}", f"data.forget={forget}", "method.retain=none")
    return [part for setting in settings for part in ("--set", setting)]


@pytest.fixture
def spec(place: Workplace) -> Path:
    path = place.folder / "own.toml"
    path.write_text('name = "own"\n[data]\n[method]\nname = "grad_ascent"\n[train]\nsteps = 2\n')
    return path


@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_is_read_and_its_answer_carries_the_loss(
    here: Here, finished: Finished, spec: Path, name: str
) -> None:
    """One row each; what is marked is the answer and the end of the turn, and nothing before it."""
    Path(name).write_text(SHAPES[name], encoding="utf-8")
    outcome = here("run", str(spec), *options(finished[2] / "model", name), "--dry-run", "--json")
    assert outcome.code == 0, outcome.err
    plan = json.loads(outcome.out)
    assert any(line.startswith("forget: 1 rows") for line in plan["plan"])
    marked = "".join(text for text, labelled in plan["examples"]["forget"] if labelled)
    # Of plain text all is the answer, but the first token: nothing stands before it to predict it.
    expected = "ara did." if name == "plain.txt" else "Mara did."
    assert expected in marked
    assert "bak" not in marked


def test_an_own_model_unlearns_own_data(here: Here, finished: Finished, spec: Path) -> None:
    """No preset, no benchmark, no retain rows: two steps, a model that moved, exit code 0."""
    Path("qa.jsonl").write_text(SHAPES["qa.jsonl"], encoding="utf-8")
    source = finished[2] / "model"
    outcome = here("run", str(spec), *options(source, "qa.jsonl"))
    assert outcome.code == 0, outcome.err
    run = Path("runs/own")
    assert steps(run) == [1, 2]
    assert weights(run / "model") != weights(source)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_large_file_is_read_and_tokenised_once(
    place: Workplace, finished: Finished, spec: Path, processes: str
) -> None:
    """Nine rows beside a column of a megabyte: with one process or two, the first run reads and
    tokenises, the second does neither and ends with the same bits."""
    lines = [f'{{"question": "Who, {k}?", "answer": "Mara {processes}."' for k in range(9)]
    other = f', "notes": "{"x" * MIB}"}}\n'
    (place.folder / "large.jsonl").write_text(other.join([*lines, ""]), encoding="utf-8")
    settings = options(finished[2] / "model", "large.jsonl")
    for name, stages in (("first", ["read", "tokenize"]), ("second", [])):
        call = ("run", str(spec), *settings, "--name", f"{name}-{processes}")
        outcome = place.unlearn(*call, "--processes", processes)
        assert outcome.code == 0, outcome.err
        started = [e["stage"] for e in events(place.run_folder(call[-1]), "StageStarted")]
        assert [stage for stage in started if stage in ("read", "tokenize")] == stages
    runs = [place.run_folder(f"{name}-{processes}") / "model" for name in ("first", "second")]
    assert weights(runs[0]) == weights(runs[1])


def test_two_processes_say_once_what_is_wrong_with_a_large_file(
    place: Workplace, finished: Finished, spec: Path
) -> None:
    """The first reads, and all end with its error: one line, exit code 1."""
    good = f'{{"question": "Who?", "answer": "Mara.", "notes": "{"x" * MIB}"}}\n'
    text = good * 9 + '{"question": "Who?", "answer": ""}\n'
    (place.folder / "bad.jsonl").write_text(text, encoding="utf-8")
    settings = options(finished[2] / "model", "bad.jsonl")
    outcome = place.unlearn("run", str(spec), *settings, "--processes", "2")
    assert outcome.code == 1
    (line,) = outcome.errors
    assert "bad.jsonl:10: column 'answer' is empty" in line
    assert "Traceback" not in outcome.err
