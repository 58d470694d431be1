"""Wire models: what the services and their clients say to each other. No behaviour, no torch.

Requests forbid unknown fields, so that a typing mistake is an error that names the field and never a silent default.
Answers ignore unknown fields, so that an older client can read a newer service.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

MAX_TEXT_CHARS = 100_000
"""The longest text of one example, in characters. Far above any model's window; a bound on what a request can cost."""

MAX_TEMPLATE_CHARS = 20_000
"""The longest template of a request, in characters: room for worked examples. Every text is read in it."""

MAX_TOKEN_PROBABILITIES = 64
"""Tokens of one place of an answer whose probabilities are told: they hold nearly all of a sharp distribution."""


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS)]
TemplateText = Annotated[str, Field(max_length=MAX_TEMPLATE_CHARS)]


# --- the task ------------------------------------------------------------------------------------------------------


class TaskSpec(Request):
    """What a model is asked: written beside every model that we publish, as `task.json`.

    `classification`: one of `labels`. `choice`: one of the row's own `choices`. `generation`: any text.
    `template` turns an example's input into the text that the model reads; its own words are never a rationale.
    """

    kind: Literal["classification", "choice", "generation"] = "generation"
    labels: tuple[str, ...] = ()
    template: str = "{input}"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.template.count("{input}") != 1:
            raise ValueError("template must contain {input} exactly once")
        if self.kind == "classification" and len(self.labels) < 2:
            raise ValueError("a classification task needs at least two labels")
        if self.kind != "classification" and self.labels:
            raise ValueError(f"a {self.kind} task has no labels")
        return self


class Example(Request):
    """One row of a data set. `highlights` are character spans of `input` that a person marked as the reason."""

    id: str = Field(min_length=1, max_length=200)
    input: Text
    output: Text
    choices: tuple[Text, ...] | None = None
    rationale: str | None = None
    highlights: tuple[tuple[int, int], ...] | None = None


class RejectedRow(Answer):
    """A row that was set aside, and why. `line` counts from 1 in the uploaded file (rows, for Parquet)."""

    split: Literal["train", "validation", "test", "unlabelled"]
    line: int
    reason: str
    param: str | None = None


# --- attribution (teacher) -----------------------------------------------------------------------------------------


class Word(Answer):
    """A word of the user's text; `start` and `end` are character offsets into it, `end` exclusive."""

    text: str
    start: int
    end: int
    score: float


class AttributionExample(Request):
    """`output` is the text that is explained when the target is `gold`; `against` the answer to compare it with."""

    id: str | None = Field(default=None, max_length=200)
    input: Text
    output: Text | None = None
    choices: tuple[Text, ...] | None = Field(default=None, min_length=2)
    against: Text | None = None


class Selection(Request):
    """Which words of a map are its rationale.

    `top_k`: the `top_k` best words. `top_share`: the best words, as many as that share of all words. `threshold`: words
    that score at least this share of the best one. `span`: the `top_k` words in a row with the highest sum.
    `ignore` leaves words out before that; punctuation is no word at all unless it is taken off this list.
    """

    select: Literal["top_k", "top_share", "threshold", "span"] = "top_k"
    top_k: int = Field(default=5, ge=1, le=100)
    top_share: float = Field(default=0.2, gt=0, le=1)
    threshold: float = Field(default=0.5, gt=0, le=1)
    ignore: tuple[Literal["stop_words", "punctuation"], ...] = ("punctuation",)

    @property
    def most_words(self) -> int:
        """A bound on the words of one rationale."""
        return self.top_k if self.select in ("top_k", "span") else 100


