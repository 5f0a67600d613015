"""Scoring of probes against a plain loop over the model, and tables against published logs.

Run as a program (`-m tests.engine.test_evaluate FILE`) it scores the probes of the tests on all
processes and writes what each process has.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from unlearn_cli import catalog
from unlearn_cli.api import AnswerScore, Bundle, Probe, Row, ScoredRow, Table
from unlearn_cli.api.evaluate import Answer
from unlearn_cli.engine.builtin import make_tiny
from unlearn_cli.engine.encode import Encoded, Encoder
from unlearn_cli.engine.evaluate import aggregate_table, build_table, row_values, score_probes
from unlearn_cli.engine.forward import Batch, Scorer
from unlearn_cli.errors import DataError, RunError
from unlearn_cli.spec.tables import TemplateTable

ROOT = Path(__file__).parents[2]
LOGS = ROOT / ".." / "shared" / "data" / "tofu_eval_logs"
ALL: tuple[Answer, ...] = ("answer", "paraphrase", "perturbed")
NEW_TOKENS = 6

ROWS = [
    Row.qa(
        str(k),
        f"Who wrote book number {k}?{' Think twice.' * (k % 3)}",
        f"Author {k} wrote it",
        paraphrase=f"It was written by author {k}, as everybody knows",
        perturbed=(f"Author {k + 1} did", f"A person from town {k}"),
    )
    for k in range(7)
]
TEXT = Row("text", "Once upon a time there was a book that nobody wrote. " * 6, kind="text")
PROBES = [
    *(Probe("forget", row, ALL) for row in ROWS),
    Probe("retain", TEXT, generate=False),
    *(Probe("retain", row, ("answer",), generate=False) for row in ROWS[:2]),
]


class Tiny:
    """A model with random weights that has never seen the rows."""

    def __init__(self) -> None:
        texts = [text for row in ROWS for text in (row.question, row.answer)]
        self.model, tokenizer = make_tiny(texts, seed=0)
        self.encoder = Encoder(tokenizer, TemplateTable(), max_length=64)
        self.scorer: torch.nn.Module = Scorer(self.model)

    def score(self, probes: list[Probe], batch_size: int = 3, **options: Any) -> list[ScoredRow]:
        return score_probes(
            self.model,
            self.scorer,
            self.encoder,
            probes,
            batch_size=batch_size,
            max_new_tokens=NEW_TOKENS,
            accelerator=Accelerator(cpu=True),
            **options,
        )


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return Tiny()


def plain_score(model: Any, chunks: list[Encoded]) -> AnswerScore:
    """Log-probability and arg max of each answer token: no batch, no padding, all logits."""
    logp, correct = [], []
    for item in chunks:
        ids = torch.from_numpy(item.input_ids.astype(np.int64))
        with torch.no_grad():
            logits = model(ids[None]).logits[0].double()
        for t in range(item.start, item.end):
            logp.append(float(logits[t - 1, ids[t]] - logits[t - 1].logsumexp(0)))
            correct.append(bool(logits[t - 1].argmax() == ids[t]))
    return AnswerScore(np.array(logp), np.array(correct))


def assert_same(found: AnswerScore | None, expected: AnswerScore, atol: float = 1e-5) -> None:
    assert found is not None
    np.testing.assert_allclose(found.token_logp, expected.token_logp, rtol=0, atol=atol)
    np.testing.assert_array_equal(found.correct, expected.correct)


def plain(found: list[ScoredRow]) -> list[Any]:
    """Scored rows as JSON; floats keep every bit."""
    return [
        [
            row.set,
            row.row.id,
            [
                [score.token_logp.tolist(), score.correct.tolist()]
                for score in (row.answer, row.paraphrase, *row.perturbed)
                if score
            ],
            row.generation,
        ]
        for row in found
    ]


def test_scores_equal_a_plain_loop(tiny: Tiny) -> None:
    """Sorting, batching and packing change nothing: every answer has the log-probabilities and
    the arg maxes of the bare model, in the order of the probes."""
    found = tiny.score(PROBES)
    assert [(row.set, row.row) for row in found] == [(probe.set, probe.row) for probe in PROBES]
    for row in found[: len(ROWS)]:
        texts = (row.row.answer, row.row.paraphrase, *row.row.perturbed)
        scores = (row.answer, row.paraphrase, *row.perturbed)
        for text, score in zip(texts, scores, strict=True):
            chunks = tiny.encoder.encode(row.row, answer=text)
            assert_same(score, plain_score(tiny.model, chunks))


def test_chunks_of_a_text_are_one_answer(tiny: Tiny) -> None:
    """A text that is longer than a sequence has one score, of the tokens of all its chunks."""
    chunks = tiny.encoder.encode(TEXT)
    assert len(chunks) > 1
    row = tiny.score(PROBES)[len(ROWS)]
    assert row.generation is None
    assert_same(row.answer, plain_score(tiny.model, chunks))


def test_generations_equal_a_plain_greedy_loop(tiny: Tiny) -> None:
    """Left padding and the cache change nothing: the most likely token, one after the other."""
    for row in tiny.score(PROBES)[: len(ROWS)]:
        ids = tiny.encoder.prompt(row.row).tolist()
        new: list[int] = []
        while len(new) < NEW_TOKENS and not set(new) & set(tiny.encoder.end_ids):
            with torch.no_grad():
                new.append(int(tiny.model(torch.tensor([ids + new])).logits[0, -1].argmax()))
        new = [token for token in new if token not in tiny.encoder.end_ids]
        assert row.generation == tiny.encoder.decode(new).strip()


def test_the_batch_size_does_not_matter(tiny: Tiny) -> None:
    """One row at a time or all at once, to float tolerance."""
    for one, many in zip(tiny.score(PROBES, 1), tiny.score(PROBES, 64), strict=True):
        assert one.answer is not None
        assert_same(many.answer, one.answer)
        assert many.generation == one.generation


def test_each_answer_is_scored_once(tiny: Tiny) -> None:
    """7 rows with 4 answers and one text in chunks go through the model once each, though two rows
    are asked for again; a paraphrase that equals the answer is not computed again either."""
    seen: list[int] = []

    class Counting(torch.nn.Module):
        def forward(self, batch: Batch) -> Any:
            seen.append(len(batch.input_ids))
            return scorer(batch)

    scorer = Scorer(tiny.model)
    same = Row.qa("same", "Who?", "Ann", paraphrase="Ann")
    score_probes(
        tiny.model,
        Counting(),
        tiny.encoder,
        [*PROBES, Probe("retain", same, ("answer", "paraphrase"), generate=False)],
        batch_size=5,
        max_new_tokens=1,
        accelerator=Accelerator(cpu=True),
    )
    assert sum(seen) == 7 * 4 + len(tiny.encoder.encode(TEXT)) + 1
    assert max(seen) == 5


def test_progress_reaches_the_number_of_probes(tiny: Tiny) -> None:
    """Never backwards, and all done at the end, whatever a probe asks for."""
    done: list[int] = []
    tiny.score(PROBES, progress=done.append)
    assert done == sorted(done)
    assert done[-1] == len(PROBES)


def test_the_model_trains_on_as_before(tiny: Tiny) -> None:
    """Evaluation in the middle of training leaves the model in training mode."""
    tiny.scorer.train()
    tiny.score(PROBES[:1])
    assert tiny.model.training
    assert torch.is_grad_enabled()


def test_nan_stops_the_run() -> None:
    """A model whose weights are NaN is an error that names set and row, not a table of nulls."""
    broken = Tiny()
    with torch.no_grad():
        broken.model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(RunError, match=r"'forget', row '0': .*NaN"):
        broken.score([Probe("forget", ROWS[0], generate=False)])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_do_not_matter(tiny: Tiny, tmp_path: Path, processes: int) -> None:
    """Every process holds all rows, with the same bits as one process alone; with more processes
    than a last round has batches, too."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={processes}", "-m", "tests.engine.test_evaluate", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    ended = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = plain(tiny.score(PROBES))
    finally:
        torch.set_num_threads(threads)
    for process in range(processes):
        assert json.loads((tmp_path / f"{process}.json").read_text()) == expected


