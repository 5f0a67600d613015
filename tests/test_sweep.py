"""What a sweep will run, and what becomes of it when runs fail or are interrupted."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from unlearn_cli.errors import SpecError, UnlearnError, UsageError
from unlearn_cli.files import is_name
from unlearn_cli.runs import RunFolder
from unlearn_cli.spec.tables import DataTable, EvaluateTable, MethodTable, Name, OutputTable, Spec
from unlearn_cli.sweep import (
    Range,
    Variant,
    parse_grid,
    parse_range,
    points,
    variant_name,
    variants,
)


def loader(folder: Path, *bad: str) -> Callable[[Sequence[str], int | None], Spec]:
    """Loads a spec that has the flags as its method's options; a flag in `bad` is refused."""

    def load(flags: Sequence[str], seed: int | None) -> Spec:
        if problems := [UnlearnError("is bad", where=flag) for flag in flags if flag in bad]:
            raise SpecError(problems)
        options: dict[str, Any] = {f"option{n}": flag for n, flag in enumerate(flags)}
        return Spec(
            name="tiny",
            seed=seed or 0,
            data=DataTable(),
            method=MethodTable(name="npo", **options),
            evaluate=(EvaluateTable(evaluator="tofu"),),
            output=OutputTable(folder=str(folder)),
        )

    return load


@pytest.fixture
def planned(tmp_path: Path) -> tuple[Path, list[Variant]]:
    """Three runs: b = 1, 2, 3."""
    return variants(loader(tmp_path), [{"method.b": b} for b in "123"], [None], None)


keys = st.lists(st.text(min_size=1), min_size=1, max_size=3).map(".".join)


@given(st.dictionaries(keys | st.just("method.name"), st.text(), max_size=3))
def test_the_name_of_a_run_is_a_name(point: dict[str, str]) -> None:
    """Whatever is varied, over whatever values: one folder in that of the sweep."""
    assert is_name(variant_name(point, 0))
    assert TypeAdapter(Name).validate_python(variant_name(point, 0))


@given(st.text() | st.sampled_from(["../x", "/x", "..", "x/y", "x\n", "x\0"]))
def test_what_names_a_run_is_the_same_everywhere(text: str) -> None:
    """The spec's `name` and the check of names in folders agree, and no name is a path."""
    try:
        TypeAdapter(Name).validate_python(text)
    except ValidationError:
        assert not is_name(text)
    else:
        assert is_name(text)
        assert (Path("runs") / text).parent == Path("runs")


class TestFlags:
    def test_a_grid(self) -> None:
        """Values part at commas, but not at those in lists and quotes; twice the same is once."""
        assert parse_grid("method.beta=0.05, 0.1,0.1") == ("method.beta", ["0.05", "0.1"])
        assert parse_grid('a.b=[1,2],"x,y"') == ("a.b", ["[1,2]", '"x,y"'])

    @pytest.mark.parametrize("text", ["beta", "=1", "method.beta=", "method.beta=1,,2"])
    def test_a_grid_of_another_form(self, text: str) -> None:
        """One line that names the flag."""
        with pytest.raises(UsageError, match=f"--grid {text}"):
            parse_grid(text)

    def test_what_makes_no_other_experiment(self) -> None:
        """Micro-batches never change a result: there is nothing to compare."""
        with pytest.raises(UsageError, match="makes no other experiment"):
            parse_grid("train.micro_batch=1,2")

    @pytest.mark.parametrize("key", ["seed", "name", "output.folder"])
    def test_what_a_sweep_sets_itself(self, key: str) -> None:
        """Names, folders and seeds are not options to vary."""
        with pytest.raises(UsageError, match="a sweep sets"):
            parse_grid(f"{key}=1,2")

    def test_a_range(self) -> None:
        """Whole where both ends are; logarithmic on request."""
        assert parse_range("a.b=1:10") == Range("a.b", 1, 10, log=False, whole=True)
        assert parse_range("a.b=1e-2:1:log") == Range("a.b", 0.01, 1, log=True, whole=False)

    @pytest.mark.parametrize("text", ["a=1", "a=x:1", "a=2:1", "a=0:1:log", "a=0:inf", "a=1:2:lin"])
    def test_a_range_that_cannot_be(self, text: str) -> None:
        """One line that names the flag."""
        with pytest.raises(UsageError, match=f"--range {text}"):
            parse_range(text)

    def test_a_logarithmic_draw(self) -> None:
        """Half of the draws from 0.01 to 1 lie below 0.1, the middle of the logarithms."""
        generator = random.Random(3)
        a_range = parse_range("a=0.01:1:log")
        drawn = [float(a_range.draw(generator)) for _ in range(2000)]
        assert all(0.01 <= value <= 1 for value in drawn)
        assert sum(value < 0.1 for value in drawn) / 2000 == pytest.approx(0.5, abs=0.05)

    def test_a_whole_draw(self) -> None:
        """Every whole number of the range is drawn, as a whole number, and no other."""
        generator = random.Random(3)
        assert {parse_range("a=1:3").draw(generator) for _ in range(200)} == {"1", "2", "3"}