class AttributionOptions(Selection):
    """How examples are explained: all that changes an answer, besides the model and the example.

    `labels` is the closed label set: with it the prediction is the likeliest label and `probabilities` are returned.
    `settings` are the method's own (`{"n_steps": 50}`). `target` is what is explained: `gold` each example's output,
    `predicted` the model's answer, `label` the answer named in `label`. `against` asks why not that answer instead: the
    difference of the two scores is explained. `rows` adds one row of scores for each token of the explained answer.
    `aggregation` makes one score of a word from its tokens'. `predict: false` leaves the model's own answer out, which
    saves time where only the map is wanted. `faithfulness` asks the model again without the words, and with them alone.
    `token_probabilities` asks for so many of the likeliest tokens at each place of the explained answer, of a model
    that writes; 0 asks for none.
    """

    labels: tuple[Text, ...] | None = Field(default=None, min_length=2)
    template: TemplateText | None = None
    method: str = "saliency"
    settings: dict[str, float | int | str] = {}
    target: Literal["gold", "predicted", "label"] = "predicted"
    label: Text | None = None
    against: Text | None = None
    rows: bool = False
    aggregation: Literal["sum", "mean", "max", "l1", "l2"] = "sum"
    predict: bool = True
    faithfulness: bool = False
    token_probabilities: int = Field(default=0, ge=0, le=MAX_TOKEN_PROBABILITIES)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.target == "label") != (self.label is not None):
            raise ValueError("label names the answer to explain when target is 'label', and only then")
        if not self.predict and self.target == "predicted":
            raise ValueError("predict must be true when target is 'predicted': it is the answer that is explained")
        return self


class AttributionRequest(AttributionOptions):
    """`model` is a name that the service knows, an artifact id, a local path or a hub name; None is its default."""

    model: str | None = None
    examples: tuple[AttributionExample, ...] = Field(min_length=1)


class Faithfulness(Answer):
    """Does the model need the words that the map names? After ERASER (DeYoung et al. 2020), p of the explained answer.

    `comprehensiveness` is p with all words minus p without the rationale: high is good. `sufficiency` is p with all
    words minus p with the rationale alone: low is good. The `aopc_` figures are means of the same over the best 1, 5,
    10, 20 and 50 % of the words. `log_odds` is the mean over those shares of log p without the words minus log p with
    all (low is good). `completeness_error` is the gap between the sum of the scores and the change of the explained
    score from the baseline, as a share of that change; None for methods that promise no such sum.
    """

    comprehensiveness: float
    sufficiency: float
    aopc_comprehensiveness: float
    aopc_sufficiency: float
    log_odds: float
    completeness_error: float | None = None


class TokenRow(Answer):
    """What decided one token of the explained answer: one score for each of the attribution's `words`."""

    token: str
    scores: tuple[float, ...]


class TokenProbabilities(Answer):
    """What the model expected at one place of the explained answer, with the answer's tokens before it given.

    `token` is the answer's own; the last ends it. Tokens are pieces as the model's vocabulary has them (`▁the`), which
    models of one family share. `probabilities` are those of the likeliest, these first; `rest` is what all others have.
    """

    token: str
    probabilities: dict[str, float]
    rest: float


class Attribution(Answer):
    """`words` cover the input in reading order. `rationale` are the selected ones, in reading order too.

    `explained` is the text whose logit was differentiated, `against` the one whose logit was taken off. `truncated`
    counts the tokens of the input that did not fit the model's window: words past the cut are absent from `words`.
    `prediction` is None where it was not asked for; it is `unfinished` where it broke off, as in a `Prediction`.
    """

    id: str | None
    prediction: str | None
    probability: float | None
    probabilities: dict[str, float] | None = None
    explained: str
    against: str | None = None
    words: tuple[Word, ...]
    rationale: tuple[Word, ...]
    rows: tuple[TokenRow, ...] | None = None
    faithfulness: Faithfulness | None = None
    token_probabilities: tuple[TokenProbabilities, ...] | None = None
    tokens: int
    truncated: int = 0
    unfinished: bool = False


class AttributionResponse(Answer):
    """`fingerprint` identifies weights, tokenizer and configuration: equal fingerprints give equal answers.

    `settings` are all settings of the method, defaults included. `cached` counts the results that were known already.
    """

    model: str
    fingerprint: str
    method: str
    settings: dict[str, float | int | str] = {}
    target: str
    precision: str
    cached: int = 0
    results: tuple[Attribution, ...]


class ModelInfo(Answer):
    """`max_tokens` is the window of a text. `answer_tokens` are the most that it writes; None where it cannot write."""

    id: str
    object: Literal["model"] = "model"
    architecture: str
    parameters: int
    max_tokens: int
    answer_tokens: int | None = None
    fingerprint: str
    precision: str
    device: str
    task: TaskSpec | None = None


