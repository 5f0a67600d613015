"""What the cache has is used as it was made, or made again, whatever became of it on its disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Here, Outcome, Workplace, evaluation, events, weights

pytestmark = pytest.mark.slow
RUN = ("run", "spec.toml", "--set", "method.name=npo", "--set", "train.steps=2")
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "one bit": lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
}
FILES = {
    "target": "models/*/model.safetensors",
    "reference_pass": "references/*/forget.logp.npy",
    "evaluate": "evaluations/*/tofu.json",
}
"""Stage -> what it left in the cache."""


@pytest.fixture(scope="module")
def made(
    finished: tuple[Workplace, Outcome, Path], tmp_path_factory: pytest.TempPathFactory
) -> Workplace:
    """A run with a cache of its own."""
    folder = tmp_path_factory.mktemp("made")
    place = Workplace(folder, folder / "cache")
    place.spec.write_text(finished[0].spec.read_text("utf-8"), encoding="utf-8")
    outcome = place.unlearn(*RUN)
    assert outcome.code == 0, outcome.err
    return place


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("stage", FILES)
def test_a_damaged_entry_is_named_and_made_again(
    stage: str,
    how: str,
    made: Workplace,
    here: Here,
    place: Workplace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another run with the same inputs says which file it was, and ends with the same bits; the one
    after it takes what that one made, and says nothing."""
    shutil.copytree(made.cache, place.folder / "cache")
    monkeypatch.setenv("UNLEARN_CACHE", str(place.folder / "cache"))
    hurt = sorted((place.folder / "cache").glob(FILES[stage]))
    assert hurt
    for file in hurt:
        file.write_bytes(DAMAGES[how](file.read_bytes()))
    for name in ("mended", "after"):
        outcome = here(*RUN, "--name", name)
        assert outcome.code == 0, outcome.err
        run = place.run_folder(name)
        assert weights(run / "model") == weights(made.run_folder("tiny") / "model")
        for step in ("step-0", "step-2", "retain_reference"):
            expected = evaluation(made.run_folder("tiny"), step)["table"]
            assert evaluation(run, step)["table"] == expected
        told = [e["text"] for e in events(run, "Notice") if "is not whole" in e["text"]]
        assert [str(file) in text for file, text in zip(hurt, sorted(told), strict=False)] == (
            [True] * len(told)
        )
        assert len(told) == (len(hurt) if name == "mended" else 0)
