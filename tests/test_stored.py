"""Stored results of the retain reference: ours are found, those of others become our tables, and
nothing is misread."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unlearn_cli import catalog
from unlearn_cli.api import Bundle, Number, Probe, Row, Table
from unlearn_cli.errors import RunError, UnlearnError, UsageError
from unlearn_cli.evaluations import Evaluation
from unlearn_cli.runs import RunFolder
from unlearn_cli.stored import Foreign, ids_by_set, read_stored
from unlearn_cli.tables import Metrics

Rows = Mapping[str, Sequence[str]]


def ids_of(**counts: int) -> dict[str, list[str]]:
    """Ids that are no indices: those of forget10 begin at 3600."""
    return {set_: [str(3600 + k) for k in range(n)] for set_, n in counts.items()}


def metrics_of(ids: Rows, **options: Any) -> Metrics:
    """What the TOFU evaluator measures of data with these rows."""
    sets = {
        set_: tuple(
            Row.qa(
                id_,
                "Who?",
                "Ann",
                paraphrase="It is Ann" if set_ in ("forget", "retain") else None,
                perturbed=("Bob", "Cy"),
            )
            for id_ in part
        )
        for set_, part in ids.items()
    }
    evaluator = catalog.build("evaluator", "tofu", options)
    return Metrics.of(evaluator, Bundle(forget=sets["forget"], evaluation=sets))


def by_index(key: str, *values: object) -> dict[str, Any]:
    return {"value_by_index": {str(k): {key: value} for k, value in enumerate(values)}}


def losses(*values: object) -> dict[str, Any]:
    return by_index("avg_loss", *values)


def open_unlearning() -> dict[str, Any]:
    """What OpenUnlearning stores of two forget rows and one real author."""
    return {
        "forget_Q_A_Prob": {"agg_value": 0.375, **losses(log(2), log(4))},
        "forget_Q_A_PARA_Prob": losses(log(4), log(2)),
        "forget_Q_A_PERT_Prob": losses([log(2), log(8)], [log(8), log(8)]),
        "forget_Q_A_ROUGE": by_index("rougeL_recall", 0.5, 1),
        "forget_truth_ratio": {"agg_value": 0.9, **by_index("score", 0.9, 0.9)},
        "ra_Q_A_Prob": losses(log(2)),
        "ra_Q_A_PERT_Prob": losses([log(4), log(4)]),
        "mia_loss": {"agg_value": 0.5, "auc": 0.5},
    }


def tofu() -> dict[str, Any]:
    """The same numbers as TOFU stores them, the newer way and the older."""
    return {
        "eval_log_forget.json": {
            "avg_gt_loss": {"1": log(4), "0": log(2)},
            "avg_paraphrased_loss": {"1": log(2), "0": log(4)},
            "average_perturb_loss": {"1": [log(8), log(8)], "0": [log(2), log(8)]},
            "rougeL_recall": {"1": 1.0, "0": 0.5},
            "generated_text": {"0": ["Who?", "Ann", "Ann"]},
        },
        "eval_real_author_wo_options.json": {
            "avg_gt_loss": [log(2)],
            "average_perturb_loss": [[log(4), log(4)]],
        },
    }


IDS = ids_of(forget=2, real_authors=1)


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    return metrics_of(IDS)


def store(folder: Path, parsed: object, name: str = "log.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(parsed), encoding="utf-8")
    return path


def foreign(path: Path) -> Foreign:
    found = read_stored(path)
    assert isinstance(found, Foreign)
    return found


def evaluation(label: str = "retain_reference", evaluator: str = "tofu") -> Evaluation:
    numbers = {"forget.probability": Number(0.5, "lower", n=1)}
    table = Table({"forget": {"probability": {"a": 0.5}}}, numbers)
    return Evaluation(evaluator, label, 0, table, model="sha256:1", data="sha256:2")


class TestOurs:
    def test_a_file(self, tmp_path: Path) -> None:
        """Evaluation JSON is read back equal, whatever model it is labelled as."""
        path = tmp_path / "tofu.json"
        path.write_text(evaluation("model").to_json(), encoding="utf-8")
        assert read_stored(path) == [evaluation("model")]

    def test_a_run_folder(self, tmp_path: Path) -> None:
        """Its retain reference, under every evaluator; not its own model."""
        run = RunFolder.create(tmp_path / "run", "")
        stored = [evaluation(evaluator=name) for name in ("muse", "tofu")]
        for each in (*stored, evaluation("unlearned")):
            run.write_evaluation(each)
        assert read_stored(run.folder) == stored

    def test_a_run_without_reference_is_refused(self, tmp_path: Path) -> None:
        """Its own model is not taken for the reference; the error says how to name it."""
        run = RunFolder.create(tmp_path / "run", "")
        run.write_evaluation(evaluation("unlearned"))
        with pytest.raises(RunError, match=r"no evaluation of a retain .*path = .*run/model"):
            read_stored(run.folder)
        with pytest.raises(UsageError, match="holds no run"):
            read_stored(tmp_path)

    @pytest.mark.parametrize("version", [0, 2, "1", None])
    def test_another_version_is_refused(self, tmp_path: Path, version: object) -> None:
        """An older or newer format is named, and never read as something else."""
        stored = json.loads(evaluation().to_json()) | {"format": version} | open_unlearning()
        with pytest.raises(RunError, match=r"log\.json: (evaluation format|not a stored)"):
            read_stored(store(tmp_path, stored))


class TestOthers:
    @pytest.mark.parametrize("log_", [open_unlearning(), tofu()], ids=["OpenUnlearning", "TOFU"])
    def test_values(self, tmp_path: Path, metrics: Metrics, log_: object) -> None:
        """Both formats give, by hand: p = 1/2 and 1/4; R = (1/2 1/8)^(1/2) / (1/4) = 1 and
        (1/8) / (1/2) = 1/4, so min(R, 1/R) has the mean 5/8; of the author 1/2 / (1/2 + 2/4)."""
        table = foreign(store(tmp_path, log_)).table(metrics, IDS)
        forget = table.rows["forget"]
        assert forget["probability"] == pytest.approx({"3600": 0.5, "3601": 0.25})
        assert forget["truth_ratio"] == pytest.approx({"3600": 1.0, "3601": 0.25})
        assert forget["rouge"] == {"3600": 0.5, "3601": 1.0}
        author = {name: values["3600"] for name, values in table.rows["real_authors"].items()}
        expected = {"normalized_probability": 0.5, "truth_ratio": 0.5, "rouge": None}
        assert author == pytest.approx(expected)
        assert table.numbers["forget.truth_ratio"].value == pytest.approx(0.625)
        assert table.numbers["forget_quality"].value == 1

    def test_what_the_log_lacks_is_null(self, tmp_path: Path, metrics: Metrics) -> None:
        """A metric of single tokens and a set that is missing are null, and say that it is the
        log that does not hold them; a note tells what nobody could check."""
        log_ = open_unlearning()
        del log_["ra_Q_A_Prob"], log_["ra_Q_A_PERT_Prob"]
        table = foreign(store(tmp_path, log_)).table(metrics, IDS)
        for name in ("forget.extraction_strength", "real_authors.truth_ratio"):
            assert table.numbers[name].value is None
            assert table.numbers[name].reason == "not in the log of OpenUnlearning"
        assert table.rows["real_authors"]["truth_ratio"] == {"3600": None}
        assert "does not tell its model" in table.notes[-1]

    def test_as_an_evaluation(self, tmp_path: Path, metrics: Metrics) -> None:
        """It stands as the run's retain reference, goes through our JSON and back, and its
        fingerprint is that of the content: another log has another."""
        log_ = open_unlearning()
        found = foreign(store(tmp_path, log_))
        made = found.evaluation("tofu", metrics, IDS, data="sha256:2", settings={"rows": 2})
        assert (made.label, made.data, made.settings) == (
            "retain_reference",
            "sha256:2",
            {"rows": 2},
        )
        assert Evaluation.from_json(made.to_json()) == made
        assert foreign(store(tmp_path, log_, "copy.json")).fingerprint == made.model
        log_["forget_Q_A_ROUGE"]["value_by_index"]["0"]["rougeL_recall"] = 0
        assert foreign(store(tmp_path, log_)).fingerprint != made.model

    def test_only_for_evaluators_that_measure_it(self, tmp_path: Path, metrics: Metrics) -> None:
        """A log covers TOFU's evaluation, and not one of other sets or other metrics."""
        found = foreign(store(tmp_path, open_unlearning()))
        assert found.covers(metrics)
        for names in ({"forget_knowmem": ("rouge",)}, {"forget": ("perplexity",)}):
            assert not found.covers(replace(metrics, names=names))

    @pytest.mark.parametrize(("n", "hint"), [(3, "set `rows = 2`"), (1, "the same forget set")])
    def test_other_numbers_of_rows_are_refused(self, tmp_path: Path, n: int, hint: str) -> None:
        """Matching by order needs as many rows; the error names both numbers and what to do."""
        ids = ids_of(forget=n, real_authors=1)
        with pytest.raises(RunError, match=rf"has 2 rows of 'forget', the run evaluates {n}") as e:
            foreign(store(tmp_path, open_unlearning())).table(metrics_of(ids), ids)
        assert hint in e.value.hint

    def test_missing_tokens_are_null(self, tmp_path: Path, metrics: Metrics) -> None:
        """null and NaN are no values; a missing paraphrase is not replaced by the answer; rows
        keep their place."""
        log_ = open_unlearning()
        log_["forget_Q_A_PARA_Prob"]["value_by_index"]["0"] = None
        log_["forget_Q_A_Prob"]["value_by_index"]["1"]["avg_loss"] = math.nan
        forget = foreign(store(tmp_path, log_)).table(metrics, IDS).rows["forget"]
        assert forget["probability"] == pytest.approx({"3600": 0.5, "3601": None})
        assert forget["truth_ratio"] == pytest.approx({"3600": None, "3601": 0.25})