# --- prediction (student, and the teacher's own answers) -------------------------------------------------------------


class PredictionInput(Request):
    id: str | None = Field(default=None, max_length=200)
    input: Text
    choices: tuple[Text, ...] | None = Field(default=None, min_length=2)


def _input_kind(value: Any) -> str | None:
    kinds = {str: "Text", dict: "Object", PredictionInput: "Object"}
    return next((tag for kind, tag in kinds.items() if isinstance(value, kind)), None)


# Told apart before they are checked, so that a complaint is about what was sent and not about its alternative too.
AnyInput = Annotated[
    Annotated[PredictionInput, Tag("Object")] | Annotated[Text, Tag("Text")],
    Discriminator(
        _input_kind,
        custom_error_type="input_kind",
        custom_error_message="Input should be a text, or an object with an 'input'",
    ),
]


class PredictionRequest(Request):
    """`model` is an artifact id or an alias; None is the service's default alias."""

    model: str | None = None
    inputs: tuple[AnyInput, ...] = Field(min_length=1)
    explain: bool = True
    top_k: int = Field(default=5, ge=1, le=100)
    labels: tuple[Text, ...] | None = Field(default=None, min_length=2)
    template: TemplateText | None = None


class Prediction(Answer):
    """`words` are spans of the input that the model names as its reasons; None when they were not asked for.

    `dropped_words` counts words that a generating student named but that are not in the input. The label is
    `unfinished` where the model had written as many tokens as it may before it came to an end.
    """

    id: str | None
    label: str
    probability: float
    probabilities: dict[str, float] | None = None
    words: tuple[Word, ...] | None = None
    dropped_words: int = 0
    truncated: int = 0
    unfinished: bool = False


Reasons = Literal["gate", "generated", "saliency"]
"""Where a model's reasons come from: `gate` and `generated` are learned, `saliency` is computed from its gradients."""


class PredictionResponse(Answer):
    """`reasons` says where the words come from: `gate` and `generated` are learned, `saliency` is computed."""

    model: str
    artifact: str | None = None
    reasons: Reasons | None = None
    predictions: tuple[Prediction, ...]


# --- jobs (orchestrator): OpenAI's fine-tuning wire format, and our part of it ----------------------------------------


class Hyperparameters(Request):
    """`auto` lets the trainer choose. Equal for every arm of a job, so that arms differ by their recipe only.

    `seconds` gives every arm that much wall time in place of a number of steps, its validations left out; the learning
    rate then follows the clock. `patience` ends a training after that many validations without a better one; None
    trains to the end. `precision` `auto` is bfloat16 for a large model on an accelerator that computes in it, else
    float32.
    """

    n_epochs: int | float | Literal["auto"] = "auto"
    batch_size: int | Literal["auto"] = "auto"
    learning_rate_multiplier: float | Literal["auto"] = "auto"
    max_steps: int | None = Field(default=None, ge=1, le=10_000_000)
    seconds: float | None = Field(default=None, gt=0, le=10_000_000)
    patience: int | None = Field(default=None, ge=1, le=1000)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    @model_validator(mode="after")
    def _positive(self) -> Self:
        for name in ("n_epochs", "batch_size", "learning_rate_multiplier"):
            value = getattr(self, name)
            if value != "auto" and not value > 0:
                raise ValueError(f"{name} must be above 0 or 'auto', not {value}")
        if self.seconds is not None and (self.max_steps is not None or self.n_epochs != "auto"):
            raise ValueError(
                "seconds is how long a training takes in place of n_epochs and max_steps: give one of them"
            )
        return self


class TeacherSpec(Request):
    """`finetune`: train the teacher on the job's training split first, as the paper does."""

    model: str = Field(min_length=1, max_length=500)
    finetune: bool = False
    hyperparameters: Hyperparameters = Hyperparameters()


