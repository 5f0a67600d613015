"""The tables of a spec: the one place that says which keys exist, their ranges and defaults.

`[data]`, `[method]` and `[[evaluate]]` also take the options of the plugin that they name; these
extra keys are checked against the plugin's own fields (`unlearn_cli.spec.plugins`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Every = Literal["epoch", "end"] | PositiveInt
Text = Annotated[str, Field(min_length=1)]
OptimizerName = Literal["adamw", "adamw_8bit", "adafactor"]
Condition = Annotated[
    str, Field(pattern=r"^\s*(<=|>=|<|>)\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*$")
]
VerdictName = Literal[
    "forgotten", "recoverable", "not forgotten", "over-forgotten", "collapsed", "unknown"
]
Name = Annotated[str, Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*$")]


class TableModel(BaseModel):
    """A table of the spec: strict types, no unknown keys, finite numbers, immutable."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class PluginTable(TableModel):
    """A table that names a plugin and also takes that plugin's options."""

    model_config = ConfigDict(extra="allow")

    @property
    def options(self) -> dict[str, Any]:
        """The plugin's own options, as written."""
        return dict(self.model_extra or {})


class ModelTable(TableModel):
    """Which model to unlearn."""

    path: Text | None = None
    """Hub id, local folder, `.gguf` file, or `builtin:tiny`. Not used where `target.base` is
    set."""
    revision: Text | None = None
    """Hub revision: branch, tag or commit."""
    tokenizer: Text | None = None
    """Hub id or folder of the tokenizer, where the model brings none."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the weights; `auto` is bfloat16 on an accelerator and float32 on CPU."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Attention implementation; `auto` lets the library choose."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Nothing runs unless the command says
    `--trust-remote-code` too."""


class TemplateTable(TableModel):
    """How a conversation becomes text."""

    chat: Literal["auto", "never"] = "auto"
    """`auto` uses the tokenizer's chat template where it has one; `never` the plain template."""
    prompt: str = "Question: {question}\nAnswer: "
    """Plain template of the prompt; `{question}` is the user's message."""
    system: str | None = None
    """System message put first where a conversation has none."""
    date: str = "10 Apr 2025"
    """The date given to chat templates that print today's."""


class DataTable(PluginTable):
    """What to forget and what to keep; also takes the options of the data set."""

    dataset: Text = "files"
    """Name of the data set plugin; `files` reads your own files or hub data."""
    max_length: PositiveInt = 512
    """Longest sequence, tokens. Longer prompts are cut from the left, answers never."""
    overlap: Literal["error", "warn", "allow"] = "warn"
    """What to do when a forget row also stands in retain."""
    alternates: Text = "refusals"
    """Answers to prefer (methods such as dpo): `refusals` (a list that comes with the tool),
    `column` (the rows' own), `model` (made before unlearning, see `[alternates]`), or the path of a
    text file, one answer a line."""


class AlternatesTable(TableModel):
    """How the model makes alternate answers, where `data.alternates` says `model`."""

    count: PositiveInt = 5
    """Different answers to each question."""
    prompt: Text = "{question}\nGive an answer that is plausible but not the true one."
    """What the model is asked; `{question}` is the row's question."""
    temperature: PositiveFloat = 1.0
    """Of the sampling."""
    max_new_tokens: PositiveInt = 200
    """Longest answer, tokens."""
    stop: Annotated[tuple[Text, ...], Field(strict=False)] = ("Question:", "Q:")
    """Texts at which an answer is cut off."""


class RecipeTable(TableModel):
    """How to fine-tune."""

    epochs: PositiveFloat = 5.0
    """Passes over the rows."""
    batch_size: PositiveInt = 32
    """Examples in an optimizer step, all processes together."""
    learning_rate: PositiveFloat = 1e-5
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Learning rate after warm-up."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    """Epochs of linear warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Clip gradients to this L2 norm; 0 does not clip."""
    optimizer: OptimizerName = "adamw"
    """As `train.optimizer`."""


class TargetTable(RecipeTable):
    """Make the target by fine-tuning, where none exists: on forget + retain, and on retain alone
    for the retain reference. Both are cached by the content of their inputs."""

    base: Text | None = None
    """Model to start from. Setting it turns this table on; `model.path` and `retain_reference.path`
    are then not used."""


class ReinforceTable(RecipeTable):
    """Fine-tune the target on the forget rows, for a method that compares with a model that knows
    them better (`whp`). Cached by the content of its inputs."""

    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs of linear warm-up."""


