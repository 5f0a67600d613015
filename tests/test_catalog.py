"""The catalog: what it reads without importing, what it refuses, what it builds."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unlearn_cli import catalog
from unlearn_cli.catalog import hints
from unlearn_cli.catalog.source import paper, shared_options
from unlearn_cli.errors import PluginError, SpecError

Install = Callable[..., Path]

FADE = '''
    """A module that says on import that it was imported."""

    from dataclasses import dataclass, field
    from typing import Annotated, ClassVar, Literal

    from annotated_types import Gt, Interval

    from unlearn_cli.api import Location, MethodDefaults

    Mode = Literal["soft", "hard"]
    START = 3


    @dataclass(frozen=True)
    class Fade:
        """Fade an answer out,
        slowly.

        More about it.

        Source: Doe and Roe, Fading, 2024,
        arXiv:0000.00000, equation 2.

        Differences: none.
        """

        layers: tuple[int, ...]
        beta: Annotated[float, Gt(0)] = 0.5
        """Inverse
        temperature."""
        mode: Mode = "soft"  # how hard
        start: Annotated[int, Interval(ge=1, le=9)] = START
        words: Location | list[Location] | None = None
        weights: dict[str, float] = field(default_factory=dict)
        cache: int = field(default=0, init=False)

        defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=0.25, retain="kl")

        def forget_loss(self, forget, reference):
            return forget.token_logp
'''


@pytest.fixture
def fade(install: Install) -> catalog.Plugin:
    install("unlearn-extra", {"unlearn.methods": {"fade": "extra_fade:Fade"}}, extra_fade=FADE)
    return catalog.find("method", "fade")


def test_a_plugin_is_read_without_importing_it(fade: catalog.Plugin) -> None:
    """Summary, paper, requirements, defaults and origin come from metadata and source alone."""
    assert "extra_fade" not in sys.modules
    assert (fade.distribution, fade.version) == ("unlearn-extra", "1.2")
    assert fade.target == "extra_fade:Fade"
    assert fade.file is not None
    assert fade.file.name == "extra_fade.py"
    assert fade.summary == "Fade an answer out, slowly."
    assert fade.source == "Doe and Roe, Fading, 2024, arXiv:0000.00000, equation 2."
    assert fade.requires == ("forget", "reference")
    assert fade.defaults == {"gamma": 0.25, "alpha": 1.0, "retain": "kl", "parameters": ("*",)}
    assert fade.error == ""


def test_options_are_the_fields_that_a_constructor_takes(fade: catalog.Plugin) -> None:
    """Names, types for people, defaults, meaning; neither class variables nor init=False."""
    options = {option.name: option for option in fade.options}

    assert list(options) == ["layers", "beta", "mode", "start", "words", "weights"]
    assert options["layers"].required
    assert (options["beta"].type, options["beta"].default) == ("float > 0", 0.5)
    assert options["beta"].help == "Inverse temperature."
    assert (options["mode"].type, options["mode"].help) == ('"soft" | "hard"', "how hard")
    assert (options["start"].type, options["start"].default) == ("int >= 1, <= 9", 3)
    assert options["weights"].default == {}
    assert [name for name, option in options.items() if option.location] == ["words"]


@pytest.mark.parametrize(
    ("options", "problems"),
    [
        ({"layers": [1, 2]}, []),
        ({"layers": [], "beta": 1, "mode": "hard", "words": ["a"], "weights": {"a": 1.5}}, []),
        ({}, [("layers", "is missing; method fade needs it", "give tuple[int, ...]")]),
        (
            {"layers": [1], "bta": 1.0},
            [("bta", "method fade has no such option", "did you mean 'beta'?")],
        ),
        ({"layers": [1], "beta": 0}, [("beta", "must be float > 0, not 0", "")]),
        ({"layers": [1], "beta": True}, [("beta", "must be float > 0, not True", "")]),
        ({"layers": [1], "beta": float("nan")}, [("beta", "must be float > 0, not nan", "")]),
        (
            {"layers": [1], "mode": "sofd"},
            [("mode", """must be "soft" | "hard", not 'sofd'""", "did you mean 'soft'?")],
        ),
        ({"layers": 3, "start": 10}, [
            ("layers", "must be tuple[int, ...], not 3", ""),
            ("start", "must be int >= 1, <= 9, not 10", ""),
        ]),
    ],
)  # fmt: skip
def test_options_are_checked_without_importing(
    fade: catalog.Plugin, options: dict[str, Any], problems: list[tuple[str, str, str]]
) -> None:
    """All that is wrong is said at once, with what would work, before anything is imported."""
    found = catalog.check_options(fade, options)

    assert [(problem.key, problem.what, problem.hint) for problem in found] == problems
    assert "extra_fade" not in sys.modules


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        ("int", [1, -1], [1.0, True, "1", None]),
        ("float", [1, 1.5], [True, "1", float("inf"), None]),
        ("bool", [True], [1, "true"]),
        ("str | None", ["", None], [1]),
        ("Optional[int]", [1, None], ["1"]),
        ("typing.Union[int, str]", [1, "1"], [1.5]),
        ("Literal['a', 1]", ["a", 1], ["b", True, 2]),
        ("list[int]", [[], [1]], ["12", [1, "2"], 1]),
        ("tuple[int, str]", [[1, "a"]], [[1], ["a", 1], [1, "a", 2]]),
        ("dict[str, bool]", [{}, {"a": True}], [{"a": 1}, []]),
        ("Annotated[str, MinLen(2)]", ["ab"], ["a", 3]),
        ("Annotated[int, Field(gt=0, le=3)]", [1, 3], [0, 4]),
        ("Annotated[int, 'note', Ge(1)] | None", [1, None], [0]),
        ("Path", ["a/b"], [1]),
        ("Any", [1, None, []], []),
    ],
)
def test_annotations_are_understood_as_written(
    annotation: str, good: list[object], bad: list[object]
) -> None:
    """Each form of type accepts what TOML may give for it, and nothing of another type."""
    node = ast.parse(annotation, mode="eval").body

    assert [value for value in good if not hints.fits(node, value)] == []
    assert [value for value in bad if hints.fits(node, value)] == []


def test_what_is_not_understood_is_left_to_the_import() -> None:
    """A type of the plugin's own passes the static check, which never guesses."""
    option = catalog.Option("x", "Colour", "Colour | None", required=True)
    plugin = catalog.Plugin("method", "m", "m:M", "d", "1", options=(option,))

    assert catalog.check_options(plugin, {"x": 12}) == []


