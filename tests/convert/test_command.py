"""Scripts of a shell: the one command in them, and nothing of what the shell does."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.convert.test_convert import spec_of
from unlearn_cli.convert import convert
from unlearn_cli.convert.command import words_of
from unlearn_cli.errors import UsageError


def test_a_script_is_one_command_of_several_lines() -> None:
    """Backslashes continue, comments go; two commands are no spec."""
    text = "# a comment\npython src/train.py \\\n  experiment=unlearn/tofu/default \\\n  a='b c'\n"

    assert words_of(text) == [
        "python",
        "src/train.py",
        "experiment=unlearn/tofu/default",
        "a=b c",
    ]
    for between in ("\n", " && ", "; ", " & "):
        with pytest.raises(UsageError, match="2 commands"):
            words_of(f"python src/train.py a=1{between}python src/eval.py b=2\n")
    with pytest.raises(UsageError, match="no shell command"):
        words_of("python src/train.py 'a")


@pytest.mark.parametrize(
    "script",
    [
        "{} > log.txt 2>&1",
        "nohup {} &",
        "{} 2> errors.txt | tee log",
        "cd open-unlearning && {}; echo done",
        "export CUDA_VISIBLE_DEVICES=0\nset -e\n{} >>log\necho done",
    ],
)
def test_what_the_shell_does_with_a_command_is_left_out(script: str) -> None:
    """Where its output goes, and what stands before and after, are no overrides."""
    words = words_of(script.format("python src/train.py experiment=unlearn/tofu/default"))

    assert words[-3:] == ["python", "src/train.py", "experiment=unlearn/tofu/default"]


def test_devices_that_a_script_sets_before_share_the_batch(tmp_path: Path) -> None:
    """8 rows x 4 accumulated x 3 devices, set in a line of its own."""
    text = "export CUDA_VISIBLE_DEVICES=0,1,2\npython src/train.py experiment=unlearn/tofu/default"

    assert spec_of(convert(words_of(text)), tmp_path).train.batch_size == 96


@given(st.text())
def test_any_script_has_words_or_an_error(text: str) -> None:
    """A file may hold anything."""
    with suppress(UsageError):
        assert all(isinstance(word, str) for word in words_of(text))
