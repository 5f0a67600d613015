"""From a row to text: what comes before the answer, the answer, and what ends it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from unlearn_cli.api.data import Message, Row
from unlearn_cli.errors import DataError, ModelError
from unlearn_cli.spec.tables import TemplateTable

# Free of letters that a template could look for, of white space that it could trim.
_MARK = "\x01\x02\x01"
_DATE_FORMATS = ("%d %b %Y", "%d %B %Y", "%Y-%m-%d", "%B %d, %Y")


@dataclass(frozen=True)
class Rendered:
    """A row as text; `prompt + answer + end` is what the model reads."""

    prompt: str
    answer: str
    end: str = ""
    """The end token as the template writes it; empty where the template writes none."""


class Renderer(Protocol):
    """Renders rows of kind `chat`."""

    end_id: int | None
    """The token that ends a turn, where the template writes one."""

    def __call__(self, row: Row) -> Rendered:
        """Render one row."""
        ...


def make_renderer(tokenizer: Any, template: TemplateTable) -> Renderer:
    """The tokenizer's chat template where it has one and the spec wants it; else the plain one."""
    if tokenizer.chat_template and template.chat == "auto":
        return ChatRenderer(tokenizer, template)
    return PlainRenderer(template)


class PlainRenderer:
    """The plain template of the spec: earlier turns are lines of their own."""

    end_id: int | None = None

    def __init__(self, template: TemplateTable) -> None:
        self.template = template

    def __call__(self, row: Row) -> Rendered:
        """Render one row; the engine adds the end token."""
        turns = with_system(row.messages, self.template.system)
        return Rendered("".join(map(self._turn, turns)), row.answer)

    def _turn(self, turn: Message) -> str:
        if turn.role == "user":
            # Not str.format: other braces of the template are meant literally.
            return self.template.prompt.replace("{question}", turn.content)
        return f"{turn.content}\n"


class ChatRenderer:
    """The tokenizer's own chat template, with a fixed date.

    What the template writes between its generation prompt and an answer (an empty block of
    thoughts, for instance) belongs to the prompt; what it writes behind the end token is cut off.

    Raises:
        ModelError: the template fails, or shows no answer of the assistant.
    """

    def __init__(self, tokenizer: Any, template: TemplateTable) -> None:
        self.tokenizer, self.system = tokenizer, template.system
        self.date = template.date
        self.source = pin_dates(tokenizer.get_chat_template(), template.date)
        self.before, self.after = self._around_answer()
        self.end, self.end_id = _first_special(tokenizer, self.after)

    def _around_answer(self) -> tuple[str, str]:
        """What the template writes before the answer, behind its own prompt; and after it."""
        try:
            prompt, whole = self._texts((Message("user", "?"),), _MARK)
        except Exception as error:
            raise ModelError(f"the chat template fails: {error}", hint=_PLAIN_HINT) from error
        before, mark, after = whole.removeprefix(prompt).partition(_MARK)
        if not mark:
            what = "the chat template does not show the assistant's answer"
            raise ModelError(what, hint=_PLAIN_HINT)
        return (before if whole.startswith(prompt) else ""), after

    def __call__(self, row: Row) -> Rendered:
        """Render one row.

        Raises:
            DataError: the template refuses the conversation, rewrites the prompt when an answer
                follows, or changes the answer.
        """
        where = f"row {row.id}"
        try:
            prompt, whole = self._texts(row.messages, row.answer)
        except Exception as error:  # jinja2 runs the template's code: it can raise anything
            what = f"the chat template refuses the conversation: {error}"
            raise DataError(what, where=where, hint=_PLAIN_HINT) from error
        if not whole.startswith(prompt):
            what = "the chat template writes another prompt where an answer follows"
            raise DataError(what, where=where, hint=_PLAIN_HINT)
        if whole.startswith(prompt + self.before):
            prompt += self.before
        answer = whole[len(prompt) :].removesuffix(self.after)
        if answer.strip() != row.answer.strip():
            what = "the chat template changes the answer"
            raise DataError(what, where=where, hint=_PLAIN_HINT)
        return Rendered(prompt, answer, self.end)

    def _texts(self, messages: Sequence[Message], answer: str) -> tuple[str, str]:
        """The prompt, and the whole with the answer."""
        turns = with_system(messages, self.system)
        before = [{"role": turn.role, "content": turn.content} for turn in turns]
        whole = [*before, {"role": "assistant", "content": answer}]
        return self._apply(before, True), self._apply(whole, False)

    def _apply(self, turns: list[dict[str, str]], add_generation_prompt: bool) -> str:
        text = self.tokenizer.apply_chat_template(
            turns,
            chat_template=self.source,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            date_string=self.date,
        )
        return str(text)


_PLAIN_HINT = 'set [template].chat = "never" to use the plain template'


def with_system(messages: Sequence[Message], system: str | None) -> tuple[Message, ...]:
    """The conversation, with the system message in front where it has none."""
    if system is None or any(turn.role == "system" for turn in messages):
        return tuple(messages)
    return (Message("system", system), *messages)


def pin_dates(template: str, date: str) -> str:
    """A chat template whose `strftime_now` knows one day only.

    Templates ask for today's date in two ways: `date_string`, which is a variable, and
    `strftime_now(format)`, which transformers defines and lets nobody replace. A macro of that
    name in front of the template hides it.

    Args:
        template: jinja2 source.
        date: e.g. "10 Apr 2025"; text that is no date is printed as it stands.
    """
    if "strftime_now" not in template:
        return template
    day = _parse_date(date)
    value = "format" if day else repr(date)
    for code in "aAbBdejmuwyYFHIMSpfXxZz" if day else "":
        value += f"|replace('%-{code}', {_part(day, code).lstrip('0')!r})"
        value += f"|replace('%{code}', {_part(day, code)!r})"
    # `+%}` keeps a line break that follows, which jinja2 would drop after a block.
    return f"{{% macro strftime_now(format) %}}{{{{ {value} }}}}{{% endmacro +%}}{template}"


def _part(day: datetime | None, code: str) -> str:
    return day.strftime(f"%{code}") if day else ""


def _parse_date(date: str) -> datetime | None:
    for form in _DATE_FORMATS:
        with suppress(ValueError):
            return datetime.strptime(date, form)
    return None


def _first_special(tokenizer: Any, text: str) -> tuple[str, int | None]:
    """`text` up to and with its first special token, and that token's id; ("", None) if none."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    special = set(tokenizer.all_special_ids) | {
        number for number, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    for token, (_, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        if token in special:
            return text[:end], int(token)
    return "", None
