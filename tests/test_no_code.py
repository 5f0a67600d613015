"""No file that is read can run code: the loaders that could are not used, and bad files are shown
to those that are."""

from __future__ import annotations

import ast
import json
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from unlearn_plugins.datasets._read import read, read_hub

from unlearn_cli.engine.builtin import make_tiny
from unlearn_cli.engine.checkpoints import Checkpoints, State
from unlearn_cli.engine.models import load_model, read_weights, save_model
from unlearn_cli.engine.reference import ReferenceStore
from unlearn_cli.errors import DataError, ModelError, RunError, SpecError, UnlearnError
from unlearn_cli.evaluations import Evaluation
from unlearn_cli.runs import RunFolder
from unlearn_cli.spec.load import load_spec
from unlearn_cli.spec.tables import ModelTable

ROOT = Path(__file__).parents[1]
SOURCES = [*(ROOT / "unlearn_cli").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
CPU = torch.device("cpu")


def problems(tree: ast.AST) -> Iterator[str]:
    """What could run code that a file holds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in UNSAFE_MODULES)
        elif isinstance(node, ast.ImportFrom) and _is_unsafe(str(node.module)):
            yield str(node.module)
        elif isinstance(node, ast.Call):
            yield from _call_problems(node)


def _is_unsafe(module: str) -> bool:
    """Whether a name from it may be such a loader; yaml's safe one is called by its full name."""
    return module.split(".")[0] in {*UNSAFE_MODULES, "yaml"}


def _call_problems(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if name in UNSAFE_CALLS or name.endswith(("read_pickle", "load_state_dict_from_url")):
        yield name
    if name == "torch.load" and given.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if name in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
        yield "np.load without allow_pickle=False"
    if name.startswith("yaml.") and name != "yaml.safe_load":
        yield name
    if given.get("trust_remote_code") == "True" or given.get("weights_only") == "False":
        yield f"{name} trusts"
    if given.get("shell") == "True" or name == "os.system":
        yield f"{name} with a shell"


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "from yaml import load",
        "yaml.load(f)",
        "yaml.full_load(f)",
        "eval(x)",
        "exec(x)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
        "pd.read_pickle(f)",
        "f(trust_remote_code=True)",
        "run(c, shell=True)",
    ],
)
def test_the_reader_of_sources_sees_what_it_should(text: str) -> None:
    """Each of the loaders that run code is recognised."""
    assert [*problems(ast.parse(text))]


def test_a_safe_reader_is_no_problem() -> None:
    """With their locks on, torch, numpy and yaml read data alone."""
    text = (
        "import yaml\nyaml.safe_load(f)\nnp.load(f, allow_pickle=False)\n"
        "torch.load(f, weights_only=True)"
    )
    assert [*problems(ast.parse(text))] == []


def test_no_source_uses_a_loader_that_could_run_code() -> None:
    """pickle and its kin, yaml but for its safe loader, eval, loaders without locks, shells."""
    found = {
        str(path.relative_to(ROOT)): names
        for path in SOURCES
        if (names := [*problems(ast.parse(path.read_bytes()))])
    }
    assert found == {}
    assert len(SOURCES) > 100