class AttributionSpec(Selection):
    """How the teacher's map of each training row is made, and which words of it are the rationale.

    `token_probabilities`: on an open task, of so many of the likeliest tokens at each place of a row's answer the
    teacher tells the probability. It is asked for them only where a recipe learns from them (`logit_kd`).
    """

    method: str = "saliency"
    settings: dict[str, float | int | str] = {}
    target: Literal["gold", "predicted"] = "gold"
    aggregation: Literal["sum", "mean", "max", "l1", "l2"] = "sum"
    token_probabilities: int = Field(default=16, ge=2, le=MAX_TOKEN_PROBABILITIES)


class Budget(Request):
    """What a job may spend at most; what it has when that is spent, it keeps.

    `seconds` run from the beginning of its first work, pauses left out. `teacher_tokens` are those of the training
    texts that the teacher explains.
    """

    seconds: float | None = Field(default=None, gt=0, le=10_000_000)
    teacher_tokens: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.seconds is None and self.teacher_tokens is None:
            raise ValueError("budget names seconds, teacher_tokens or both")
        return self


class LoraSpec(Request):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685): only they and the new parts are trained, then merged.

    `rank` of each update, which is scaled by `alpha` / `rank`. `targets` are module names; `auto` is every linear layer
    inside the model's blocks.
    """

    rank: int = Field(default=16, ge=1, le=1024)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: Literal["auto"] | tuple[str, ...] = "auto"


class EngineGate(Request):
    """What an engine must reach to be published beside the reference. None: as the installation says.

    `min_agreement` is the least share of validation rows with the reference's answer, `max_drop` by how much the share
    of right answers may be lower.
    """

    min_agreement: float | None = Field(default=None, ge=0, le=1)
    max_drop: float | None = Field(default=None, ge=0, le=1)


class TrainingSpec(Request):
    """What any job may choose beside its files and its student.

    `sizes` are smaller training sets on which every arm is trained as well: the learning curve of the report.
    """

    test_file: str | None = None
    hyperparameters: Hyperparameters = Hyperparameters()
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1, max_length=20)
    max_train_rows: int | None = Field(default=None, ge=2)
    sizes: tuple[Annotated[int, Field(ge=2)], ...] = Field(default=(), max_length=20)
    lora: LoraSpec | None = None
    engines: EngineGate = EngineGate()
    template: TemplateText = "{input}"
    alias: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    budget: Budget | None = None

    @model_validator(mode="after")
    def _one_clock(self) -> Self:
        if self.budget and self.budget.seconds is not None and self.hyperparameters.seconds is not None:
            raise ValueError("hyperparameters.seconds and budget.seconds both say how long an arm may train: give one")
        return self


class SupervisedSpec(TrainingSpec):
    """Plain fine-tuning on the rows' own outputs, without a teacher."""

    @model_validator(mode="after")
    def _no_teacher(self) -> Self:
        if self.budget and self.budget.teacher_tokens is not None:
            raise ValueError("budget.teacher_tokens is for distillation: here no teacher is asked")
        return self


class DistillationSpec(TrainingSpec):
    """`recipe` is `auto`, one recipe, or several; controls (`finetune`, random words) are always added beside them.

    `search` `auto` tries many candidates on short trainings first and goes on with the best by validation. The rows of
    `unlabelled_file` need no output: the teacher labels them, and recipes with `teacher_labels` train on those whose
    label it gave at least `min_probability`. A shard of rows that could not be explained however often it was tried
    fails the job, or is set aside (`skip`) while no more than `max_failed_share` of the rows are.
    """

    teacher: TeacherSpec
    recipe: str | tuple[str, ...] = "auto"
    search: Literal["auto", "off"] = "auto"
    attribution: AttributionSpec = AttributionSpec()
    rationale_weight: float = Field(default=1.0, gt=0, le=100)
    unlabelled_file: str | None = Field(default=None, min_length=1, max_length=64)
    min_probability: float = Field(default=0.5, ge=0, le=1)
    on_failed_shard: Literal["fail", "skip"] = "fail"
    max_failed_share: float = Field(default=0.05, gt=0, le=0.5)


class Progress(Answer):
    phase: str
    completed: int
    total: int
    unit: str
    percent: float
    eta_seconds: float | None = None


class ErrorDetail(Answer):
    message: str
    type: str | None = None
    param: str | None = None
    code: str | None = None


class ErrorBody(Answer):
    error: ErrorDetail


Metadata = dict[str, Any]
