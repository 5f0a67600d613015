"""What people see: live where there is a terminal, plain elsewhere, and never steered by text."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys

import pytest
from rich.console import Console

from unlearn_cli.api.evaluate import Number, Table
from unlearn_cli.console import (
    LiveListener,
    PlainListener,
    open_console,
    print_plan,
    print_result,
    print_table,
    print_tokens,
)
from unlearn_cli.evaluations import Evaluation
from unlearn_cli.events import (
    Notice,
    RunFinished,
    RunStarted,
    Sample,
    StageFinished,
    StageStarted,
    StepDone,
)

EVIL = "a\x1b[2J\x1b]0;owned\x07\x9b2J\u202e[bold]b"


def step(number: int, total: int = 100, **changes: int) -> StepDone:
    losses = {"total": 0.5, "forget": 1.25}
    values = {"tokens": 300, "memory_bytes": 3 * 2**30, **changes}
    return StepDone(
        "train",
        number,
        total,
        0.1,
        losses,
        1e-5,
        2.0,
        tokens=values["tokens"],
        seconds=0.1,
        memory_bytes=values["memory_bytes"],
    )


def evaluation(label: str, forget: float | None, reason: str = "") -> Evaluation:
    numbers = {
        "forget.probability": Number(forget, "lower", reason=reason),
        "forget.truth_ratio": Number(0.7, "reference"),
        "model_utility": Number(0.6, "higher"),
    }
    return Evaluation("tofu", label, 0, Table({}, numbers), "m", "d")


def finished(*samples: Sample) -> RunFinished:
    return RunFinished("not forgotten", "It still knows.", "runs/x", 3.0, samples)


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Plain:
    """A plain listener and what it has written."""

    def __init__(self) -> None:
        self.clock, self.file = Clock(), io.StringIO()
        self.listener = PlainListener(Console(file=self.file, width=200), self.clock)

    @property
    def lines(self) -> list[str]:
        return self.file.getvalue().splitlines()


@pytest.fixture
def plain() -> Plain:
    return Plain()


@pytest.fixture(autouse=True)
def _no_terminal_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


class TestPlain:
    def test_stages_are_timed(self, plain: Plain) -> None:
        """Lines carry the seconds since the start; a stage says how long it took."""
        plain.listener(StageStarted("target", "Fine-tune the target", 10))
        plain.clock.now += 12.3
        plain.listener(StageFinished("target", 12.3))
        assert plain.lines == [
            "[0.0s] Fine-tune the target ...",
            "[12.3s] Fine-tune the target: done in 12.3s",
        ]

    def test_cached_stage(self, plain: Plain) -> None:
        """A stage that computed nothing says so."""
        plain.listener(StageStarted("target", "Target"))
        plain.listener(StageFinished("target", 0.0, cached=True))
        assert plain.lines[-1] == "[0.0s] Target: cached"

    def test_fast_steps_are_rare_lines(self, plain: Plain) -> None:
        """At 0.5 s a step, 100 steps give a line each tenth, not each step."""
        plain.listener(StageStarted("train", "Unlearn", 100))
        for number in range(1, 101):
            plain.clock.now += 0.5
            plain.listener(step(number))
        shown = [re.search(r"train: (\d+)/100", line) for line in plain.lines]
        assert [int(match[1]) for match in shown if match] == list(range(10, 101, 10))

    def test_very_fast_steps(self, plain: Plain) -> None:
        """Lines are never closer than 2 s, however fast the steps."""
        plain.listener(StageStarted("train", "Unlearn", 100))
        for number in range(1, 101):
            plain.clock.now += 0.0625  # exact in binary: 32 steps are 2 s
            plain.listener(step(number))
        times = [float(line[1:].partition("s]")[0]) for line in plain.lines if "train:" in line]
        assert times == [2.0, 4.0, 6.0]

    def test_slow_steps_are_heard(self, plain: Plain) -> None:
        """Where a tenth takes hours, there is a sign of life each half minute."""
        plain.listener(StageStarted("train", "Unlearn", 10000))
        for number in range(1, 7):
            plain.clock.now += 10.0
            plain.listener(step(number, 10000))
        assert [line.partition(",")[0] for line in plain.lines[1:]] == [
            "[30.0s] train: 3/10000 steps",
            "[60.0s] train: 6/10000 steps",
        ]

    def test_figures_of_a_step(self, plain: Plain) -> None:
        """A step shows its losses, rate, tokens per second, memory and time left, with units.

        300 tokens in 0.1 s are 3,000 a second; 40 of 50 steps at 3 s each are left after 20 s.
        """
        plain.listener(StageStarted("train", "Unlearn", 50))
        plain.listener(step(1, 50))
        plain.clock.now += 27.0
        plain.listener(step(10, 50))
        assert plain.lines[-1] == (
            "[27.0s] train: 10/50 steps, loss total 0.500 forget 1.250, lr 1.00e-05, "
            "grad 2.000, 3,000 tokens/s, 3.0 GiB, 2m 00s left"
        )

    def test_text_cannot_steer(self, plain: Plain) -> None:
        """Escape sequences, bidi overrides and markup of others are not obeyed."""
        plain.listener(Notice(EVIL))
        assert plain.lines == ["[0.0s] a[bold]b"]


class TestLive:
    def screen(self, *events: object, width: int = 110) -> str:
        console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
        listener = LiveListener(console)
        for event in events:
            listener(event)  # type: ignore[arg-type]
        with console.capture() as capture:
            console.print(listener)
        return capture.get()

    def test_running_stage(self) -> None:
        """The running stage shows its bar, its step and the figures of that step."""
        shown = self.screen(StageStarted("train", "Unlearn", 100), step(7))
        first, second = shown.splitlines()
        assert first.startswith("Unlearn ")
        assert "7/100 steps" in first
        assert "loss total 0.500 forget 1.250" in second
        assert "3,000 tokens/s" in second

    def test_stages_nest(self) -> None:
        """An evaluation inside training is shown under it, and goes when it has ended."""
        inner = StageStarted("evaluate", "Evaluate", 10, "rows")
        events = [StageStarted("train", "Unlearn", 100), inner]
        assert re.search("Unlearn.*\nEvaluate", self.screen(*events))
        assert "Evaluate" not in self.screen(*events, StageFinished("evaluate", 1.0))

    @pytest.mark.parametrize("width", [20, 40, 60, 200])
    def test_no_line_is_wider_than_the_terminal(self, width: int) -> None:
        """However narrow the terminal, no line wraps: wrapped lines would not be erased."""
        title = "Fine-tune the target on forget + retain, with a very long title indeed"
        shown = self.screen(StageStarted("train", title, 100), step(7), width=width)
        assert all(len(line) <= width for line in shown.splitlines())


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
class TestTerminal:
    CODE = (
        "import sys\n"
        "from unlearn_cli.console import open_console\n"
        "from unlearn_cli.events import Notice, StageStarted\n"
        "with open_console() as listen:\n"
        "    listen(StageStarted('train', 'Unlearn', 10))\n"
        "    listen(Notice('hello'))\n"
        "    raise {error}\n"
    )

    def in_terminal(self, error: str, **env: str) -> str:
        """What the program writes to a pseudo-terminal."""
        import pty

        main, inner = pty.openpty()
        command = [sys.executable, "-c", self.CODE.format(error=error)]
        clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "CI", "TERM")}
        env = {"TERM": "xterm-256color", **clean, **env}
        program = subprocess.Popen(command, stdout=inner, stderr=inner, env=env)
        os.close(inner)
        written = b"".join(iter(lambda: _read(main), b""))
        program.wait()
        os.close(main)
        return written.decode()

    @pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit(3)", "ValueError"])
    def test_cursor_comes_back(self, error: str) -> None:
        """However the run ends, the cursor that the display hid is shown again."""
        written = self.in_terminal(error)
        assert "\x1b[?25l" in written
        assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")

    def test_no_color(self) -> None:
        """With NO_COLOR set, no colour is sent; without it, the notice is yellow."""
        yellow = re.compile(r"\x1b\[[0-9;]*33m")
        assert yellow.search(self.in_terminal("SystemExit"))
        assert not yellow.search(self.in_terminal("SystemExit", NO_COLOR="1"))

    def test_dumb_terminal(self) -> None:
        """A dumb terminal gets plain timed lines and no escape sequence."""
        written = self.in_terminal("SystemExit", TERM="dumb")
        assert re.search(r"\[\d+\.\d+s\] hello", written)
        assert "\x1b" not in written


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux says so when the other end is closed
        return b""


class TestOpenConsole:
    def test_plain_off_a_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Without a terminal, progress is plain lines on stderr and stdout stays empty."""
        with open_console() as listen:
            listen(RunStarted("demo", "runs/demo", "npo", "cpu", 2, resumed_from=5))
        captured = capsys.readouterr()
        assert captured.out == ""
        line = "demo: npo on cpu, 2 processes, resumed at step 5, in runs/demo\n"
        assert captured.err.endswith(f"] {line}")


