"""A hub that is not there, is broken or says nothing: asked again, then one line; what is cached
works without it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, file_download

from unlearn_cli.engine.models import load_model, save_model
from unlearn_cli.errors import ModelError
from unlearn_cli.spec.tables import ModelTable

NAME = "nobody/nothing"
CPU = torch.device("cpu")


@dataclass
class Hub:
    """A server on this machine that counts what it is asked."""

    manner: str = "broken"
    asked: list[str] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)


def ask(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As HF_ENDPOINT does before the library is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The only hub there is, with an empty cache; nobody waits between two tries."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            hub.asked.append(self.path)
            if hub.manner == "silent":
                hub.gone.wait(10)
            self.send_response(500)
            self.end_headers()

        do_GET = do_HEAD  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Not on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    ask(f"http://127.0.0.1:{server.server_port}", monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)  # seconds
    monkeypatch.setattr(file_download, "_ETAG_RETRY_TIMEOUT", 0.2)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    yield hub
    hub.gone.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("manner", ["broken", "silent"])
def test_a_hub_that_fails_is_asked_again_and_then_named(hub: Hub, manner: str) -> None:
    """Error 500, or no answer in time: the same file more than once, then one line with the id and
    what would work."""
    hub.manner = manner
    with pytest.raises(ModelError) as caught:
        load_model(ModelTable(), NAME, CPU)
    assert "\n" not in caught.value.line()
    assert caught.value.where == NAME
    assert "HF_HUB_OFFLINE=1" in caught.value.hint
    assert max(hub.asked.count(path) for path in hub.asked) > 1


def test_a_hub_that_is_not_there_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens at its address."""
    ask("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(ModelError) as caught:
        load_model(ModelTable(), NAME, CPU)
    assert "\n" not in caught.value.line()
    assert caught.value.where == NAME
    assert "network" in caught.value.hint


@pytest.mark.parametrize("offline", [True, False])
def test_what_is_cached_works_without_the_hub(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    """With HF_HUB_OFFLINE nothing is asked at all; without it a broken hub is in nobody's way."""
    tiny = load_model(ModelTable(), "builtin:tiny", CPU, ["Mara baked it."])
    folder = tmp_path / "hub" / "models--nobody--nothing"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    save_model(tiny.model, tiny.tokenizer, folder / "snapshots" / ("0" * 40))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    found = load_model(ModelTable(), NAME, CPU)
    for name, value in tiny.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value)
    assert not (offline and hub.asked)
