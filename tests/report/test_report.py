"""The report is one safe file that says what the run folder holds."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from unlearn_cli.api.evaluate import Number, Table
from unlearn_cli.cli.report import report
from unlearn_cli.errors import UsageError
from unlearn_cli.evaluations import Evaluation, Generated
from unlearn_cli.events import (
    Notice,
    RunFailed,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    StepDone,
)
from unlearn_cli.report import write_report
from unlearn_cli.report.plane import Course, plane
from unlearn_cli.report.view import largest_gap, verdict
from unlearn_cli.runs import RunFolder

EVIL = "<script>alert(1)</script>\x1b[2J & 'co'"
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Counts tags, and notes what does not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def evaluation(label: str, step: int, leaks: dict[str, float], answer: str) -> Evaluation:
    ratios: dict[str, float | None] = {row: 1.0 + value for row, value in leaks.items()}
    shares: dict[str, float | None] = {**leaks}
    rows = {"forget": {"probability": shares, "truth_ratio": ratios}}
    null = Number(None, "higher", reason="no retain reference: run `unlearn evaluate`")
    mean = Number(sum(leaks.values()) / len(leaks), "lower", len(leaks))
    numbers = {"forget.probability": mean, "forget_quality": null}
    samples = [Generated("forget", row, f"Question {row}?", EVIL, answer) for row in leaks]
    table = Table(rows, numbers, ("a note of the evaluator",))
    return Evaluation("tofu", label, step, table, "sha256:aa", "sha256:bb", {}, tuple(samples))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished run whose texts are hostile."""
    run = RunFolder.create(tmp_path / "run", f'name = "demo"\n# {EVIL}\n')
    run.append_event(RunStarted("demo", str(run.folder), "npo", "cpu", 1))
    run.append_event(StageStarted("train", f"Unlearn {EVIL}", 3))
    for step in (1, 2, 3):
        losses = {"total": 1.0 / step, "forget": -2.0}
        run.append_event(StepDone("train", step, 3, 1.0, losses, 1e-5, 1.0, 9, 0.1, 9))
    run.append_event(StageFinished("train", 83.0))
    run.append_event(Notice(EVIL))
    run.append_event(RunFinished("not forgotten", EVIL, str(run.folder), 90.0))
    before = evaluation("target", 0, {"a": 0.9, "b": 0.8, "c": 0.7}, "before")
    after = evaluation("unlearned", 3, {"a": 0.1, "b": 0.6, "c": 0.3}, EVIL)
    for found in (before, after):
        run.write_evaluation(found)
    run.update_manifest(data={"forget": "sha256:cc"}, evil=EVIL)
    return run


def page(run: RunFolder) -> str:
    return write_report(run).read_text("utf-8")


class TestSafety:
    def test_one_file(self, run: RunFolder) -> None:
        """The page refers to nothing outside itself and runs no script."""
        text = page(run)
        parsed = Page(text)
        assert not {"script", "link", "img", "iframe", "object", "image"} & set(parsed.tags)
        assert parsed.addresses == []
        assert not re.search(r"https?:|url\(|@import", text)

    def test_hostile_text_is_shown_not_obeyed(self, run: RunFolder) -> None:
        """Text of models, specs, plugins and notices is escaped; control characters are gone."""
        text = page(run)
        assert "<script" not in text
        assert "&lt;script&gt;alert(1)" in text
        assert "\x1b" not in text

    def test_tags_close(self, run: RunFolder) -> None:
        """The page and the SVG in it are well-formed."""
        assert Page(page(run)).open == []


class TestContent:
    def test_says_what_happened(self, run: RunFolder) -> None:
        """Verdict, metrics with their direction, spec, times, hashes and notes are all there."""
        text = page(run)
        assert "<h1>Not forgotten</h1>" in text
        assert re.search(r"probability</td>\s*<td[^>]*>↓</td>\s*<td[^>]*>0.800<", text)
        for part in ("name = &#34;demo&#34;", "1m 23s", "sha256:aa", "sha256:cc"):
            assert part in text
        assert "<li>no retain reference: run `unlearn evaluate`</li>" in text
        assert "<li>a note of the evaluator</li>" in text

    def test_worst_leak_first(self, run: RunFolder) -> None:
        """Rows stand by the probability after unlearning: b (0.6), c (0.3), a (0.1)."""
        assert re.findall(r"Question (\w)\?", page(run)) == ["b", "c", "a"]
        assert "0.800 → 0.600" in page(run)

    def test_charts(self, run: RunFolder) -> None:
        """Loss terms, the metric that has values, and the truth ratios are drawn."""
        captions = re.findall(r"<figcaption>([^<]*)", page(run))
        assert [caption.split(" ")[0] for caption in captions] == ["forget", "Truth", "Loss:"]

    def test_sections_of_plugins(self, run: RunFolder) -> None:
        """A plugin's section stands in the page as it is, its title escaped."""
        text = write_report(run, [("A & B", "<p id='x'>hi</p>")]).read_text("utf-8")
        assert "<h2>A &amp; B</h2>" in text
        assert "<p id='x'>hi</p>" in text

    def test_empty_run(self, tmp_path: Path) -> None:
        """A run that has only just begun has a report that says so."""
        text = page(RunFolder.create(tmp_path / "new", ""))
        assert "<h1>Not finished</h1>" in text