class TestTruthRatiosAlone:
    """Logs that were cut down to `forget_truth_ratio`, which is all that OpenUnlearning needs."""

    def test_they_are_taken_as_they_are(self, tmp_path: Path, metrics: Metrics) -> None:
        """`score` is p_wrong / p_correct: 1/2 and 2 have the mean 1/2 of min(R, 1/R)."""
        log_ = {"forget_truth_ratio": {"agg_value": 0.5, **by_index("score", 0.5, 2)}}
        table = foreign(store(tmp_path, log_)).table(metrics, IDS)
        assert table.rows["forget"]["truth_ratio"] == {"3600": 0.5, "3601": 2.0}
        assert table.numbers["forget.truth_ratio"].value == 0.5

    def test_without_paraphrase_losses_they_are_preferred(
        self, tmp_path: Path, metrics: Metrics
    ) -> None:
        """The answer's loss would give another quantity."""
        log_ = open_unlearning()
        del log_["forget_Q_A_PARA_Prob"]
        log_["forget_truth_ratio"] = by_index("score", 0.5, 2)
        table = foreign(store(tmp_path, log_)).table(metrics, IDS)
        assert table.rows["forget"]["truth_ratio"] == {"3600": 0.5, "3601": 2.0}

    def test_extremes_stay_finite(self, tmp_path: Path, metrics: Metrics) -> None:
        """0 and infinity count as far from 1: their min(R, 1/R) is 0."""
        log_ = {"forget_truth_ratio": by_index("score", 0, math.inf)}
        number = foreign(store(tmp_path, log_)).table(metrics, IDS).numbers["forget.truth_ratio"]
        assert number.value == pytest.approx(0)
        assert number.n == 2

    def test_another_formula_is_refused(self, tmp_path: Path) -> None:
        """p_correct / (p_correct + p_wrong), of which the mean is stored, is not taken for R."""
        log_ = {"forget_truth_ratio": {"agg_value": 0.7, **by_index("score", 0.2, 0.4)}}
        with pytest.raises(RunError, match=r"forget_truth_ratio: agg_value is 0\.7, .* give 0\.3"):
            read_stored(store(tmp_path, log_))

    def test_they_are_no_arithmetic_ratios(self, tmp_path: Path) -> None:
        """An evaluator that averages arithmetically gets none from them."""
        log_ = {"forget_truth_ratio": by_index("score", 0.5, 2)}
        metrics = metrics_of(IDS, truth_ratio="arithmetic")
        table = foreign(store(tmp_path, log_)).table(metrics, IDS)
        assert table.numbers["forget.truth_ratio"].value is None


