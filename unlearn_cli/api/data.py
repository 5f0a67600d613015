"""The contract of a data set plugin: rows of text, before any tokenizer has seen them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

RowKind = Literal["chat", "completion", "text"]
"""What a row is: a conversation, a prompt with its completion, or plain text."""
Location = Annotated[str, "location"]
"""A path or hub id; a relative path that exists is made absolute in the resolved spec."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Row:
    """One example, as text.

    kind     what carries loss
    chat     `answer`, given as the assistant's turn after `messages` (question/answer rows have
             one user message); rendered with the chat template, or the plain template of the spec
    completion  `answer`, put directly behind `prompt`, with no template
    text     all of `answer`; cut into chunks of token ids when it is long
    """

    id: str
    """Stable name of the row in its split; appears in results and messages."""
    answer: str
    """The text that carries loss. With several accepted answers, the first."""
    kind: RowKind = "chat"
    messages: tuple[Message, ...] = ()
    """The conversation before the answer (kind `chat`)."""
    prompt: str = ""
    """The raw text before the answer (kind `completion`)."""
    answers: tuple[str, ...] = ()
    """All accepted answers, when there are several; includes `answer`."""
    alternates: tuple[str, ...] = ()
    """Answers to prefer instead of `answer` (methods such as DPO)."""
    paraphrase: str | None = None
    """The answer said in other words."""
    perturbed: tuple[str, ...] = ()
    """False answers, in the words of `paraphrase` where there is one."""
    paraphrased_question: str | None = None

    @property
    def question(self) -> str:
        """What the row asks, for people: the last user message, or the prompt."""
        return self.messages[-1].content if self.messages else self.prompt

    @classmethod
    def qa(
        cls,
        id: str,  # noqa: A002 - the field's own name
        question: str,
        answer: str,
        *,
        answers: tuple[str, ...] = (),
        alternates: tuple[str, ...] = (),
        paraphrase: str | None = None,
        perturbed: tuple[str, ...] = (),
        paraphrased_question: str | None = None,
    ) -> Row:
        """A question/answer row: one user message."""
        return cls(
            id=id,
            answer=answer,
            messages=(Message("user", question),),
            answers=answers,
            alternates=alternates,
            paraphrase=paraphrase,
            perturbed=perturbed,
            paraphrased_question=paraphrased_question,
        )


@dataclass(frozen=True)
class Bundle:
    """All rows of a run; a sequence need not be in memory.

    `forget` and `retain` are trained on; `holdout` was never seen by any model of the run.
    `evaluation` maps the name of an evaluation set (`forget`, `retain`, `real_authors`, ...) to
    its rows; a set that is missing there falls back to the training split of that name.
    """

    forget: Sequence[Row]
    retain: Sequence[Row] = ()
    holdout: Sequence[Row] = ()
    evaluation: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    """For people: what was found where, e.g. {"forget.question": "question"}."""

    def rows(self, name: str) -> Sequence[Row]:
        """The rows of evaluation set `name`; empty when there are none."""
        if name in self.evaluation:
            return self.evaluation[name]
        splits = {"forget": self.forget, "retain": self.retain, "holdout": self.holdout}
        return splits.get(name, ())


@dataclass(frozen=True)
class Reading:
    """Rows that are being read."""

    rows: Iterable[Row]
    """Gone through once."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """For people: what was found where, e.g. {"question": "question"}."""


@dataclass(frozen=True)
class Split:
    """Rows that were read."""

    rows: Sequence[Row]
    columns: Mapping[str, str]


class Keep(Protocol):
    """Reads rows, those of large files only once: afterwards they are on disk, not in memory."""

    def __call__(self, read: Callable[[], Reading], files: Sequence[Path], options: Any) -> Split:
        """What `read` gives.

        Args:
            read: reads; not called where these files were read with these options before.
            files: whose bytes decide the rows.
            options: what else decides them, as JSON holds it.
        """
        ...


def in_memory(read: Callable[[], Reading], files: Sequence[Path], options: Any) -> Split:
    """`Keep` without a disk."""
    found = read()
    return Split(tuple(found.rows), found.columns)


@dataclass(frozen=True)
class DataContext:
    """What a data set may know of the run."""

    seed: int
    base: Path
    """Folder against which relative paths of the spec are resolved."""
    keep: Keep = in_memory
    """For data sets that may be large. All processes of a run call it, in the same order."""


@runtime_checkable
class Dataset(Protocol):
    """A data set plugin: a frozen dataclass whose fields are its options in `[data]`.

    Raises `unlearn_cli.errors.DataError` naming file, line and column for data it cannot use.
    """

    def load(self, context: DataContext) -> Bundle:
        """Read or make the rows."""
        ...