class Own:
    """An evaluator of one row metric, for data that somebody brings."""

    max_new_tokens = 1

    def __init__(self, metric: str) -> None:
        self.metric = metric

    def probes(self, data: Bundle) -> list[Probe]:
        return [Probe("forget", row) for row in data.forget]

    def metrics(self, data: Bundle) -> Mapping[str, tuple[str, ...]]:
        return {"forget": (self.metric,)} if data.forget else {}

    def metric_options(self) -> Mapping[str, Mapping[str, object]]:
        return {}

    def summaries(self) -> tuple[str, ...]:
        return ()


def constant(loss: float) -> AnswerScore:
    """An answer of two tokens with this mean loss, nats."""
    return AnswerScore(np.full(2, -loss), np.array([True, True]))


def test_missing_answers_are_null_with_their_reason() -> None:
    """Own data without false answers: truth ratio, forget quality and utility are null and say why;
    what can be measured is."""
    rows = (Row.qa("1", "Who?", "Ann"),)
    data = Bundle(forget=rows, retain=rows)
    scored = [ScoredRow(s, rows[0], constant(0.0), generation="Ann") for s in ("forget", "retain")]
    evaluator = catalog.build("evaluator", "tofu", {})
    numbers = build_table(evaluator, scored, Table({}, {}), data).numbers
    assert numbers["retain.probability"].value == numbers["forget.rouge"].value == 1
    assert numbers["forget.truth_ratio"].value is None
    assert numbers["forget.truth_ratio"].reason == "no perturbed answers"
    assert (numbers["forget.truth_ratio"].n, numbers["forget.truth_ratio"].skipped) == (0, 1)
    for summary in ("forget_quality", "model_utility"):
        assert numbers[summary].value is None
        assert "no perturbed answers" in numbers[summary].reason