class Payload:
    """Unpickled, it leaves a file behind: the proof that code ran."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


@pytest.fixture
def payload(tmp_path: Path) -> Iterator[Payload]:
    """A payload that works, and did not run when the test is over."""
    pickle.loads(pickle.dumps(Payload(tmp_path / "works")))  # noqa: S301 - to know that it would
    assert (tmp_path / "works").exists()
    found = Payload(tmp_path / "code-ran")
    yield found
    assert not found.proof.exists()


def torch_pickle(payload: Payload, path: Path) -> None:
    """A file as `torch.save` writes it."""
    torch.save({"weight": payload}, path)
    assert zipfile.is_zipfile(path)


def made_in_code() -> tuple[Any, Any]:
    """A model and its tokenizer."""
    model, tokenizer = make_tiny(["Where was Mara born? In Oslo."], 0)
    return model, tokenizer


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    save_model(*made_in_code(), tmp_path / "model")
    return tmp_path / "model"


class TestModels:
    def test_a_bin_model_is_refused(self, model_folder: Path, payload: Payload) -> None:
        """A pickle in place of safetensors, whole or in parts, is not even opened."""
        (model_folder / "model.safetensors").unlink()
        torch_pickle(payload, model_folder / "pytorch_model.bin")
        with pytest.raises(ModelError, match="only safetensors are read") as caught:
            load_model(ModelTable(), str(model_folder), CPU)
        assert caught.value.where == str(model_folder)

    def test_a_config_that_names_a_pickle_is_refused(
        self, model_folder: Path, payload: Payload
    ) -> None:
        """transformers lets a config choose the file of weights."""
        (model_folder / "model.safetensors").unlink()
        torch_pickle(payload, model_folder / "adapter_model.bin")
        config = json.loads((model_folder / "config.json").read_text())
        config["transformers_weights"] = "adapter_model.bin"
        (model_folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match="cannot be loaded"):
            load_model(ModelTable(), str(model_folder), CPU)

    def test_a_pickle_called_safetensors_is_refused(
        self, model_folder: Path, payload: Payload
    ) -> None:
        """The name of a file does not decide what is in it."""
        (model_folder / "model.safetensors").write_bytes(pickle.dumps(payload))
        with pytest.raises(ModelError, match="cannot be loaded"):
            load_model(ModelTable(), str(model_folder), CPU)

    def test_code_beside_a_model_does_not_run(self, model_folder: Path, payload: Payload) -> None:
        """`auto_map` in the config names Python in the folder; without trust it is refused."""
        config = json.loads((model_folder / "config.json").read_text())
        config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C"}}
        (model_folder / "config.json").write_text(json.dumps(config))
        code = f"import pathlib\npathlib.Path({str(payload.proof)!r}).touch()\nclass C: ...\n"
        (model_folder / "mine.py").write_text(code)
        with pytest.raises(ModelError, match="cannot be loaded"):
            load_model(ModelTable(), str(model_folder), CPU)

    def test_a_bin_adapter_is_refused(
        self, model_folder: Path, tmp_path: Path, payload: Payload
    ) -> None:
        """peft would fall back on it."""
        adapter = tmp_path / "adapter"
        adapter.mkdir()
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": str(model_folder),
            "r": 2,
            "target_modules": ["q_proj"],
        }
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        torch_pickle(payload, adapter / "adapter_model.bin")
        with pytest.raises(ModelError, match=r"without adapter_model\.safetensors"):
            load_model(ModelTable(), str(adapter), CPU)

    @pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03" + b"\xff" * 64, b"garbage" * 99])
    def test_a_gguf_of_garbage_is_refused(self, content: bytes, tmp_path: Path) -> None:
        """Cut or filled with anything: one line that names it."""
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        with pytest.raises(ModelError) as caught:
            load_model(ModelTable(), str(path), CPU)
        assert caught.value.where == str(path)
        assert "\n" not in caught.value.line()


class TestCheckpoints:
    @pytest.fixture
    def checkpoints(self, tmp_path: Path) -> Checkpoints:
        found = Checkpoints(tmp_path / "checkpoints", keep=3)
        found.save(State(1, {}), *made_in_code(), {"state": {}})
        return found

    def test_a_pickle_in_place_of_the_optimizer_is_refused(
        self, checkpoints: Checkpoints, payload: Payload
    ) -> None:
        """Its hash gives it away; and where that was forged as well, the loader refuses it."""
        path = checkpoints.path(1) / "optimizer.pt"
        torch_pickle(payload, path)
        with pytest.raises(RunError, match="is damaged"):
            checkpoints.state(1)
        with pytest.raises(RunError, match="is no state of an optimizer"):
            checkpoints.optimizer(1)
        path.write_bytes(pickle.dumps(payload))
        with pytest.raises(RunError, match="is no state of an optimizer"):
            checkpoints.optimizer(1)

    def test_links_out_of_the_folder_are_damage(
        self, checkpoints: Checkpoints, tmp_path: Path
    ) -> None:
        """A file behind a link is not what was written, though its bytes are the same."""
        path = checkpoints.path(1) / "model.safetensors"
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(RunError, match=r"model\.safetensors: is damaged"):
            checkpoints.state(1)
        assert checkpoints.newest()[0] is None

    def test_a_checkpoint_that_is_a_link_is_none(
        self, checkpoints: Checkpoints, tmp_path: Path
    ) -> None:
        """It is neither read nor deleted, nor what it points to."""
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "thesis").write_text("...")
        checkpoints.path(5).symlink_to(outside)
        assert checkpoints.steps() == [1]
        checkpoints.discard_after(0)
        assert (outside / "thesis").exists()

    @pytest.mark.parametrize("name", ["../../thesis", "/etc/hostname", "more.bin"])
    def test_what_the_list_names_is_in_the_folder(
        self, checkpoints: Checkpoints, name: str
    ) -> None:
        """A list of hashes that leads elsewhere, or names what is not there, is damage."""
        path = checkpoints.path(1) / "hashes.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: "0" * 64}))
        with pytest.raises(RunError, match="is damaged"):
            checkpoints.state(1)

    @pytest.mark.parametrize("file", ["hashes.json", "state.json"])
    @pytest.mark.parametrize("bomb", ["[" * 100_000, "[]", "null", "9" * 5000, '{"a": 1}'])
    def test_a_bomb_of_json_is_damage(self, checkpoints: Checkpoints, file: str, bomb: str) -> None:
        """Brackets without end, a number of thousands of digits, JSON of another shape."""
        folder = checkpoints.path(1)
        (folder / file).write_text(bomb)
        if file == "state.json":
            hashes = json.loads((folder / "hashes.json").read_text())
            from unlearn_cli.files import sha256

            hashes[file] = sha256(folder / file)
            (folder / "hashes.json").write_text(json.dumps(hashes))
        with pytest.raises(RunError, match="is damaged"):
            checkpoints.state(1)
        assert checkpoints.best() is None

    def test_weights_are_read_from_safetensors_alone(
        self, checkpoints: Checkpoints, payload: Payload
    ) -> None:
        """Resuming reads no pickle either."""
        folder = checkpoints.path(1)
        (folder / "model.safetensors").unlink()
        torch_pickle(payload, folder / "pytorch_model.bin")
        with pytest.raises(OSError, match="safetensors"):
            read_weights(made_in_code()[0], folder)


class TestStores:
    def test_objects_in_the_reference_store_are_refused(
        self, tmp_path: Path, payload: Payload
    ) -> None:
        """An array of objects is a pickle."""
        np.save(tmp_path / "forget.rows.npy", np.array([payload], dtype=object))
        np.save(tmp_path / "forget.offsets.npy", np.array([0, 1]))
        with pytest.raises(RunError, match="is no array that the reference pass wrote"):
            ReferenceStore(tmp_path, None)

    @pytest.mark.parametrize("content", [b"", b"garbage", b"\x93NUMPY\x01\x00"])
    def test_a_damaged_reference_store_is_named(self, content: bytes, tmp_path: Path) -> None:
        """With what to do: the store is made again when it is gone."""
        (tmp_path / "forget.rows.npy").write_bytes(content)
        with pytest.raises(RunError, match=rf"delete {tmp_path}: it is made again"):
            ReferenceStore(tmp_path, None)

    @pytest.mark.parametrize("bomb", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000])
    def test_a_bomb_of_json_is_one_line(self, bomb: str, tmp_path: Path) -> None:
        """In a stored evaluation, a manifest, a log, and in data."""
        path = tmp_path / "rows.jsonl"
        path.write_text(bomb)
        with pytest.raises(DataError):
            read(path)
        with pytest.raises(DataError):
            read(path.rename(tmp_path / "rows.json"))
        with pytest.raises(RunError):
            Evaluation.from_json(bomb)
        run = RunFolder.create(tmp_path / "run", 'name = "x"\n')
        (run.folder / "events.jsonl").write_text(bomb + "\n")
        with pytest.raises(RunError):
            run.events()
        (run.folder / "manifest.json").write_text(bomb)
        with pytest.raises(RunError):
            _ = run.manifest

    @pytest.mark.parametrize(
        "bomb", ["a = " + "[" * 5000, "a = " + "9" * 6000, "a." * 20_000 + "b = 1"]
    )
    def test_a_bomb_of_toml_is_one_line(self, bomb: str, tmp_path: Path) -> None:
        """As a spec, and as a flag."""
        path = tmp_path / "spec.toml"
        path.write_text(bomb)
        for source, flags in ((str(path), ()), ("quickstart", (bomb.replace(" = ", "="),))):
            with pytest.raises(SpecError) as caught:
                load_spec(source, flags)
            assert all("\n" not in problem.line() for problem in caught.value.problems)

    @pytest.mark.parametrize("name", ["data.pkl", "data.pickle", "data.pt", "data.pyd"])
    def test_a_folder_of_pickles_is_no_data(
        self, name: str, tmp_path: Path, payload: Payload
    ) -> None:
        """A folder that `datasets` reads holds rows, or is refused."""
        folder = tmp_path / "data"
        folder.mkdir()
        (folder / name).write_bytes(pickle.dumps(payload))
        with pytest.raises(UnlearnError):
            read_hub(str(folder))

    def test_a_script_of_data_does_not_run(self, tmp_path: Path, payload: Payload) -> None:
        """Scripts of data sets are not run, trusted or not: `datasets` has given them up."""
        folder = tmp_path / "data"
        folder.mkdir()
        code = f"import pathlib\npathlib.Path({str(payload.proof)!r}).touch()\n"
        (folder / "data.py").write_text(code)
        with pytest.raises(DataError, match="cannot be loaded"):
            read_hub(str(folder))
