"""No token leaves the process, and no text of others steers a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn_cli.api.evaluate import Number, Table
from unlearn_cli.cli import main
from unlearn_cli.environment import refuse_endpoint
from unlearn_cli.errors import RunError, UsageError
from unlearn_cli.evaluations import Evaluation, Generated
from unlearn_cli.events import Notice, RunFinished, Sample
from unlearn_cli.files import write_atomically
from unlearn_cli.runs import RunFolder
from unlearn_cli.safe_text import HIDDEN, clean, redact, without_own

TOKEN = "hf-made-up-0123456789"  # noqa: S105 - what must not be found again
HOSTILE = (
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\",
    "\x9b2J",
    "\u202eesrever",
    "\u2066isolate\u2069",
    "\x08\x08over",
    "\rline",
)
STEERING = {chr(code) for code in (*range(32), *range(127, 160))} - {"\n", "\t"} | {
    *"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
}


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return TOKEN


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"bearer {TOKEN}!", f"bearer {HIDDEN}!"),
        ("hf_abcdefghijklmnopqrstuvwxyz", HIDDEN),
        ("https://user:secret@host/x", f"https://{HIDDEN}@host/x"),
        ("https://user:p@ss@host/x", f"https://{HIDDEN}@host/x"),
        ("https://user:tok/en?#@host/x", f"https://{HIDDEN}@host/x"),
        ('"https://a:b/c@host" "d@e"', f'"https://{HIDDEN}@host" "d@e"'),
        ("hf_oauth_eyJhbGciOi.eyJzdWIi_x.s-1.", f"{HIDDEN}."),
        ("models/hf_llama_finetuned_on_news", "models/hf_llama_finetuned_on_news"),
        ("git+ssh://git@host:22/x", f"git+ssh://{HIDDEN}@host:22/x"),
        ("https://host/a@b", "https://host/a@b"),
        ("mail a@b.org, hf_token, npo@unlearn-extra", "mail a@b.org, hf_token, npo@unlearn-extra"),
    ],
)
def test_redact(token: str, text: str, expected: str) -> None:
    """This process's token, a token of the hub by its shape, credentials of a URL; nothing else."""
    assert redact(text) == expected


def test_the_token_that_a_login_stored_is_one_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`HF_HOME/token`, or the file that `HF_TOKEN_PATH` names."""
    (tmp_path / "token").write_text("stored-in-a-file\n")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert redact("has stored-in-a-file") == f"has {HIDDEN}"
    (tmp_path / "other").write_text("stored-elsewhere")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "other"))
    assert redact("stored-in-a-file stored-elsewhere") == f"stored-in-a-file {HIDDEN}"


def test_a_login_is_found_where_the_hub_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `HF_HOME` below `XDG_CACHE_HOME`, and variables within paths are filled in."""
    for name in ("HF_HOME", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "huggingface").mkdir()
    (tmp_path / "huggingface" / "token").write_text("stored-in-a-file")
    assert redact("has stored-in-a-file") == f"has {HIDDEN}"
    monkeypatch.setenv("HF_HOME", "$XDG_CACHE_HOME/other")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "token").write_text("stored-elsewhere")
    assert redact("stored-in-a-file stored-elsewhere") == f"stored-in-a-file {HIDDEN}"


LOGGING = """
import logging, sys, warnings
from unlearn_cli.cli import main

try:
    main(["--version"])
except SystemExit:
    pass
library = logging.getLogger("library")
library.addHandler(logging.StreamHandler())  # a handler of its own, as the hub's library has
library.warning("HEAD %s \x1b[31m", "http://user:{mark}@host/x")
library.warning("two %s %s", "http://user:{mark}@host/x")
warnings.warn("http://user:{mark}@host/x")
try:
    raise ValueError("http://user:{mark}@host/x")
except ValueError:
    library.exception("raised")
"""


def test_libraries_log_and_warn_of_no_token() -> None:
    """What a library says by itself: in a message, in one whose values do not fit, in a traceback,
    in a warning."""
    code = LOGGING.format(mark="made-up-secret")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"HEAD http://{HIDDEN}@host/x" in done.stderr
    assert f"UserWarning: http://{HIDDEN}@host/x" in done.stderr
    assert f"ValueError: http://{HIDDEN}@host/x" in done.stderr
    assert "two %s %s" in done.stderr
    assert "made-up-secret" not in done.stderr
    assert not STEERING & {*done.stderr}