def edited(log_: dict[str, Any], value: object, *keys: str) -> dict[str, Any]:
    """A copy with one value replaced."""
    copied: Any = copy.deepcopy(log_)
    at = copied
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = value
    return dict(copied)


PROB = ("forget_Q_A_Prob", "value_by_index")
GROUND = ("eval_log_forget.json", "avg_gt_loss")
DAMAGED = {
    "loss is text": (edited(open_unlearning(), "x", *PROB, "0", "avg_loss"), "is text, not a num"),
    "loss is true": (edited(open_unlearning(), True, *PROB, "1", "avg_loss"), "is a truth value"),
    "loss below 0": (edited(open_unlearning(), -1, *PROB, "1", "avg_loss"), "1.avg_loss: is -1"),
    "no loss": (edited(open_unlearning(), {}, *PROB, "0"), "value_by_index.0: has no 'avg_loss'"),
    "no rows": (edited(open_unlearning(), {}, *PROB), "value_by_index: has no rows"),
    "another index": (edited(open_unlearning(), {"7": {}}, *PROB), "value_by_index: has no '0'"),
    "other rows": (edited(open_unlearning(), losses(1), PROB[0]), "has 2 rows, but there are 1 in"),
    "summary": (edited(open_unlearning(), 0.4, "forget_Q_A_ROUGE"), "ROUGE: is one figure"),
    "list": (edited(tofu(), [0.1], *GROUND), "loss: has 2 rows, but there are 1 in eval_log_fo"),
    "ROUGE of 2": (edited(tofu(), [2, 1], GROUND[0], "rougeL_recall"), "0: is 2, not from 0 to 1"),
    "huge": (
        edited(tofu(), [10**400, 1], GROUND[0], "rougeL_recall"),
        "0: is inf, not from 0 to 1",
    ),
    "log is a list": ({"eval_log.json": [1]}, "eval_log.json: is a list, not an object"),
}