def test_what_is_not_finite_is_null_and_counted() -> None:
    """0/0 is left out of the mean (here 1/2 remains), counted, and noted; it is never 0."""
    right, impossible = constant(1.0), constant(np.inf)
    rows = [Row.qa(k, "Who?", "Ann", perturbed=("Bob",)) for k in "ab"]
    scored = [
        ScoredRow("forget", rows[0], right, perturbed=(constant(1 + np.log(2)),)),
        ScoredRow("forget", rows[1], impossible, perturbed=(impossible,)),
    ]
    table = build_table(Own("truth_ratio"), scored, None, Bundle(forget=tuple(rows)))
    number = table.numbers["forget.truth_ratio"]
    assert number.value == pytest.approx(0.5)
    assert (number.n, number.skipped) == (1, 1)
    assert table.rows["forget"]["truth_ratio"]["b"] is None
    assert table.notes == ("forget.truth_ratio: 1 of 2 rows have no value; left out",)


def test_two_rows_with_one_id_are_refused() -> None:
    """A value for every row needs a name for every row."""
    row = Row.qa("1", "Who?", "Ann")
    scored = [ScoredRow("forget", row, constant(0.0))] * 2
    with pytest.raises(DataError, match="two rows have the id '1'"):
        build_table(Own("probability"), scored, None, Bundle(forget=(row,)))


# --- TOFU's own logs -----------------------------------------------------------------------------

FILES = {
    "forget": "eval_log_forget.json",
    "retain": "eval_log.json",
    "real_authors": "eval_real_author_wo_options.json",
    "world_facts": "eval_real_world_wo_options.json",
}
OPTIONS = ("real_authors", "world_facts")
PUBLISHED = {  # probability, ROUGE-L, truth ratio of each set
    "full": {
        "retain": (0.9895, 0.9857, 0.4747),
        "real_authors": (0.4555, 0.9330, 0.5962),
        "world_facts": (0.4186, 0.8825, 0.5390),
        "forget": (0.9909, 0.9854, 0.5160),
    },
    "retain90": {
        "retain": (0.9889, 0.9758, 0.4710),
        "real_authors": (0.4341, 0.9230, 0.5707),
        "world_facts": (0.4143, 0.8974, 0.5442),
        "forget": (0.1476, 0.4082, 0.6740),
    },
}
needs_logs = pytest.mark.skipif(
    not LOGS.is_dir(), reason="TOFU's evaluation logs are not beside the repository"
)