def test_build_takes_what_toml_gives(fade: catalog.Plugin) -> None:
    """Arrays become tuples, whole numbers floats; what is not given has its default."""
    made = catalog.build("method", fade.name, {"layers": [1, 2], "beta": 2})

    assert made.layers == (1, 2)
    assert made.beta == 2.0
    assert made.mode == "soft"


def test_build_names_every_option_that_does_not_fit(fade: catalog.Plugin) -> None:
    """One problem for each: unknown, missing, of a wrong type, out of range, not finite."""
    wrong = {"bta": 1, "beta": float("nan"), "mode": 3, "start": 0}

    with pytest.raises(SpecError) as caught:
        catalog.build("method", fade.name, wrong)

    places = {problem.where for problem in caught.value.problems}
    assert places == {f"method fade.{key}" for key in ["layers", "bta", "beta", "mode", "start"]}


def test_an_unknown_name_is_answered_with_a_close_one() -> None:
    """A typo gets the name that was meant."""
    with pytest.raises(PluginError, match=r"no method 'simnpoo'; did you mean 'simnpo'\?"):
        catalog.find("method", "simnpoo")


def test_a_name_claimed_twice_is_an_error_when_used(install: Install) -> None:
    """Both distributions are named, both stay listed, and `name@distribution` picks one."""
    install("unlearn-extra", {"unlearn.methods": {"npo": "extra_fade:Fade"}}, extra_fade=FADE)

    with pytest.raises(PluginError, match="claimed by") as caught:
        catalog.load("method", "npo")
    listed = [plugin for plugin in catalog.plugins("method") if plugin.name == "npo"]

    assert "npo@unlearn-extra" in caught.value.hint
    assert "npo@unlearn-cli" in caught.value.hint
    assert sorted(plugin.distribution for plugin in listed) == ["unlearn-cli", "unlearn-extra"]
    assert all("claimed by" in plugin.error for plugin in listed)
    assert catalog.load("method", "npo@Unlearn_Extra").__name__ == "Fade"


