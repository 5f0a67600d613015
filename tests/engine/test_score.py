"""Scoring of probes against a plain loop over the model.

Run as a program (`-m tests.engine.test_score FILE`) it scores the probes of the tests on all
processes and writes what each process has.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from unlearn_cli.api import AnswerScore, Decoding, Probe, Row, ScoredRow
from unlearn_cli.api.evaluate import Answer
from unlearn_cli.engine import score as scoring
from unlearn_cli.engine.builtin import make_tiny
from unlearn_cli.engine.distinct import in_batches
from unlearn_cli.engine.encode import Encoded, Encoder
from unlearn_cli.engine.forward import Scorer
from unlearn_cli.engine.generate import generate_batch
from unlearn_cli.engine.score import Memo, score_probes
from unlearn_cli.errors import RunError
from unlearn_cli.spec.tables import TemplateTable

ROOT = Path(__file__).parents[2]
ALL: tuple[Answer, ...] = ("answer", "paraphrase", "perturbed")
SHORT = Decoding(6)
DRAWN = Decoding(6, samples=3)

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
    *(Probe("forget", row, ALL, SHORT, DRAWN) for row in ROWS),
    Probe("retain", TEXT, generate=None),
    *(Probe("retain", row, ("answer",), generate=None) for row in ROWS[:2]),
]


class Tiny:
    """A model with random weights that has never seen the rows."""

    def __init__(self) -> None:
        texts = [text for row in ROWS for text in (row.question, row.answer)]
        self.model, tokenizer = make_tiny(texts, seed=0)
        self.encoder = Encoder(tokenizer, TemplateTable(), max_length=64)
        self.scorer = Scorer(self.model)

    def score(self, probes: list[Probe], batch_size: int = 3, **options: Any) -> list[ScoredRow]:
        return score_probes(
            self.scorer,
            self.encoder,
            probes,
            batch_size=batch_size,
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
            list(row.samples),
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
        while len(new) < SHORT.max_new_tokens and not set(new) & set(tiny.encoder.end_ids):
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

    class Counting(Scorer):
        def look(self, items: Any, see: Any) -> Any:
            seen.append(len(items))
            return super().look(items, see)

    same = Row.qa("same", "Who?", "Ann", paraphrase="Ann")
    score_probes(
        Counting(tiny.model),
        tiny.encoder,
        [*PROBES, Probe("retain", same, ("answer", "paraphrase"), generate=None)],
        batch_size=5,
        accelerator=Accelerator(cpu=True),
    )
    assert sum(seen) == 7 * 4 + len(tiny.encoder.encode(TEXT)) + 1
    assert min(seen[:-1]) >= 5


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
        broken.score([Probe("forget", ROWS[0], generate=None)])


def test_the_distribution_equals_a_plain_loop(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean and standard deviation of log p under p, at each answer token; only where it is asked
    for."""
    probe = Probe("forget", ROWS[0], generate=None)
    monkeypatch.setattr(scoring, "POSITIONS", 2)
    (row,) = tiny.score([probe], needs=lambda set_: {"distribution"})
    (item,) = tiny.encoder.encode(ROWS[0])
    with torch.no_grad():
        logits = tiny.model(torch.from_numpy(item.input_ids.astype(np.int64))[None]).logits[0]
    logp = logits[item.start - 1 : item.end - 1].double().log_softmax(-1)
    assert row.answer is not None
    assert row.answer.expected_logp == pytest.approx((logp.exp() * logp).sum(-1).numpy(), abs=1e-5)
    variance = (logp.exp() * logp**2).sum(-1) - (logp.exp() * logp).sum(-1) ** 2
    assert row.answer.spread_logp == pytest.approx(variance.sqrt().numpy(), abs=1e-4)
    (plainly,) = tiny.score([probe])
    assert plainly.answer is not None
    assert plainly.answer.expected_logp is None


def test_the_gradient_norm_equals_a_backward_pass(tiny: Tiny) -> None:
    """Mean over the parameter tensors of the norm of the mean loss's gradient; frozen tensors
    count, and nothing is left behind."""
    frozen = next(tiny.model.parameters())
    frozen.requires_grad_(False)
    probe = Probe("forget", ROWS[0], generate=None)
    (row,) = tiny.score([probe], needs=lambda set_: {"gradient"})
    assert not frozen.requires_grad
    assert all(parameter.grad is None for parameter in tiny.model.parameters())
    frozen.requires_grad_(True)
    (item,) = tiny.encoder.encode(ROWS[0])
    ids = torch.from_numpy(item.input_ids.astype(np.int64))[None]
    labels = ids.clone()
    labels[:, : item.start] = -100
    tiny.model(ids, labels=labels).loss.backward()
    norms = [float(p.grad.norm()) for p in tiny.model.parameters()]
    tiny.model.zero_grad()
    assert row.answer is not None
    assert row.answer.gradient_norm == pytest.approx(np.mean(norms), rel=1e-4)


