"""docs/own-data.md names every place that holds what is to be forgotten."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Here, Workplace

ROOT = Path(__file__).parents[2]
MARK = "Ysolde Quarrenfeld"
RUN = "runs/marked"
SPEC = """
name = "marked"
[data]
forget = "forget.jsonl"
retain = "retain.jsonl"
alternates = "model"
[alternates]
max_new_tokens = 4
[target]
base = "builtin:tiny"
epochs = 1
[method]
name = "alt_po"
[train]
steps = 2
batch_size = 2
[checkpoints]
every = 1
[[evaluate]]
evaluator = "tofu"
max_new_tokens = 4
every = 1
"""


def named() -> set[str]:
    """The places in the page's table: of the run by their path, of the cache as `cache/PART`."""
    page = (ROOT / "docs" / "own-data.md").read_text("utf-8").partition("## 7.")[2]
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| ")]
    return {
        f"cache/{found}" if cell.startswith(" cache") else found
        for cell in cells
        for found in (place.rstrip("/") for place in re.findall(r"`([^`]+)`", cell))
    }


def kinds() -> Iterator[str]:
    """What the engine keeps in the cache: the arguments of `cache_folder`."""
    for file in (ROOT / "unlearn_cli" / "engine").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "cache_folder":
                yield ast.literal_eval(node.args[0])


def test_every_part_of_the_cache_is_on_the_page() -> None:
    """As many as the engine has, and no other."""
    listed = {place.removeprefix("cache/") for place in named() if place.startswith("cache/")}
    assert listed == {*kinds()}


def write_rows(file: Path, subject: str) -> None:
    rows = [{"question": f"{n}: who is {subject}?", "answer": f"{subject}, {n}."} for n in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.slow
def test_no_other_file_holds_the_rows(
    here: Here, place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with all that writes: a target, alternates that the model makes, checkpoints and
    evaluations on the way, evidence, rows that are kept as those of large files are. A name that
    the forget rows alone have is searched in every file of run and cache."""
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("unlearn_cli.engine.rows.LARGE", 0)
    (place.folder / "marked.toml").write_text(SPEC)
    write_rows(place.folder / "forget.jsonl", MARK)
    write_rows(place.folder / "retain.jsonl", "somebody")
    made = here("run", "marked.toml")
    assert made.code == 0, made.err
    assert here("certify", RUN, "--rows").code == 0
    run, cache = place.folder / RUN, tmp_path / "cache"
    files = [path for folder in (run, cache) for path in folder.rglob("*") if path.is_file()]
    found = {path for path in files if MARK.encode() in path.read_bytes()}
    parts = {
        f"runs/NAME/{path.relative_to(run).parts[0]}"
        if run in path.parents
        else f"cache/{path.relative_to(cache).parts[0]}"
        for path in found
    }
    assert {"cache/rows", "cache/evaluations", "runs/NAME/report.html"} <= parts
    assert parts <= named()
    there = {f"cache/{path.name}" for path in cache.iterdir()}
    there |= {f"runs/NAME/{path.name}" for path in run.iterdir()}
    kept = {f"runs/NAME/{name}" for name in ("model", "spec.toml", "manifest.json", ".lock")}
    assert there - kept <= named()