class TestVerdict:
    def test_failure(self, tmp_path: Path) -> None:
        """A run that failed says why; once resumed, it is not failed any more."""
        run = RunFolder.create(tmp_path / "run", "")
        run.append_event(RunFailed("the loss is nan"))
        assert verdict(run.events()).explanation == "the loss is nan"
        run.append_event(RunStarted("x", "x", "npo", "cpu", 1, resumed_from=3))
        assert verdict(run.events()).heading == "Not finished"


def test_largest_gap() -> None:
    """At 2, all of (1, 2) is reached and half of (2, 3): by hand the gap is 0.5.

    At 1 it is 0.5 too; two equal samples have none, two apart have 1.
    """
    assert largest_gap([1.0, 2.0], [2.0, 3.0]) == 0.5
    assert largest_gap([1.0, 2.0], [2.0, 1.0]) == 0.0
    assert largest_gap([1.0], [5.0, 6.0]) == 1.0
    assert largest_gap([], [1.0]) is None


class TestCommand:
    def test_writes_it_again(self, run: RunFolder) -> None:
        """`unlearn report RUN` prints the path of the report that it wrote; JSON when asked."""
        result = CliRunner().invoke(report, [str(run.folder)])
        assert (result.exit_code, result.output) == (0, f"{run.report}\n")
        assert run.report.is_file()
        again = CliRunner().invoke(report, [str(run.folder), "--json"])
        assert json.loads(again.output) == {"reports": [str(run.report)]}

    def test_not_a_run(self, tmp_path: Path) -> None:
        """A folder without a run is one clear error."""
        result = CliRunner().invoke(report, [str(tmp_path)])
        assert isinstance(result.exception, UsageError)


def stress(label: str, value: float) -> Evaluation:
    found = evaluation(label, 3 if label == "unlearned" else 0, {"a": value}, "said")
    numbers = {"forget_quality": Number(value, "higher")}
    table = Table(found.table.rows, numbers)
    settings = {"of": "tofu", "inside": {}}
    return replace(found, evaluator="jailbreak", table=table, settings=settings)


class TestEvaluators:
    def test_a_stress_test_is_a_line_beside_its_control(self, run: RunFolder) -> None:
        """And no block; what the model says under `jailbreak` stands with the answers."""
        for label, value in (("unlearned", 0.25), ("retain_reference", 0.75)):
            run.write_evaluation(stress(label, value))
        text = page(run)
        assert "<h2>Under stress</h2>" in text
        assert "0.250 (0.750)" in text
        assert "<h2>Metrics</h2>" in text  # one block: no name of an evaluator behind it
        assert "<dt>after, jailbroken</dt><dd>said" in text

    def test_what_is_missed_stands_below_the_verdict(self, tmp_path: Path) -> None:
        """Escaped, a line each."""
        run = RunFolder.create(tmp_path / "run", "")
        run.append_event(RunFinished("recoverable", "It came back.", "x", 1.0, (), (EVIL,)))
        text = page(run)
        assert "<h1>Recoverable</h1>" in text
        assert "Missed: &lt;script&gt;" in text

    def test_attack_inputs_are_folded_away(self, run: RunFolder) -> None:
        """What the forget set has in common with the holdout only feeds the attacks."""
        numbers = {
            "forget.loss": Number(1.0, "reference"),
            "holdout.loss": Number(1.0, "lower"),
            "mia.loss.auc": Number(0.5, "reference"),
            "model_utility": Number(0.5, "higher"),
        }
        run.write_evaluation(
            Evaluation("tofu", "unlearned", 3, Table({}, numbers), "sha256:aa", "sha256:bb")
        )
        text = page(run)
        assert "2 more figures" in text
        assert text.index("model utility") < text.index("auc") < text.index("2 more figures")


class TestPlane:
    def test_models_are_told_apart_by_their_shapes(self) -> None:
        """A square for the target, a diamond for the reference, a numbered dot at the end of a
        line for each run; a target that two runs share is drawn once."""
        numbers = [
            {"forget_quality": Number(q, "higher"), "model_utility": Number(0.6, "higher")}
            for q in (1e-20, 0.1, 0.5, 1.0)
        ]
        target, *trained, reference = numbers
        found = plane([Course(name, trained, target, reference) for name in ("a", EVIL)])
        assert found.count("h10v10h-10z") == 1
        assert found.count("l6 -6 6 6 -6 6z") == 1
        assert re.findall(r">(\d)</text>", found)[-2:] == ["1", "2"]
        assert "<script" not in found
        assert "1e-20" in found

    def test_nothing_to_draw(self) -> None:
        """Runs without a figure of each kind have no plane."""
        assert plane([Course("a", [{"model_utility": Number(0.5, "higher")}], None, None)]) == ""