class TestPoints:
    def test_a_grid_is_every_combination(self) -> None:
        """Two keys of two values are four points, the last key fastest."""
        found = points([("a", ["1", "2"]), ("b", ["x", "y"])], [], 0)
        assert found == [
            {"a": "1", "b": "x"},
            {"a": "1", "b": "y"},
            {"a": "2", "b": "x"},
            {"a": "2", "b": "y"},
        ]

    def test_more_draws_begin_with_the_same(self) -> None:
        """A sweep that is extended does not run another sweep; each grid point has each draw."""
        ranges = [parse_range("b=0.0:1.0"), parse_range("c=1:9")]
        few, many = (points([("a", ["1"])], ranges, n) for n in (2, 5))
        assert few == many[:2]
        assert len(many) == 5

    def test_draws_differ(self) -> None:
        """Of three whole numbers three draws are all of them; a fourth there is not."""
        found = points([], [parse_range("b=1:3")], 3)
        assert sorted(point["b"] for point in found) == ["1", "2", "3"]
        with pytest.raises(UsageError, match="b: there are no 4 different draws"):
            points([], [parse_range("b=1:3")], 4)

    def test_a_key_twice(self) -> None:
        """A key that is varied twice has no one value."""
        with pytest.raises(UsageError, match="varied twice: a"):
            points([("a", ["1"])], [parse_range("a=1:2")], 1)


class TestVariants:
    def test_names_say_what_is_varied(self) -> None:
        """Short keys where they are unique, the method by its name, nothing a path cannot hold."""
        assert variant_name({"method.name": "npo", "method.beta": "1e-05"}, 1) == (
            "npo_beta-1e-05_seed-1"
        )
        assert variant_name({"train.epochs": "1", "target.epochs": "2"}, 0) == (
            "train.epochs-1_target.epochs-2_seed-0"
        )
        assert variant_name({"model.path": "'../x y'"}, 0) == "path--..-x-y-_seed-0"

    def test_all_runs_of_all_seeds(self, tmp_path: Path) -> None:
        """Each point with each seed, in folders below the sweep's, which has the spec's name."""
        folder, found = variants(loader(tmp_path), [{"b": "1"}, {"b": "2"}], [0, 7], None)
        assert folder == tmp_path / "tiny-sweep"
        assert [(v.name, v.spec.seed) for v in found] == [
            ("b-1_seed-0", 0),
            ("b-1_seed-7", 7),
            ("b-2_seed-0", 0),
            ("b-2_seed-7", 7),
        ]
        assert found[0].folder == folder / "b-1_seed-0"
        assert 'name = "b-1_seed-0"' in found[0].toml

    def test_one_run_twice(self, tmp_path: Path) -> None:
        """Values that are written otherwise and mean the same are one run, and refused as such."""

        def load(flags: Sequence[str], seed: int | None) -> Spec:
            return loader(tmp_path)([f"b={float(flag.split('=')[1])}" for flag in flags], seed)

        with pytest.raises(UsageError, match=r"one and the same run: b-1_seed-0, b-1.0_seed-0"):
            variants(load, [{"b": "1"}, {"b": "1.0"}], [None], None)

    def test_seeds_that_are_added_later_find_the_first(self, tmp_path: Path) -> None:
        """A run of the spec's own seed has the name that it has among several."""
        (alone,) = variants(loader(tmp_path), [{"b": "1"}], [None], None)[1]
        first, _ = variants(loader(tmp_path), [{"b": "1"}], [0, 1], None)[1]
        assert first.folder == alone.folder

    def test_all_problems_at_once(self, tmp_path: Path) -> None:
        """What is wrong with any run is said before one runs, each thing once."""
        load = loader(tmp_path, "b=2", "b=3")
        with pytest.raises(SpecError) as raised:
            variants(load, [{"b": b} for b in "123"], [0, 1], None)
        assert [problem.where for problem in raised.value.problems] == ["b=2", "b=3"]

    def test_another_run_under_the_same_name(self, planned: tuple[Path, list[Variant]]) -> None:
        """A folder that holds a run of another spec is refused, naming the key that differs."""
        folder, (first, *_) = planned
        RunFolder.create(first.folder, first.toml.replace("epochs = 5.0", "epochs = 6.0", 1))
        with pytest.raises(UsageError, match=r"has another (target|reinforce)\.epochs"):
            variants(loader(folder.parent), [{"method.b": "1"}], [None], None)

    @pytest.mark.parametrize("name", ["a/b", "..", "-x"])
    def test_names_that_lead_elsewhere(self, tmp_path: Path, name: str) -> None:
        """The name of a sweep is a folder below output.folder and nothing else."""
        with pytest.raises(UsageError, match="cannot be the name"):
            variants(loader(tmp_path), [{}], [0], name)