class TestDamage:
    @pytest.mark.parametrize("name", DAMAGED)
    def test_file_and_key_are_named(self, tmp_path: Path, name: str) -> None:
        """One error that says which file, which key, and what is wrong with it."""
        damaged, message = DAMAGED[name]
        path = store(tmp_path, damaged)
        with pytest.raises(RunError) as error:
            read_stored(path)
        assert str(error.value).startswith(str(path))
        assert message in str(error.value)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"{", "damaged JSON"),
            (b"\xff\xfe", "not UTF-8"),
            (b"[" * 100_000, "damaged JSON"),
            (b"[]", "not a stored evaluation"),
            (b"{}", "not a stored evaluation; give evaluation JSON of this tool"),
            (b'{"avg_gt_loss": {}}', "eval_log_aggregated.json"),
        ],
    )
    def test_no_log_at_all(self, tmp_path: Path, content: bytes, message: str) -> None:
        """Files of no known form are refused with what would be read."""
        path = tmp_path / "x.json"
        path.write_bytes(content)
        with pytest.raises(RunError, match=message):
            read_stored(path)

    def test_no_file(self, tmp_path: Path) -> None:
        """A path with nothing there."""
        with pytest.raises(RunError, match=r"none\.json: cannot be read: No such file"):
            read_stored(tmp_path / "none.json")


ORIGINALS: list[Any] = [open_unlearning(), tofu(), json.loads(evaluation().to_json())]
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.floats(), max_size=3),
    st.dictionaries(st.sampled_from("012"), st.floats(), max_size=3),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything inside."""
    if not isinstance(value, dict | list):
        return [path]
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    return [path, *(found for key, part in inside for found in places(part, (*path, key)))]


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A stored result with a few values replaced or removed, as JSON."""
    whole = copy.deepcopy([draw(st.sampled_from(ORIGINALS))])
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(whole)[1:] or [(0,)]))
        at: Any = whole
        for key in path[:-1]:
            at = at[key]
        if draw(st.booleans()) or len(path) == 1:
            at[path[-1]] = draw(JUNK)
        else:
            del at[path[-1]]
    return json.dumps(whole[0])


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=mutated())
def test_whatever_is_stored(tmp_path: Path, metrics: Metrics, text: str) -> None:
    """A damaged file gives a table of finite numbers or an error that a user can act on."""
    path = tmp_path / "log.json"
    path.write_text(text, encoding="utf-8")
    try:
        found = read_stored(path)
        tables = (
            [e.table for e in found] if isinstance(found, list) else [found.table(metrics, IDS)]
        )
    except UnlearnError as error:
        tables, message = [], str(error)
    else:
        message = str(path)
    assert message.startswith(str(path))
    for table in tables:
        values = [
            v for part in table.rows.values() for rows in part.values() for v in rows.values()
        ]
        values += [number.value for number in table.numbers.values()]
        assert all(value is None or math.isfinite(value) for value in values)


def test_ids_are_those_of_the_probes() -> None:
    """By set, in the order in which the evaluator asks."""
    probes = [
        Probe("forget", Row("b", "")),
        Probe("retain", Row("a", "")),
        Probe("forget", Row("a", "")),
    ]
    assert ids_by_set(probes) == {"forget": ["b", "a"], "retain": ["a"]}
