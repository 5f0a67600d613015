"""The suite of an evaluator, whichever of the three forms it has: `check_evaluator`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from unlearn_cli.api import Bundle, Evaluator, Harness, Probe, Row, StressTest, Subject, Table
from unlearn_cli.api.evaluate import Recipe
from unlearn_cli.errors import UnlearnError
from unlearn_cli.evaluations import Evaluation
from unlearn_cli.spec.slots import SLOTS
from unlearn_cli.testing.made_up import made_up_bundle
from unlearn_cli.testing.plugin import check_light, check_plugin
from unlearn_cli.testing.table import check_table


def check_evaluator(evaluator: Any, *, data: Bundle | None = None, inner: Any = None) -> None:
    """Assert that an evaluator keeps the contract, on a tiny model with random weights.

    1. The tool can list it and build it from a spec (`unlearn_cli.testing.plugin`): a frozen
       dataclass, every option documented; importing its module imports no torch. No option has the
       name of a key of `[[evaluate]]` itself, where it would never arrive.
    2. It has one of the three forms: probes and metrics, `measure`, or a stress test with either
       `change` or `rewrite`.
    3. Where it asks rows: it asks the same twice, each row of a set once; every set that it asks
       has metrics, which are installed, and every set with metrics has rows. Data with nothing
       but forget rows is measured or refused in one line, and is no crash.
    4. A stress test that changes the model changes weights; one that rewrites a probe keeps the
       set and the row's id, so that rows of both evaluations can be compared.
    5. The table has figures, at least one of them with a value. Each has a direction, and is finite
       or null with its reason, with a retain reference and without. Values of rows are those of the
       rows that were asked.
    6. A second run gives the same bits, and leaves the model as it was.
    7. The evaluation can be written as JSON and read back.

    Args:
        evaluator: an instance. Let it generate few tokens: `max_new_tokens=4`.
        data: what to measure; by default `made_up_bundle()`, without sets of other names.
        inner: the evaluator inside a stress test; by default the one that `of` names, as it is.

    Raises:
        AssertionError: which of the claims does not hold.
        UnlearnError: what the evaluator or the engine refuses.
    """
    check_plugin(evaluator)
    check_light(evaluator)
    _check_names(evaluator)
    _check_form(evaluator)
    trial = _Trial(evaluator, data or made_up_bundle(), inner)
    if not isinstance(trial.inner, Harness):
        trial.check_questions()
    before = trial.weights()
    table = trial.table(trial.reference())
    assert trial.table(trial.reference()) == table, "a second run gives other figures"
    assert trial.weights() == before, "it leaves the model with other weights"
    for found in (table, trial.table(None)):
        check_table(found, trial.ids())
    values = [number.value for number in table.numbers.values()]
    assert any(value is not None for value in values), "no figure has a value: give other `data`"
    _check_stored(table)


def _check_names(evaluator: Any) -> None:
    """Of claim 1."""
    taken = SLOTS["evaluate"].keys & {field.name for field in dataclasses.fields(evaluator)}
    assert not taken, f"{', '.join(taken)} is a key of [[evaluate]] itself: name it otherwise"


def _check_form(evaluator: Any) -> None:
    """Claim 2."""
    forms = (Evaluator, Harness, StressTest)
    has = [form.__name__ for form in forms if isinstance(evaluator, form)]
    assert len(has) == 1, f"it has the form of {' and '.join(has) or 'no evaluator'}"
    if has == ["StressTest"]:
        both = [name for name in ("change", "rewrite") if hasattr(evaluator, name)]
        assert len(both) == 1, f"a stress test has change or rewrite, not {both or 'neither'}"


def _check_stored(table: Table) -> None:
    """Claim 7."""
    written = Evaluation("check", "model", 0, table, model="", data="").to_json()
    assert Evaluation.from_json(written).table == table, "JSON gives another table back"


class _Trial:
    """An evaluator, and the models that it measures."""

    def __init__(self, evaluator: Any, data: Bundle, inner: Any) -> None:
        from unlearn_cli import catalog
        from unlearn_cli.engine.session import Session
        from unlearn_cli.spec.tables import DataTable, MethodTable, Spec

        spec = Spec(name="check", data=DataTable(), method=MethodTable(name="check"))
        self.session = Session(spec, lambda event: None)
        self.session.bundle = self.data = data
        self.loaded = self.session.load("builtin:tiny")
        self.evaluator, self.inner = evaluator, inner or evaluator
        if isinstance(evaluator, StressTest) and inner is None:
            self.inner = catalog.build("evaluator", evaluator.of, {})

    @property
    def changes(self) -> bool:
        return hasattr(self.evaluator, "change")

    def weights(self) -> str:
        from unlearn_cli.engine.models import fingerprint

        return fingerprint(self.loaded.model)

    def probes(self) -> list[Probe]:
        """What the rows are asked, rewritten where the evaluator does so."""
        probes = list(self.inner.probes(self.data))
        if not hasattr(self.evaluator, "rewrite"):
            return probes
        rewritten = [(probe, self.evaluator.rewrite(probe)) for probe in probes]
        for probe, found in rewritten:
            if found is not None:
                same = (found.set, found.row.id) == (probe.set, probe.row.id)
                assert same, f"row {probe.row.id!r} of {probe.set} is rewritten as another"
        return [found for _, found in rewritten if found is not None]

    def ids(self) -> dict[str, list[str]] | None:
        """The rows of each set that is asked; None where the evaluator asks for itself."""
        if isinstance(self.inner, Harness):
            return None
        found: dict[str, list[str]] = {}
        for probe in self.probes():
            found.setdefault(probe.set, []).append(probe.row.id)
        return found

    def check_questions(self) -> None:
        """Claim 3."""
        from unlearn_cli.tables import Metrics

        assert self.probes() == self.probes(), "it asks something else the second time"
        names, ids = Metrics.of(self.inner, self.data).names, self.ids() or {}
        assert ids, "it asks no row: give other `data`"
        for set_, rows in ids.items():
            assert set_ in names, f"it asks {set_} and names no metrics of it"
            assert len(rows) == len({*rows}), f"it asks a row of {set_} twice"
        if self.inner is self.evaluator:
            empty = [set_ for set_ in names if set_ not in ids]
            assert not empty, f"it names metrics of {', '.join(empty)}, and asks no row of it"
        try:
            alone = Bundle(self.data.forget)
            asked = {probe.set for probe in self.inner.probes(alone)}
            assert asked == {*self.inner.metrics(alone)}, "forget rows alone: sets without rows"
        except UnlearnError:
            pass  # refused in one line

    def table(self, reference: Table | None) -> Table:
        """One evaluation of the model, under stress where the evaluator puts it there."""
        from unlearn_cli.engine.evaluate import restored

        if not self.changes:
            return self._measured(reference)
        before = self.weights()
        with restored(self.loaded.model):
            self.evaluator.change(self._subject())
            assert self.weights() != before, "the stress test changes no weight"
            return self._measured(reference)

    def reference(self) -> Table | None:
        """The table of another model, for figures that compare."""
        import torch

        from unlearn_cli.engine.evaluate import restored

        with restored(self.loaded.model):
            with torch.no_grad():
                self.loaded.model.get_input_embeddings().weight.mul_(2)
            return self._measured(None)

    def _measured(self, reference: Table | None) -> Table:
        from unlearn_cli.engine.forward import Scorer
        from unlearn_cli.engine.score import score_probes
        from unlearn_cli.tables import Metrics

        if isinstance(self.inner, Harness):
            return self.inner.measure(self._subject())
        probes = self.probes()
        metrics = Metrics.of(self.inner, self.data).only({probe.set for probe in probes})
        scored = score_probes(
            Scorer(self.loaded.model),
            self.session.encoder(self.loaded.tokenizer),
            probes,
            batch_size=16,
            accelerator=self.session.accelerator,
            needs=metrics.needs,
        )
        return metrics.table(scored, reference)

    def _subject(self) -> Subject:
        from unlearn_cli.engine.target import fine_tune_briefly

        def tune(rows: Sequence[Row], recipe: Recipe) -> None:
            fine_tune_briefly(self.session, self.loaded, rows, recipe, stage="check")

        return Subject(self.loaded.model, self.loaded.tokenizer, self.data, 0, tune)