class TestResult:
    def test_table(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A row a metric: direction, before, after, reference; a null has its reason below."""
        reference = evaluation("retain_reference", None, "it was not scored")
        print_result(
            evaluation("target", 0.9), evaluation("unlearned", 2e-9), reference, finished()
        )
        captured = capsys.readouterr()
        assert re.search(r"forget\.probability +↓ +0\.900 +2\.0e-09 +– \[1\]", captured.out)
        assert re.search(r"forget\.truth_ratio +→ ", captured.out)
        assert re.search(r"model_utility +↑ ", captured.out)
        assert "[1] it was not scored" in captured.out
        assert captured.err == ""

    def test_no_reference(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A model that was not evaluated is a column of nulls with one reason, not an error."""
        print_result(None, evaluation("unlearned", 0.1), None, finished())
        out = capsys.readouterr().out
        assert re.search(r"forget\.probability +↓ +– \[1\] +0\.100 +– \[2\]", out)
        assert out.count("[2] there is no retain reference") == 1

    def test_verdict_and_paths(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The end says the verdict in words and where model and report lie."""
        print_result(None, evaluation("unlearned", 0.1), None, finished())
        assert capsys.readouterr().out.endswith(
            "Verdict: not forgotten\nIt still knows.\n\n"
            "model   runs/x/model\nreport  runs/x/report.html\n"
        )

    def test_answers_are_safe_and_short(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Answers reach the terminal without control characters, cut, and at most three."""
        samples = [Sample(f"question {n}", "truth", EVIL, "word " * 200) for n in range(5)]
        print_result(None, evaluation("unlearned", 0.1), None, finished(*samples))
        out = capsys.readouterr().out
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out)
        assert "a[bold]b" in out
        assert out.count("word") == 3 * 60  # 300 characters of 5 each
        assert "question 3" not in out

    def test_ascii_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A terminal that knows only ASCII gets signs it can show instead of an error."""
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
        print_result(None, evaluation("unlearned", 0.1), None, finished(Sample("é?", "è", "", "…")))
        sys.stdout.flush()
        out = raw.getvalue().decode("ascii")
        assert re.search(r"forget\.probability *\| *v *\| *- \[1\]", out)
        assert "^ higher is better" in out

    def test_one_model(self, capsys: pytest.CaptureFixture[str]) -> None:
        """`print_table` shows one model, beside the reference where there is one."""
        print_table(evaluation("model", 0.5))
        assert "retain reference  " not in capsys.readouterr().out.partition("\n\n")[0]
        print_table(evaluation("model", 0.5), evaluation("retain_reference", 0.25))
        assert re.search(r"forget\.probability +↓ +0\.500 +0\.250", capsys.readouterr().out)


class TestPlan:
    def test_lines(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Lines of a plan are printed as they are, without markup and unwrapped."""
        line = "[train] " + "x" * 300
        print_plan([line, "b"])
        assert capsys.readouterr().out == f"{line}\nb\n"

    def test_tokens_without_colour(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Without colour, what carries loss stands in brackets, one pair a span."""
        print_tokens("row 0", [("Who?", False), (" A", True), ("da", True), ("\x1b[2J\n", False)])
        lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
        assert lines[:2] == ["row 0", "  Who?⟦ Ada⟧↵"]