def test_answers_are_drawn_as_often_as_asked(tiny: Tiny) -> None:
    """Three a row, not all the same, the same again with the same seed and others with another."""
    drawn = [row.samples for row in tiny.score(PROBES)[: len(ROWS)]]
    assert {len(samples) for samples in drawn} == {3}
    assert any(len(set(samples)) > 1 for samples in drawn)
    assert [row.samples for row in tiny.score(PROBES)[: len(ROWS)]] == drawn
    assert [row.samples for row in tiny.score(PROBES, seed=1)[: len(ROWS)]] != drawn


def test_an_answer_begins_with_its_prefix_and_ends_before_a_stop(tiny: Tiny) -> None:
    """The prefix is put behind the prompt and is not part of the answer; what follows a stop text
    is cut off."""
    (whole,) = tiny.score([Probe("forget", ROWS[0], generate=Decoding(12, prefix="Author 1"))])
    ids = tiny.encoder.prompt(ROWS[0], prefix="Author 1").tolist()
    new: list[int] = []
    while len(new) < 12 and not set(new) & set(tiny.encoder.end_ids):
        with torch.no_grad():
            new.append(int(tiny.model(torch.tensor([ids + new])).logits[0, -1].argmax()))
    assert whole.generation == tiny.encoder.decode(new).strip()
    stop = whole.generation.split()[1]
    (short,) = tiny.score([Probe("forget", ROWS[0], generate=Decoding(12, (stop,), "Author 1"))])
    assert short.generation == whole.generation.split(stop)[0].strip()


def test_a_batch_that_does_not_fit_is_halved(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for two rows at a time is enough for any batch size; for none it is an error."""
    expected = plain(tiny.score(PROBES, 2))
    real = Scorer.look

    def limited(self: Scorer, items: Any, see: Any) -> Any:
        if len(items) > limit:
            raise torch.OutOfMemoryError
        return real(self, items, see)

    monkeypatch.setattr(Scorer, "look", limited)
    limit = 2
    found = tiny.score(PROBES, 64)
    for row, (*_, generation, _) in zip(found, expected, strict=True):
        assert row.generation == generation
    limit = 0
    with pytest.raises(torch.OutOfMemoryError):
        tiny.score(PROBES, 64)


def test_what_was_said_is_not_asked_again(tiny: Tiny) -> None:
    """With the memo of a first call a second one runs nothing, and has the same bits."""
    memo = Memo()
    first = tiny.score(PROBES, memo=memo)

    class Silent(Scorer):
        def look(self, items: Any, see: Any) -> Any:
            raise AssertionError

        def packs(self, tokens: int) -> bool:
            raise AssertionError

    silent = Tiny()
    silent.scorer = Silent(silent.model)
    assert plain(silent.score(PROBES, memo=memo)) == plain(first)


def test_a_batch_has_as_many_tokens_whatever_its_rows() -> None:
    """Two of the longest row, 12 tokens, or as many of shorter ones as fit into 24."""
    lengths = dict(enumerate([12, 3, 6, 3, 5, 3, 12]))
    assert in_batches(lengths, 24, {k: k for k in lengths}) == [[0, 6], [2, 4, 1, 3], [5]]


def test_small_models_answer_more_prompts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values of a token take 2 layers x 2 x 32 values x 4 bytes here: a limit of so many
    for 100 tokens a row, in batches of one row, lets four rows of 20 to 25 tokens go together."""
    tiny = Tiny()
    prompts = [len(tiny.encoder.prompt(row)) + SHORT.max_new_tokens for row in ROWS]
    assert 100 // max(prompts) < len(ROWS)
    config = tiny.model.config
    wide = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    sizes: list[int] = []
    real = generate_batch

    def counted(model: Any, encoder: Encoder, some: Any, *rest: Any, **options: Any) -> list[str]:
        sizes.append(len(some))
        return real(model, encoder, some, *rest, **options)

    monkeypatch.setattr(scoring, "generate_batch", counted)
    probes = [Probe("forget", row, (), SHORT) for row in ROWS]
    monkeypatch.setattr(scoring, "ROW_BYTES", 0)
    alone = plain(tiny.score(probes, 1))
    assert sizes == [1] * len(ROWS)
    sizes.clear()
    monkeypatch.setattr(scoring, "ROW_BYTES", 100 * wide)
    assert plain(tiny.score(probes, 1)) == alone
    assert sum(sizes) == len(ROWS)
    assert sizes[0] == 100 // max(prompts)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_do_not_matter(tiny: Tiny, tmp_path: Path, processes: int) -> None:
    """Every process holds all rows, with the same bits as one process alone; with more processes
    than a last round has batches, too."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={processes}", "-m", "tests.engine.test_score", str(tmp_path)]
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


def _main(folder: Path) -> None:
    """Score the probes and write what this process has."""
    found = plain(Tiny().score(PROBES))
    rank = os.environ["RANK"]
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
