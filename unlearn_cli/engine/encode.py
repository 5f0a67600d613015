"""From rows to token ids: the one place that decides which tokens carry loss.

Differences from common practice, each the cure of a known defect:

1. The prompt's length comes from the tokenisation of the whole text, not from a second one of the
   prompt: a token across the border belongs to the answer.
2. Exactly one end token carries loss; what a template writes behind it is cut off.
3. Nothing is told from token ids: a pad token that equals the end token is harmless.
4. Long texts are cut into chunks of token ids, never decoded and encoded again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlearn_cli.api.data import Message, Row
from unlearn_cli.engine.render import Rendered, make_renderer
from unlearn_cli.errors import DataError, ModelError, UsageError
from unlearn_cli.spec.tables import TemplateTable

TokenIds = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Encoded:
    """One sequence of T tokens, of which `input_ids[start:end]` carry loss."""

    input_ids: TokenIds
    """(T,) without padding."""
    start: int
    """Index of the first answer token; at least 1, as something has to predict it."""
    end: int
    """One past the last answer token, which is the end token where there is one; at most T."""


@dataclass(frozen=True)
class _Tokens:
    """One text as tokens."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    """Characters of each token, [first, last)."""


class Encoder:
    """Turns rows into token ids.

    Args:
        tokenizer: a fast tokenizer of transformers (it tells where tokens stand in the text).
        template: how a conversation becomes text.
        max_length: longest sequence, tokens, at least 2.

    Raises:
        ModelError: the tokenizer tells no offsets, has no end token, or a template that fails.
    """

    def __init__(self, tokenizer: Any, template: TemplateTable, max_length: int) -> None:
        if not tokenizer.is_fast:
            what = f"{type(tokenizer).__name__} does not tell where tokens stand in the text"
            raise ModelError(what, hint="use a model with a fast tokenizer (tokenizer.json)")
        if max_length < 2:
            what = f"{max_length} leaves no room for an answer"
            raise UsageError(what, where="[data].max_length", hint="use at least 2")
        self.tokenizer, self.template, self.max_length = tokenizer, template, max_length
        self._render_chat = make_renderer(tokenizer, template)
        self._bos = _tokens_in_front(tokenizer)

    def encode(
        self, row: Row, answer: str | None = None, question: str | None = None
    ) -> list[Encoded]:
        """Encode one row, with another answer or question where given; see `encode_many`."""
        return self.encode_many([asked(row, answer, question)])[0]

    def encode_many(self, rows: Sequence[Row]) -> list[list[Encoded]]:
        """Encode rows, all in one call of the tokenizer.

        Returns:
            For each row one sequence, several for a text that is longer than `max_length`, none
            where the answer has no token.

        Raises:
            DataError: an answer that does not fit, or that the chat template refuses; names the
                row.
        """
        rendered = [self._render(row) for row in rows]
        tokens = self._tokenize([text.prompt + text.answer + text.end for text in rendered])
        return [
            self._chunks(found.ids) if row.kind == "text" else self._whole(row, text, found)
            for row, text, found in zip(rows, rendered, tokens, strict=True)
        ]

    def prompt(self, row: Row, question: str | None = None, prefix: str = "") -> TokenIds:
        """(T,) the tokens to generate from: exactly those that `encode` puts before the answer.

        Args:
            row: the row.
            question: ask this instead.
            prefix: begin the answer with these words.

        Raises:
            DataError: there is nothing to generate from.
        """
        items = self.encode(row, answer=prefix or None, question=question)
        if not items:
            raise DataError("the answer has no token", where=f"row {row.id}")
        item = items[0]
        if not prefix:
            return item.input_ids[: item.start]
        return item.input_ids[: item.end if row.kind == "text" else item.end - 1]

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end a generation: of the chat template, and of the tokenizer."""
        found = (self._render_chat.end_id, self.tokenizer.eos_token_id)
        return tuple(dict.fromkeys(token for token in found if token is not None))

    def decode(self, ids: Sequence[int] | TokenIds) -> str:
        """Token ids as text, without special tokens."""
        plain = [int(token) for token in ids]
        return str(
            self.tokenizer.decode(
                plain, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that decides the token ids of a row."""
        parts = {
            # Padding and truncation are state that other users of the tokenizer leave behind.
            "tokenizer": json.loads(self.tokenizer.backend_tokenizer.to_str())
            | {"padding": None, "truncation": None},
            "chat_template": self.tokenizer.chat_template,
            "special_tokens": {k: str(v) for k, v in self.tokenizer.special_tokens_map.items()},
            "bos": self._bos,
            "template": self.template.model_dump(),
            "max_length": self.max_length,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _render(self, row: Row) -> Rendered:
        if row.kind == "chat":
            return self._render_chat(row)
        return Rendered(row.prompt if row.kind == "completion" else "", row.answer)

    def _tokenize(self, texts: list[str]) -> list[_Tokens]:
        """Token ids without what the tokenizer would put around them."""
        if not texts:
            return []
        found = self.tokenizer(
            texts,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            truncation=False,
            padding=False,
            verbose=False,  # no warning that a text is longer than the model's window
        )
        pairs = zip(found["input_ids"], found["offset_mapping"], strict=True)
        return [_Tokens(ids, offsets) for ids, offsets in pairs]

    def _whole(self, row: Row, text: Rendered, tokens: _Tokens) -> list[Encoded]:
        """One sequence: the prompt, cut from the left where it must be, and the whole answer."""
        border = len(text.prompt)
        start = sum(last <= border for _, last in tokens.offsets)
        answered = sum(first < border + len(text.answer) for first, _ in tokens.offsets[start:])
        if not answered:
            return []
        answer = tokens.ids[start:] if text.end else [*tokens.ids[start:], self._eos()]
        prompt = self._without_bos(tokens.ids[:start])
        room = self.max_length - len(answer)
        if room < max(1, len(self._bos)):
            raise DataError(
                f"the answer has {len(answer)} tokens, with {self.max_length} in all",
                where=f"row {row.id}",
                hint="raise [data].max_length, or shorten the answer",
            )
        kept = prompt[max(0, len(prompt) + len(self._bos) - room) :]
        before = [*self._bos, *kept]
        ids = np.array(before + answer, dtype=np.int32)
        return [Encoded(ids, max(1, len(before)), len(ids))] if len(ids) > 1 else []

    def _chunks(self, ids: list[int]) -> list[Encoded]:
        """A text as sequences of at most `max_length`, each with BOS where the tokenizer adds it.

        The first token of a chunk has no label. No end token is added: a text is an excerpt.
        """
        ids = self._without_bos(ids)
        size = self.max_length - len(self._bos)
        if size < 1:
            return []
        chunks = (self._bos + ids[first : first + size] for first in range(0, len(ids), size))
        return [
            Encoded(np.array(chunk, dtype=np.int32), 1, len(chunk))
            for chunk in chunks
            if len(chunk) > 1
        ]

    def _without_bos(self, ids: list[int]) -> list[int]:
        """The ids without a BOS that a chat template printed: it is put in front once."""
        count = len(self._bos)
        return ids[count:] if ids[:count] == self._bos else ids

    def _eos(self) -> int:
        if self.tokenizer.eos_token_id is None:
            what = "the tokenizer has no end token"
            raise ModelError(what, hint="set eos_token in the tokenizer's configuration")
        return int(self.tokenizer.eos_token_id)


def asked(row: Row, answer: str | None = None, question: str | None = None) -> Row:
    """The row with another answer, or another question: the last user message, or the prompt."""
    if answer is not None:
        row = replace(row, answer=answer)
    if question is None:
        return row
    if row.kind != "chat":
        return replace(row, prompt=question)
    return replace(row, messages=(*row.messages[:-1], Message("user", question)))


def _tokens_in_front(tokenizer: Any) -> list[int]:
    """The ids that the tokenizer puts before a text: BOS, or nothing."""
    inner = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    starts = (k for k in range(len(whole)) if whole[k : k + len(inner)] == inner)
    return list(whole[: next(starts, 0)])
