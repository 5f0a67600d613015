"""Groups, intervals and tests of a comparison, against values derived by hand or by scipy."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any

import pytest
from scipy import stats

from unlearn_cli.api.evaluate import Number
from unlearn_cli.compare import compare, holm, mean, welch
from unlearn_cli.errors import UsageError
from unlearn_cli.report.scatter import forget_utility_plot
from unlearn_cli.results import Result, flatten


def result(seed: int, utility: float | None, method: str = "npo", **spec: Any) -> Result:
    """A run of which only the seed, the method, a key of the spec or the utility matter."""
    after = {
        "forget_quality": Number(0.5, "higher"),
        "model_utility": Number(utility, "higher", reason="" if utility else "no rows"),
    }
    return Result(
        folder=f"runs/{method}{''.join(map(str, spec.values()))}-{seed}",
        seed=seed,
        spec={"method.name": method} | spec,
        verdict="forgotten" if utility else "collapsed",
        before={"model_utility": Number(0.9, "higher")},
        after=after,
        conditions={"torch": "2.13"},
        inputs={"target": f"target-{seed}"},
    )


def seeds(*utilities: float | None, method: str = "npo", **spec: Any) -> list[Result]:
    return [result(seed, u, method, **spec) for seed, u in enumerate(utilities)]


class TestStatistics:
    def test_interval_of_three_values(self) -> None:
        """1, 2, 3: mean 2, deviation 1, and t(0.975; 2 degrees) = 4.3027, so 2 ± 4.3027 / √3."""
        found = mean([1.0, 2.0, 3.0])
        assert found.mean == 2.0
        assert found.half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)

    def test_one_value_has_no_interval(self) -> None:
        """From one seed nothing is known of the spread, and none is claimed."""
        assert mean([0.3]).half_width is None

    def test_welch_equals_scipy(self) -> None:
        """The p-value is that of an independent implementation, for unequal sizes and spreads."""
        one, other = [0.1, 0.4, 0.35, 0.2], [0.5, 0.9, 0.6]
        expected = stats.ttest_ind(one, other, equal_var=False).pvalue
        assert welch(one, other) == pytest.approx(expected, rel=1e-12)

    def test_welch_without_spread(self) -> None:
        """Of values that never vary the noise is not known, and no difference is claimed."""
        assert welch([1.0, 1.0], [1.0, 1.0]) is None
        assert welch([1e-9, 1e-9], [2e-9, 2e-9]) is None

    def test_holm(self) -> None:
        """0.01, 0.04, 0.03: the smallest times 3, the next times 2, the last no less than that."""
        assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
        assert holm([0.6, 0.9]) == [1.0, 1.0]
        assert holm([]) == []


class TestGroups:
    def test_seeds_are_one_group(self) -> None:
        """Runs that differ only in their seed are one group, by seed, with the mean over them."""
        (group,) = compare([result(1, 0.8), result(0, 0.6)]).groups
        assert group.seeds == (0, 1)
        assert group.after["model_utility"].values == (0.6, 0.8)
        assert group.after["model_utility"].mean == pytest.approx(0.7)
        assert group.before["model_utility"].mean == pytest.approx(0.9)
        assert group.verdicts == {"forgotten": 2}

    def test_labels_say_what_differs(self) -> None:
        """An option tells apart runs of its method only; any other key tells apart all."""
        both: dict[str, Any] = {"train.epochs": 5.0, "method.alpha": 1.0}
        one, other = both | {"method.beta": 0.05}, both | {"method.beta": 0.1}
        found = compare(
            [
                result(0, 0.5, "npo", **one),
                result(0, 0.5, "npo", **other),
                result(0, 0.5, "simnpo", **both, **{"method.delta": 1.0}),
            ]
        )
        assert [group.label for group in found.groups] == [
            "npo, beta=0.05",
            "npo, beta=0.1",
            "simnpo",
        ]
        assert found.groups[0].differs == {"method.beta": 0.05}

    def test_a_key_that_one_run_lacks(self) -> None:
        """A key that only one spec sets tells the two apart."""
        found = compare([result(0, 0.5, "npo", **{"train.steps": 4}), result(0, 0.5)])
        assert [g.label for g in found.groups] == ["npo, train.steps=4", "npo, train.steps unset"]

    def test_a_seed_counts_once(self) -> None:
        """The same experiment and seed twice would feign certainty: refused, naming both."""
        with pytest.raises(UsageError, match="runs/npo-0: is the same experiment as runs/npo-0"):
            compare([result(0, 0.5), result(0, 0.5)])

    def test_missing_values_are_left_out_and_said(self) -> None:
        """A null is no zero: the mean is of the others, and the reason says how many lack it."""
        (group,) = compare([result(0, 0.5), result(1, None)]).groups
        assert group.after["model_utility"].values == (0.5,)
        assert group.after["model_utility"].reason == "1 of 2 runs: no rows"

    def test_tables_are_flattened(self) -> None:
        """Tables in lists are numbered; plain lists are values."""
        spec = {"a": {"b": 1}, "evaluate": [{"every": "end"}], "layers": [1, 2]}
        assert dict(flatten(spec)) == {"a.b": 1, "evaluate.0.every": "end", "layers": [1, 2]}


class TestDifferences:
    def test_far_apart_is_beyond_noise(self) -> None:
        """Utility 0.8 against 0.2 with a spread of 0.01 is; a forget quality that never
        varies is not tested, and that is said."""
        found = compare([*seeds(0.79, 0.8, 0.81), *seeds(0.19, 0.2, 0.21, method="simnpo")])
        by_metric = {d.metric: d for d in found.differences}
        assert by_metric["model_utility"].beyond_noise
        assert by_metric["model_utility"].difference == pytest.approx(0.6)
        assert "forget_quality" not in by_metric
        (said,) = found.untested
        assert said.startswith("forget_quality is the same for every seed")

    def test_what_has_too_few_values_is_said(self) -> None:
        """Two seeds of which one has no utility: nothing is tested, and the group is named."""
        found = compare([*seeds(0.7, None), *seeds(0.5, 0.6, method="simnpo")])
        assert "model_utility" not in {d.metric for d in found.differences}
        assert any(
            line.startswith("model_utility has fewer than two values") and line.endswith("npo.")
            for line in found.untested
        )

    def test_the_pairs_of_a_metric_are_corrected(self) -> None:
        """Of three pairs the smallest p-value counts three times."""
        runs = [
            *seeds(0.1, 0.2, 0.3, method="a"),
            *seeds(0.15, 0.3, 0.4, method="b"),
            *seeds(0.5, 0.9, 0.7, method="c"),
        ]
        found = [d for d in compare(runs).differences if d.metric == "model_utility"]
        smallest = min(found, key=lambda d: d.p)
        assert len(found) == 3
        assert smallest.corrected == pytest.approx(3 * smallest.p)

    def test_one_seed_says_nothing(self) -> None:
        """Without a second seed there is no test, and the reader is told why."""
        found = compare([*seeds(0.8), *seeds(0.2, method="simnpo")])
        assert found.differences == ()
        assert "Nothing can be said about noise" in found.untested[0]
        assert "npo; simnpo" in found.untested[0]


class TestNotes:
    def test_like_runs_need_no_note(self) -> None:
        """Other weights under another seed are as it should be."""
        assert compare([*seeds(0.8, 0.7), *seeds(0.2, 0.1, method="simnpo")]).notes == ()

    def test_other_versions_targets_and_seeds_are_named(self) -> None:
        """What else may explain a difference is said, with the runs."""
        other = replace(
            result(0, 0.2, "simnpo"), conditions={"torch": "2.6"}, inputs={"target": "another"}
        )
        notes = compare([*seeds(0.8, 0.7), other]).notes
        assert "The groups have different seeds (npo: 0, 1; simnpo: 0)." in notes
        assert (
            "Not under the same conditions, torch: 2.13 (runs/npo-0, runs/npo-1); "
            "2.6 (runs/simnpo-0)." in notes
        )
        assert (
            "Not the same target at seed 0: target-0 (runs/npo-0); another (runs/simnpo-0)."
            in notes
        )


class TestPlot:
    def test_points_and_means(self) -> None:
        """A small dot for each run, a large one and two bars for each group, groups in a legend;
        hostile names stay text."""
        runs = [*seeds(0.8, 0.7), *seeds(0.2, 0.1, method="<script>")]
        root = ET.fromstring(forget_utility_plot(compare(runs)))  # noqa: S314 - our own output
        tag = "{http://www.w3.org/2000/svg}"
        classes = [str(e.get("class")).split()[0] for e in root.iter(f"{tag}circle")]
        assert classes.count("seed") == 4
        assert classes.count("mean") == 2
        bars = [e for e in root.iter(f"{tag}path") if str(e.get("class")).startswith("bar")]
        assert len(bars) == 4
        texts = [element.text for element in root.iter(f"{tag}text")]
        assert {"1 npo", "2 <script>", "model utility", "forget quality"} <= {*texts}

    def test_nothing_to_plot(self) -> None:
        """Without any figure of utility there is no plot."""
        assert forget_utility_plot(compare([result(0, None)])) == ""
