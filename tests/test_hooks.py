"""Hooks: the documented examples, any subset of arguments, a broken plugin beside working ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from unlearn_cli import hooks
from unlearn_cli.cli.result import write
from unlearn_cli.cli.run import load_to_run
from unlearn_cli.errors import PluginError, SpecError
from unlearn_cli.events import Event, Notice, RunFinished
from unlearn_cli.runs import RunFolder
from unlearn_cli.spec.load import dump_spec, load_spec

Install = Callable[..., Path]
SPEC = load_spec("quickstart", ["method.name=npo"])


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Each test finds the plugins anew."""
    hooks.loaded.cache_clear()
    yield
    hooks.loaded.cache_clear()


@dataclass
class Collected:
    """Warnings, in order."""

    lines: list[str]

    def __call__(self, problem: PluginError) -> None:
        self.lines.append(problem.line())


def unexpected(problem: PluginError) -> None:
    pytest.fail(problem.line())


def seen_by(plugin: str) -> list[Event]:
    """What the test's plugin wrote down."""
    module = hooks.manager().get_plugin(plugin)
    assert module is not None
    return list(module.seen)


def module(body: str) -> str:
    return f"from unlearn_cli.hooks import hookimpl\n\nseen = []\n\n{body}\n"


GOOD = module("@hookimpl\ndef run_event(event):\n    seen.append(event)")


def example(hook: str) -> str:
    """The code in the documentation of a hook: what is indented behind the prose."""
    return cleandoc(getattr(hooks.Hooks, hook).__doc__).partition("\n\n    ")[2]


@pytest.fixture
def documented(install: Install) -> None:
    """A plugin for every hook, each with the code of that hook's documentation."""
    specified = [name for name in vars(hooks.Hooks) if not name.startswith("_")]
    assert specified == ["register_commands", "run_event", "change_spec", "report_sections"]
    assert [name for name in specified if "@hookimpl" not in example(name)] == []
    for name in specified:
        install(f"unlearn-{name}", {"unlearn": {name: name}}, **{name: f"    {example(name)}"})


@pytest.mark.usefixtures("documented")
def test_the_documented_command_is_there() -> None:
    """What stands under `register_commands` adds a command that greets."""
    group = click.Group()
    hooks.call("register_commands", unexpected, cli=group)
    result = CliRunner().invoke(group, ["hello"])

    assert (result.exit_code, result.output) == (0, "hello\n")


@pytest.mark.usefixtures("documented")
def test_the_documented_notifier_tells_of_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands under `run_event` writes one line a finished run, and none on other events."""
    monkeypatch.chdir(tmp_path)
    listen = hooks.watcher(unexpected)
    listen(Notice("hello"))
    assert not Path("finished.txt").exists()
    for name in ("a", "b"):
        listen(RunFinished("forgotten", "", f"runs/{name}", 1.0))

    assert Path("finished.txt").read_text() == "runs/a forgotten\nruns/b forgotten\n"


@pytest.mark.usefixtures("documented")
def test_the_documented_change_is_in_the_spec() -> None:
    """What stands under `change_spec` sends runs to a folder of their method."""
    assert hooks.change_spec(SPEC).output.folder == "runs-of-npo"


@pytest.mark.usefixtures("documented")
def test_the_documented_section_is_in_the_report(tmp_path: Path) -> None:
    """What stands under `report_sections` is a part of the page, with the run's name escaped."""
    run = RunFolder.create(tmp_path / "a<b", 'name = "a"')
    page = write(run).read_text(encoding="utf-8")

    assert "Approval" in page
    assert "<p>To be approved: a&lt;b</p>" in page


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import no_such_library", "No module named 'no_such_library'"),
        (module("@hookimpl\ndef run_evnt(event): ..."), "unknown hook 'run_evnt'"),
        (module("@hookimpl\ndef run_event(evnt): ..."), "evnt"),
        ("raise SystemExit(0)", "SystemExit: 0"),
    ],
)
def test_a_broken_plugin_is_a_problem_and_the_rest_works(
    install: Install, text: str, reason: str
) -> None:
    """A failing import, an unknown hook and an unknown argument are named; others are called."""
    install("unlearn-bad", {"unlearn": {"bad": "hooks_bad"}}, hooks_bad=text)
    install("unlearn-good", {"unlearn": {"good": "hooks_good"}}, hooks_good=GOOD)
    event = Notice("hello")

    hooks.watcher(unexpected)(event)

    assert len(hooks.problems()) == 1
    assert "plugin 'bad' of unlearn-bad 1.2" in hooks.problems()[0].line()
    assert reason in hooks.problems()[0].line()
    assert seen_by("good") == [event]
    assert not hooks.manager().has_plugin("bad")


