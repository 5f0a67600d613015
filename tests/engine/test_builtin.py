"""The model made in code: the same bits each time, and every text writable."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import pre_tokenizers
from unlearn_plugins.datasets.people import People

from unlearn_cli.api import DataContext, Row
from unlearn_cli.engine.builtin import make_tiny

PRINT_FINGERPRINT = """
import hashlib
from unlearn_cli.engine.builtin import make_tiny
texts = ["Who is Ivo Penrose?", "Ivo Penrose is a potter.", "Where is Ivo Penrose from?"]
model, tokenizer = make_tiny(texts * 3, 7)
digest = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode())
for weight in model.state_dict().values():
    digest.update(weight.numpy().tobytes())
print(digest.hexdigest())
"""


def texts_of(row: Row) -> list[str]:
    optional = [text for text in (row.paraphrase, row.paraphrased_question) if text]
    return [row.question, row.answer, *optional, *row.perturbed]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    bundle = People().load(DataContext(seed=0, base=Path()))
    rows = (*bundle.forget, *bundle.retain, *bundle.holdout)
    return [text for row in rows for text in texts_of(row)]


def test_every_text_is_read_back_as_it_was(texts: list[str]) -> None:
    """Encoding and decoding loses nothing: neither of the data set nor of texts never seen."""
    tokenizer = make_tiny(texts, 0)[1]
    for text in (*texts, "Žluťoučký kůň", "日本語 🦀", "  two  spaces\n\ttab ", "don't , stop ."):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_nothing_is_unknown(texts: list[str]) -> None:
    """Every single byte is in the vocabulary, and there is no token for what is not."""
    tokenizer = make_tiny(texts, 0)[1]
    assert tokenizer.unk_token is None
    assert set(pre_tokenizers.ByteLevel.alphabet()) <= set(tokenizer.get_vocab())


def test_tokens_are_put_in_by_the_chat_template_alone(texts: list[str]) -> None:
    """Plain encoding adds no token of its own, so the prompt's tokens begin the whole text's."""
    tokenizer = make_tiny(texts, 0)[1]
    whole = tokenizer.encode("Ivo Penrose is a potter.")
    assert not set(whole) & set(tokenizer.all_special_ids)


def test_chat_template_ends_turns_with_the_end_token(texts: list[str]) -> None:
    """Written out by hand for one exchange; end of turn is the eos token, and pad is another."""
    tokenizer = make_tiny(texts, 0)[1]
    chat = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ivo."}]
    written = tokenizer.apply_chat_template(chat, tokenize=False)
    prompt = tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert written == "<|user|>Who?<|end|><|assistant|>Ivo.<|end|>"
    assert prompt == "<|user|>Who?<|end|><|assistant|>"
    assert tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|end|>")
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_seed_decides_the_weights(texts: list[str]) -> None:
    """Same seed, same bits; another seed, other weights; the global state is left alone."""
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, again, other = (make_tiny(texts, seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["model.embed_tokens.weight"], other["model.embed_tokens.weight"])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_same_bits_in_every_process() -> None:
    """Neither the hash seed of Python nor the process changes vocabulary or weights."""
    environments = ({**os.environ, "PYTHONHASHSEED": seed} for seed in ("0", "99"))
    command = [sys.executable, "-c", PRINT_FINGERPRINT]
    found = {
        subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
        for env in environments
    }
    assert len(found) == 1
    assert found.pop().strip()


def test_saved_model_and_tokenizer_load_with_the_library(texts: list[str], tmp_path: Path) -> None:
    """What save_pretrained writes, AutoModel and AutoTokenizer read: same logits, same ids."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = make_tiny(texts, 0)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer(texts[0], return_tensors="pt")["input_ids"]
    assert torch.equal(read(texts[0], return_tensors="pt")["input_ids"], ids)
    assert (read.eos_token, read.pad_token) == (tokenizer.eos_token, tokenizer.pad_token)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)