class RetainReferenceTable(TableModel):
    """The model that never saw the forget set, to compare with. At most one of the two."""

    path: Text | None = None
    """Hub id or folder of the retain model."""
    evaluation: Text | None = None
    """Stored evaluation of the retain model: JSON of this tool, a run folder, `TOFU_EVAL.json` of
    OpenUnlearning, or `eval_log_aggregated.json` of TOFU."""


class MethodTable(PluginTable):
    """How to unlearn; also takes the options of the method. The method sets the defaults of
    `gamma`, `alpha`, `retain` and `parameters`."""

    name: Text
    """Name of the method plugin (`unlearn list-methods`)."""
    gamma: Annotated[float, Field(ge=0)] | None = None
    """Weight of the forget term."""
    alpha: Annotated[float, Field(ge=0)] | None = None
    """Weight of the retain term."""
    retain: Literal["none", "nll", "kl", "hidden", "hidden_norm"] | None = None
    """The retain term: none, nll (token mean), kl to the reference at answer tokens,
    hidden or hidden_norm (distance to the reference's activations, where a method reads these)."""
    kl_positions: Literal["answer", "all"] = "answer"
    """Where the retain term kl is taken: at answer tokens, or at all tokens, prompts included."""
    parameters: Annotated[tuple[Text, ...], Field(strict=False, min_length=1)] | None = None
    """Names of the parameters to train; `*`, `?` and `[5-7]` stand for others."""


class WrapTable(TableModel):
    """What goes around any method. All are off unless set."""

    sam_rho: Annotated[float, Field(ge=0)] | None = None
    """Sharpness-aware: take the gradient of the forget term at weights moved this far uphill; makes
    relearning harder. Published: 0.01 (MUSE), 0.1 (WMDP)."""
    noise_sigma: Annotated[float, Field(ge=0)] | None = None
    """Smoothing: take the gradient of the forget term at weights with Gaussian noise of this
    standard deviation. Either this or `sam_rho`."""
    noise_samples: PositiveInt = 1
    """Draws of the noise in a step."""
    saliency: Annotated[float, Field(gt=0, le=1)] | None = None
    """Train only this share of the parameter tensors: those that the forget term pulls most. Lets
    updates survive quantization; published: 0.1 with a larger learning rate."""
    entropy_forget: float | None = None
    """Weight of the entropy of answers to forget rows; published: 1."""
    entropy_retain: float | None = None
    """Weight of the entropy of answers to retain rows; published: -0.25."""


class LoraTable(TableModel):
    """Train a low-rank adapter instead of the model (extra `lora`). Off unless `rank` is set. Among
    the parameters that the method trains, its linear layers get one."""

    rank: PositiveInt | None = None
    """Rank of the adapters; setting it turns this table on."""
    alpha: PositiveInt | None = None
    """Adapters are scaled by alpha / rank; by default twice the rank."""
    targets: Annotated[tuple[Text, ...], Field(strict=False, min_length=1)] | None = None
    """Linear layers, in full or by the last part of their name (`q_proj`); `*` and `?` stand for
    others. By default all but the output layer."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of the adapters' input, in training. What is dropped depends on `train.micro_batch` and the
    number of processes."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank)."""
    dora: bool = False
    """Train the norms of the weights' columns besides."""
    base: Literal["full", "nf4"] = "full"
    """How the weights under the adapter are held: as `[model]` says, or in 4 bits (QLoRA; extra
    `quantized`), half a byte a parameter for all linear layers but the output layer. Every model of
    the run that is measured is then held so; one that is fine-tuned first is not."""
    merge: bool = False
    """Put the adapter into the weights when training ends: a whole model is measured and saved, and
    not an adapter."""


