"""MUSE on a tiny model: a few made-up news, unlearned and measured against the retain reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import Workplace, steps

pytestmark = pytest.mark.slow

PEOPLE = ("Mara", "Ivo", "Nell", "Otto")
STRANGERS = ("Ada", "Rolf", "Suse", "Tim")
SPEC = """
name = "news"

[data]
dataset = "muse"
path = "data"
max_length = 64

[target]
base = "builtin:tiny"
epochs = 60
batch_size = 8
learning_rate = 3e-3

[method]
name = "grad_ascent"
retain = "nll"

[train]
steps = 6
batch_size = 2
learning_rate = 1e-3

[[evaluate]]
evaluator = "muse"
verbmem_tokens = 8
knowmem_tokens = 4
"""


def news(who: str) -> str:
    return f"On Monday {who} opened a bakery and sold ninety loaves before noon."


def asked(*people: str) -> list[dict[str, str]]:
    return [{"question": f"What did {who} open?", "answer": "a bakery"} for who in people]


def write_muse(folder: Path) -> None:
    """Four news to forget, four to keep, four that nobody has read."""
    kept = ("Cleo", "Emil", "Fritz", "Greta")
    texts = {"raw/forget": PEOPLE, "raw/retain1": kept}
    texts |= {"privleak/forget": PEOPLE, "privleak/holdout": STRANGERS}
    splits = {name: [{"text": news(who)} for who in people] for name, people in texts.items()}
    splits["verbmem/forget"] = [
        {"prompt": f"On Monday {who} opened", "gt": "a bakery and sold ninety loaves before noon."}
        for who in PEOPLE
    ]
    splits |= {"knowmem/forget_qa": asked(*PEOPLE), "knowmem/forget_qa_icl": asked("Hugo")}
    splits |= {"knowmem/retain_qa": asked(*kept), "knowmem/retain_qa_icl": asked("Hugo")}
    for name, rows in splits.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The run folder of the spec above."""
    place = Workplace(tmp_path_factory.mktemp("news"), cache)
    place.spec.write_text(SPEC, encoding="utf-8")
    write_muse(place.folder / "data")
    outcome = place.unlearn("run", "spec.toml")
    assert outcome.code == 0, outcome.err
    return place.run_folder("news")


def numbers(run: Path, place: str) -> dict[str, Any]:
    """The figures of a stored evaluation."""
    text = (run / "evaluations" / place / "muse.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)["table"]["numbers"]
    return found


def test_every_figure_is_measured(run: Path) -> None:
    """Six steps; before and after them, the four measures and what they come from, none null."""
    assert steps(run) == [1, 2, 3, 4, 5, 6]
    for place in ("step-0", "step-6"):
        assert {name: number["n"] for name, number in numbers(run, place).items()} == {
            "forget_verbmem.rouge_f1": 4,
            "forget_knowmem.rouge_f1": 4,
            "retain_knowmem.rouge_f1": 4,
            "forget_privleak.min_k": 4,
            "holdout_privleak.min_k": 4,
            "privleak": 8,
        }
        assert all(number["value"] is not None for number in numbers(run, place).values())


def test_the_target_knows_what_is_then_raised(run: Path) -> None:
    """The target goes on with each text word by word, and every excerpt of what it learned is less
    surprising to it than any other (-100, the least there is); then gradient ascent makes them more
    surprising."""
    before, after = numbers(run, "step-0"), numbers(run, "step-6")
    assert before["forget_verbmem.rouge_f1"]["value"] == 1
    assert before["privleak"]["value"] == pytest.approx(-100)
    assert before["forget_privleak.min_k"]["value"] < after["forget_privleak.min_k"]["value"]


def test_the_verdict_is_that_of_muse(run: Path) -> None:
    """What the target knew and the reference does not is still answered: not forgotten."""
    verdict = json.loads((run / "manifest.json").read_text("utf-8"))["verdict"]
    after, before, reference = (
        numbers(run, place)["forget_knowmem.rouge_f1"]["value"]
        for place in ("step-6", "step-0", "retain_reference")
    )
    left = (after - reference) / (before - reference)
    assert left > 0.1
    assert verdict["name"] == "not forgotten"
    assert f"{left:.0%} of the knowledge memorisation is left" in verdict["explanation"]