@pytest.mark.parametrize(
    ("raised", "told"),
    [("OSError('no disk')", "OSError: no disk"), ("SystemExit(0)", "SystemExit: 0")],
)
def test_a_watcher_that_raises_is_named_once_and_left_out(
    install: Install, raised: str, told: str
) -> None:
    """The run goes on, the other watchers see every event, and the failure is said one time."""
    text = module(f"@hookimpl\ndef run_event(event):\n    seen.append(event)\n    raise {raised}")
    install("unlearn-bad", {"unlearn": {"bad": "hooks_bad"}}, hooks_bad=text)
    install("unlearn-good", {"unlearn": {"good": "hooks_good"}}, hooks_good=GOOD)
    warnings = Collected([])
    events: list[Event] = [Notice("one"), Notice("two")]

    listen = hooks.watcher(warnings)
    for event in events:
        listen(event)

    assert warnings.lines == [f"plugin 'bad' failed in run_event: {told}"]
    assert seen_by("bad") == events[:1]
    assert seen_by("good") == events


def test_specs_are_changed_one_after_the_other(install: Install) -> None:
    """Each plugin gets what the one before it returned; None leaves the spec as it is."""
    doubles = module(
        "@hookimpl\ndef change_spec(spec):\n"
        "    return spec.model_copy(update={'seed': 2 * spec.seed + 1})"
    )
    silent = module("@hookimpl\ndef change_spec(): ...")
    install("unlearn-one", {"unlearn": {"one": "hooks_one"}}, hooks_one=doubles)
    install("unlearn-two", {"unlearn": {"two": "hooks_two"}}, hooks_two=doubles)
    install("unlearn-none", {"unlearn": {"none": "hooks_none"}}, hooks_none=silent)

    before = SPEC.seed
    assert hooks.change_spec(SPEC).seed == 2 * (2 * before + 1) + 1
    assert SPEC.seed == before


def changing(install: Install, body: str) -> None:
    """Install a plugin whose `change_spec` has this body."""
    text = module(f"@hookimpl\ndef change_spec(spec):\n    {body}")
    install("unlearn-bad", {"unlearn": {"bad": "hooks_bad"}}, hooks_bad=text)


@pytest.mark.parametrize(
    ("raised", "told"), [("KeyError('x')", "KeyError: 'x'"), ("SystemExit(0)", "SystemExit: 0")]
)
def test_a_failing_change_of_the_spec_stops_the_run(
    install: Install, raised: str, told: str
) -> None:
    """What the plugin wanted is unknown, so nothing may run without it."""
    changing(install, f"raise {raised}")

    with pytest.raises(PluginError, match=f"plugin 'bad' failed in change_spec: {told}"):
        hooks.change_spec(SPEC)


def copy(change: str) -> str:
    return f"return spec.model_copy(update={change})"