class TrainTable(TableModel):
    """Optimisation."""

    epochs: PositiveFloat | None = None
    """Passes over the forget set. Give `epochs` or `steps`; with neither, 10 epochs."""
    steps: PositiveInt | None = None
    """Optimizer steps."""
    batch_size: PositiveInt = 32
    """Forget examples in an optimizer step, all processes together, each with one retain
    example."""
    micro_batch: PositiveInt | Literal["auto"] = 8
    """Rows in one forward pass of one process, or `auto` for as many as fit. Never changes the
    result, only speed and memory; halved where memory runs out."""
    learning_rate: PositiveFloat = 1e-5
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Learning rate after warm-up."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs of linear warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Clip gradients to this L2 norm; 0 does not clip."""
    optimizer: OptimizerName = "adamw"
    """What it keeps in memory for each parameter that is trained: `adamw` 8 bytes (4 in bfloat16),
    `adamw_8bit` 2 (extra `quantized`; tensors of less than 4096 parameters 8), `adafactor` less
    than 0.1, as it keeps a value for each row and each column. The `learning_rate` of `adafactor`
    is relative to the root mean square of each tensor."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Autocast of the forward pass; fp16 needs an accelerator."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    reference_limit_gib: PositiveFloat = 64.0
    """Largest reference store on disk, GiB; a larger one stops the run before it trains."""


class CheckpointTable(TableModel):
    """What to keep on the way; `every` also goes for models that are fine-tuned first."""

    every: Every = "epoch"
    """`epoch`, a number of steps, or `end` for none on the way. Where an evaluation is due on the
    way there is one too, so that a signal need not wait for it."""
    keep: PositiveInt = 1
    """Checkpoints kept, newest first; the best one is kept besides."""
    best: Text | None = None
    """A metric of the evaluations, e.g. `forget_quality`: its best checkpoint becomes the model."""


class EvaluateTable(PluginTable):
    """One evaluation; also takes the options of the evaluator."""

    evaluator: Text
    """Name of the evaluator plugin (`unlearn list-evaluators`)."""
    every: Every = "end"
    """Evaluate each `epoch`, each number of steps, or at the `end` only; the target always is."""
    batch_size: PositiveInt = 16
    """Of the longest rows in one forward pass of one process; of shorter ones more go together, and
    prompts as many as 16 MiB a row hold keys and values for."""


class VerdictTable(TableModel):
    """The thresholds of the verdict."""

    forget_quality: Fraction = 0.05
    """Forgotten where the p-value against the retain reference is above this."""
    memorized: Fraction = 0.1
    """Where MUSE is measured: the share of verbatim and of knowledge memorisation, between target
    and retain reference, that may be left."""
    privleak: PositiveFloat = 25.0
    """Where MUSE is measured: how far privacy leakage may be from 0, that of the retain reference,
    in percent. Two standard errors of it are 24 with 100 texts on each side."""
    utility: Fraction = 0.9
    """Share of the target's model utility that must be kept."""
    collapsed: Fraction = 0.5
    """Share of the target's utility below which the model is of no use any more."""
    fluency: Fraction = 0.5
    """The same of the fluency of answers, where it is measured."""
    recovered: Fraction = 0.25
    """A stress test brings knowledge back where the model regains more than this share of the gap
    between target and retain reference, in probability or ROUGE of the forget answers, or in
    memorisation as MUSE measures it."""


class RequireTable(TableModel):
    """What must hold at the end: where something does not, the exit code is 3. Keys are figures of
    the first evaluator, or `evaluator.figure`, in quotes where they have a dot; their values are
    conditions such as `">= 0.05"`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Condition]

    verdict: Annotated[tuple[VerdictName, ...], Field(strict=False, min_length=1)] | None = None
    """Verdicts that are accepted."""

    @property
    def conditions(self) -> dict[str, str]:
        """Figure -> condition, as written."""
        return dict(self.model_extra or {})


class OutputTable(TableModel):
    """Where results go."""

    folder: Text = "runs"
    """Folder of run folders; the run is written to `folder/name`."""
    tensorboard: bool = False
    """Write TensorBoard events (extra `tensorboard`)."""


class Spec(TableModel):
    """One run."""

    name: Name
    """Name of the run and of its folder."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Decides the plan of rows, and everything else that is drawn."""
    model: ModelTable = ModelTable()
    template: TemplateTable = TemplateTable()
    data: DataTable
    target: TargetTable = TargetTable()
    retain_reference: RetainReferenceTable = RetainReferenceTable()
    method: MethodTable
    alternates: AlternatesTable = AlternatesTable()
    reinforce: ReinforceTable = ReinforceTable()
    wrap: WrapTable = WrapTable()
    lora: LoraTable = LoraTable()
    train: TrainTable = TrainTable()
    checkpoints: CheckpointTable = CheckpointTable()
    evaluate: Annotated[tuple[EvaluateTable, ...], Field(strict=False)] = ()
    """The evaluations, each in a table `[[evaluate]]`."""
    verdict: VerdictTable = VerdictTable()
    require: RequireTable = RequireTable()
    output: OutputTable = OutputTable()