@pytest.mark.parametrize(
    ("target", "text", "reason"),
    [
        ("extra_gone:X", "", "there is no module extra_gone"),
        ("extra_bad:X", "class X(:", "cannot be read"),
        ("extra_bad:X", "class Y: pass", "defines no class 'X'"),
    ],
)
def test_a_plugin_that_cannot_be_read_is_listed_with_its_error(
    install: Install, target: str, text: str, reason: str
) -> None:
    """It stands in the list beside the others, and using it is an error that names it."""
    install("unlearn-extra", {"unlearn.methods": {"bad": target}}, extra_bad=text)

    listed = {plugin.name: plugin for plugin in catalog.plugins("method")}
    with pytest.raises(PluginError, match=r"unlearn-extra 1\.2 is broken"):
        catalog.load("method", "bad")

    assert reason in listed["bad"].error
    assert listed["npo"].error == ""


def test_an_import_that_fails_names_distribution_module_and_exception(install: Install) -> None:
    """The user learns whose fault it is and what the exception said."""
    text = "import no_such_library\nclass X: pass"
    install("unlearn-extra", {"unlearn.methods": {"bad": "extra_bad2:X"}}, extra_bad2=text)

    with pytest.raises(PluginError) as caught:
        catalog.load("method", "bad")

    line = caught.value.line()
    assert line.startswith("extra_bad2: ")
    assert "unlearn-extra 1.2" in line
    assert "ModuleNotFoundError: No module named 'no_such_library'" in line


def test_a_package_on_the_way_is_not_imported(install: Install) -> None:
    """The file of a nested module is found although its package raises on import."""
    folder = install("unlearn-extra", {"unlearn.methods": {"deep": "extra_pkg.inner.deep:Deep"}})
    inner = folder / "extra_pkg" / "inner"
    inner.mkdir(parents=True)
    (folder / "extra_pkg" / "__init__.py").write_text("raise RuntimeError('heavy')")
    (inner / "__init__.py").touch()
    (inner / "deep.py").write_text('class Deep:\n    """Deep down."""\n')

    found = catalog.find("method", "deep")

    assert found.summary == "Deep down."
    assert found.file == inner / "deep.py"


def test_fields_of_a_base_class_count_when_it_can_be_read(install: Install) -> None:
    """A base in the same module adds its options; one elsewhere leaves the list open."""
    text = """
        from dataclasses import dataclass
        from elsewhere import Other

        @dataclass
        class Base:
            a: int = 1

        @dataclass
        class Near(Base):
            b: int = 2

        @dataclass
        class Far(Other):
            c: int = 3
    """
    targets = {"near": "extra_bases:Near", "far": "extra_bases:Far"}
    install("unlearn-extra", {"unlearn.metrics": targets}, extra_bases=text)
    near, far = catalog.find("metric", "near"), catalog.find("metric", "far")

    assert [option.name for option in near.options] == ["a", "b"]
    assert [p.key for p in catalog.check_options(near, {"c": 1})] == ["c"]
    assert catalog.check_options(far, {"anything": 1}) == []


def test_shared_options_are_those_of_the_api() -> None:
    """gamma, alpha and retain are read from `api.MethodDefaults` with their published defaults."""
    found = {option.name: option.default for option in shared_options()}

    assert found == {"gamma": 1.0, "alpha": 1.0, "retain": "nll", "parameters": ("*",)}


def test_paper_is_empty_where_the_docstring_names_none() -> None:
    """No `Source:` line, no paper."""
    assert paper("A method.\n\nThe Source: of all.") == ""


@pytest.mark.parametrize("kind", catalog.KINDS)
def test_everything_that_ships_is_whole(kind: catalog.Kind) -> None:
    """Our plugins can be read, say what they are, and are named like their module."""
    ours = [plugin for plugin in catalog.plugins(kind) if plugin.distribution == "unlearn-cli"]

    assert ours
    assert {plugin.name: plugin.error for plugin in ours if plugin.error} == {}
    assert [plugin.name for plugin in ours if not plugin.summary] == []
    assert [p.name for p in ours if p.file is None or p.file.stem != p.name] == []
    assert [f"{p.name}.{o.name}" for p in ours for o in p.options if not o.help] == []