TRAIN = "{'train': spec.train.model_copy(update=%s)}"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return {'seed': 1}", "returned {'seed': 1} from change_spec; return a Spec"),
        ("return spec, None", "from change_spec; return a Spec"),
        (copy("{'name': '../../x'}"), "name: must be text in quotes of letters"),
        (copy("{'train': {'batch_size': 2}}"), "Expected `TrainTable`"),
        (
            copy(TRAIN % "{'batch_size': -3}"),
            "[train].batch_size: must be a whole",
        ),
        (copy(TRAIN % "{'steps': 4}"), "[train].steps: given together with epochs"),
        (copy("{'method': spec.method.model_copy(update={'beta': -1.0})}"), "[method].beta: must"),
    ],
)
def test_a_changed_spec_is_checked_as_one_that_is_read(
    install: Install, body: str, told: str
) -> None:
    """`model_copy` checks nothing: what does not fit is one line that names plugin and key."""
    changing(install, body)

    with pytest.raises((PluginError, SpecError)) as caught:
        hooks.change_spec(SPEC)
    assert "plugin 'bad'" in str(caught.value)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_method_that_a_plugin_chose_gets_its_defaults(install: Install) -> None:
    """As if the spec had named it: the retain term is the one that the method sets."""
    other = "from unlearn_cli.spec.tables import MethodTable; "
    changing(install, other + copy("{'method': MethodTable(name='kl_min')}"))

    assert hooks.change_spec(SPEC) == load_spec("quickstart", ["method.name=kl_min"])


def test_the_spec_of_a_run_is_not_changed_again(install: Install, tmp_path: Path) -> None:
    """The command that an interrupted run names resumes that run, also where a change that is made
    twice gives another; a spec elsewhere is changed, whatever it is called."""
    changing(install, copy("{'seed': spec.seed + 1}"))
    run = RunFolder.create(tmp_path / "run", dump_spec(SPEC))
    other = tmp_path / "spec.toml"
    other.write_text(dump_spec(SPEC), encoding="utf-8")

    def seed(file: Path) -> int:
        return load_to_run(str(file), (), seed=None, trusted=False).seed

    assert (seed(run.spec), seed(other)) == (SPEC.seed, SPEC.seed + 1)


@pytest.mark.parametrize(
    "returned",
    ["('Title', '<p>')", "[('Title', '<p>', 1)]", "[('Title', None)]", "'<p>'", "{'a': 'b'}", "7"],
)
def test_what_is_no_section_is_left_out_of_the_report(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str], returned: str
) -> None:
    """The report is written without it, and a warning names the plugin."""
    text = module(f"@hookimpl\ndef report_sections(run):\n    return {returned}")
    install("unlearn-bad", {"unlearn": {"bad": "hooks_bad"}}, hooks_bad=text)

    assert write(RunFolder.create(tmp_path / "a", 'name = "a"')).is_file()
    (line,) = capsys.readouterr().err.splitlines()
    assert "warning: plugin 'bad' failed in report_sections" in line
    assert "which is no list of (title, HTML)" in line


def test_call_collects_what_plugins_return(install: Install) -> None:
    """One entry for each plugin that answers; one that raises is reported and skipped."""
    one = module("@hookimpl\ndef report_sections():\n    return [('Title', '<p>text</p>')]")
    bad = module("@hookimpl\ndef report_sections(run):\n    return run.nothing")
    install("unlearn-one", {"unlearn": {"one": "hooks_one"}}, hooks_one=one)
    install("unlearn-bad", {"unlearn": {"bad": "hooks_bad"}}, hooks_bad=bad)
    warnings = Collected([])

    assert hooks.call("report_sections", warnings, run=None) == [[("Title", "<p>text</p>")]]
    assert len(warnings.lines) == 1
    assert "plugin 'bad' failed in report_sections: AttributeError" in warnings.lines[0]


def test_without_plugins_nothing_happens() -> None:
    """The spec passes through, events go nowhere, and there is no problem."""
    hooks.watcher(unexpected)(Notice("alone"))

    assert hooks.change_spec(SPEC) is SPEC
    assert hooks.problems() == ()