@pytest.mark.parametrize("sign", "/?#")
def test_an_address_of_the_hub_that_is_none_is_one_line(
    sign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its library would raise, and show a part of the password, which it takes for a port."""
    monkeypatch.setenv("HF_ENDPOINT", f"https://user:made-up{sign}secret@host")
    with pytest.raises(UsageError, match="HF_ENDPOINT: is no address of a hub") as caught:
        refuse_endpoint()
    assert "made-up" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("good", ["", "https://host", "http://user:a%2Fb@host:8080/hub"])
def test_other_addresses_are_left_to_the_hub(good: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that its library would take is refused."""
    monkeypatch.setenv("HF_ENDPOINT", good)
    refuse_endpoint()


def test_what_is_too_short_is_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token of one letter would take every such letter out of every file."""
    monkeypatch.setenv("HF_TOKEN", "e")
    assert redact("every letter") == "every letter"


def test_errors_hold_no_token(token: str) -> None:
    """Not in their line, not in their parts, not in what Python shows of them."""
    error = RunError(f"no {token}", where=f"https://u:{token}@host", hint=f"set {token}")
    shown = "".join(traceback.format_exception_only(error))
    assert TOKEN not in error.line() + repr(error) + shown + repr(vars(error))


def test_files_of_a_run_hold_no_token(token: str, tmp_path: Path) -> None:
    """Spec, manifest, log and whatever else is written whole."""
    run = RunFolder.create(tmp_path / "run", f'name = "x"\nrevision = "{token}"\n')
    run.update_manifest(error=f"https://me:pass@host and {token}")
    run.append_event(Notice(f"with {token}"))
    write_atomically(run.report, f"<p>{token}</p>")
    for path in run.folder.iterdir():
        assert TOKEN not in path.read_text("utf-8")
        assert "me:pass" not in path.read_text("utf-8")
    assert run.manifest["error"] == f"https://{HIDDEN}@host and {HIDDEN}"


def test_what_models_say_is_kept(tmp_path: Path) -> None:
    """A leaked password that a model repeats is a result: hiding it would hide a failure."""
    said = "log in at https://admin:hunter2@host"
    table = Table({}, {"forget.probability": Number(0.5, "lower")})
    sample = Generated("forget", "a", "How?", said, said)
    run = RunFolder.create(tmp_path / "run", 'name = "x"\n')
    run.write_evaluation(
        Evaluation("tofu", "unlearned", 1, table, "m", "d", samples=(sample,)),
    )
    run.append_event(RunFinished("x", "y", "z", 1.0, (Sample("How?", said, said, said),)))
    assert run.evaluations()[0].samples[0].generation == said
    assert run.events()[0]["samples"][0]["after"] == said


def test_error_lines_can_neither_steer_nor_tell(
    token: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The names of a user's files stand in errors: cleaned on the way to the terminal."""
    for hostile in HOSTILE:
        with pytest.raises(SystemExit):
            main(["check", f"{hostile}-{token}.toml"])
        with pytest.raises(SystemExit):
            main(["report", f"{hostile}-{token}"])
        with pytest.raises(SystemExit):
            main(["check", "--json", f"--no-{hostile}{token}"])
        out, err = capsys.readouterr()
        assert not STEERING & {*out, *err}
        assert TOKEN not in out + err


def test_a_bug_tells_no_token(
    token: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The traceback of an exception that nobody foresaw is redacted as well."""

    def broken(*_: Any) -> None:
        raise ValueError(f"\x1b[31m https://u:{token}@host")

    monkeypatch.setattr("unlearn_cli.cli._add_plugin_commands", broken)
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    err = capsys.readouterr().err
    assert left.value.code == 1
    assert "this is a bug" in err
    assert TOKEN not in err
    assert not STEERING & {*err}


@given(st.text() | st.lists(st.sampled_from([*HOSTILE, "a", " "])).map("".join))
def test_clean_leaves_nothing_that_steers(text: str) -> None:
    """Whatever stands in a text: no control, no bidi character, no line break is left."""
    assert not (STEERING | {"\n", "\t"}) & {*clean(text)}
    assert not STEERING & {*clean(text, keep_newlines=True)}


@pytest.mark.parametrize("begin", ["\x1b]", "\x1bP", "\x9d", "\x90"])
def test_what_has_no_end_hides_nothing(begin: str) -> None:
    """An operating system command or its like that is left open would take the rest of a line with
    it, of an error's too; one that ends is gone as a whole."""
    assert clean(f"a{begin}0;b.toml: is wrong") == "a0;b.toml: is wrong"
    assert clean(f"a{begin}0;b\x07c{begin}d\x1b\\e") == "ace"
    assert clean(begin * 200_000 + "a") == "a"


@given(st.text())
def test_a_token_is_never_left_in_part(text: str) -> None:
    """Wherever it stands, as often as it stands there."""
    before = os.environ.get("HF_TOKEN")
    os.environ["HF_TOKEN"] = TOKEN
    try:
        assert TOKEN not in without_own(text + TOKEN + text + TOKEN)
        assert json.loads(redact(json.dumps({"a": text + TOKEN})))["a"].endswith(HIDDEN)
    finally:
        del os.environ["HF_TOKEN"]
        if before:
            os.environ["HF_TOKEN"] = before