def log_rows(set_: str, log: Mapping[str, Mapping[str, Any]]) -> list[ScoredRow]:
    """Rows whose answers have the stored mean losses.

    Where a set has no paraphrase, the logs hold a second score of the answer in its place, made in
    16 bits in another batch (up to .12 nats away), and the published truth ratios use that one.
    """
    return [
        ScoredRow(
            set_,
            Row.qa(id_, "", "-", paraphrase=None if set_ in OPTIONS else "-", perturbed=("-",)),
            answer=constant(loss),
            paraphrase=constant(log["avg_paraphrased_loss"][id_]),
            perturbed=tuple(constant(wrong) for wrong in log["average_perturb_loss"][id_]),
        )
        for id_, loss in log["avg_gt_loss"].items()
    ]


def log_table(model: str, reference: Table | None = None, aggregation: str = "geometric") -> Table:
    """The table of a stored model: the metrics run on the losses; ROUGE stands in the logs."""
    logs = json.loads((LOGS / f"llama2-7b_{model}.json").read_text(encoding="utf-8"))
    scored = {set_: log_rows(set_, logs[file]) for set_, file in FILES.items()}
    rows = {set_: tuple(found.row for found in part) for set_, part in scored.items()}
    evaluator = catalog.build("evaluator", "tofu", {"truth_ratio": aggregation})
    asked = evaluator.metrics(Bundle(forget=(), evaluation=rows))
    names = {set_: part[:3] for set_, part in asked.items()}  # the logs tell no arg max
    options = evaluator.metric_options()
    every = {name for metrics in names.values() for name in metrics}
    metrics = {name: catalog.build("metric", name, options.get(name, {})) for name in every}
    values = row_values(scored, names, metrics)
    for set_, file in FILES.items():
        values[set_]["rouge"] = dict(logs[file]["rougeL_recall"])
    summaries = {name: catalog.build("metric", name, {}) for name in evaluator.summaries()}
    return aggregate_table(values, metrics, summaries, reference)


@needs_logs
@pytest.mark.parametrize(("model", "utility"), [("full", 0.6227), ("retain90", 0.6137)])
def test_stored_logs_give_the_published_utility(model: str, utility: float) -> None:
    """All twelve components and model utility of TOFU's Llama-2-7B, to the digits published."""
    numbers = log_table(model).numbers
    for set_, expected in PUBLISHED[model].items():
        probability = "normalized_probability" if set_ in OPTIONS else "probability"
        found = [numbers[f"{set_}.{name}"].value for name in (probability, "rouge", "truth_ratio")]
        assert found == pytest.approx(expected, abs=5e-4), set_
    assert numbers["model_utility"].value == pytest.approx(utility, abs=5e-4)
    assert numbers["model_utility"].n == 9


@needs_logs
def test_the_arithmetic_truth_ratio_gives_the_other_published_utility() -> None:
    """The paper's printed formula, by option: .5859 instead of .6227."""
    number = log_table("full", aggregation="arithmetic").numbers["model_utility"]
    assert number.value == pytest.approx(0.5859, abs=5e-4)


@needs_logs
def test_stored_logs_give_the_published_forget_quality() -> None:
    """The fine-tuned model against retain90, 300 questions, distance 119/300."""
    number = log_table("full", reference=log_table("retain90")).numbers["forget_quality"]
    assert number.value == pytest.approx(1.834066e-21, rel=1e-6)
    assert (number.n, number.skipped) == (300, 0)


def _main(folder: Path) -> None:
    """Score the probes and write what this process has."""
    found = plain(Tiny().score(PROBES))
    rank = os.environ["RANK"]
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
