"""Wire models: what the services and their clients say to each other. No behaviour, no torch.

Requests forbid unknown fields, so that a typing mistake is an error that names the field and never a silent default.
Answers ignore unknown fields, so that an older client can read a newer service.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

MAX_TEXT_CHARS = 100_000
"""The longest text of one example, in characters. Far above any model's window; a bound on what a request can cost."""


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS)]


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
    def _consistent(self) -> TaskSpec:
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

    split: Literal["train", "validation", "test"]
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
    """`output` is the text that is explained when the target is `gold`."""

    id: str | None = Field(default=None, max_length=200)
    input: Text
    output: Text | None = None
    choices: tuple[Text, ...] | None = Field(default=None, min_length=2)


class AttributionRequest(Request):
    """`model` is a name that the service knows, an artifact id, a local path or a hub name; None is its default.

    `labels` is the closed label set: with it the prediction is the likeliest label and `probabilities` are returned.
    """

    model: str | None = None
    examples: tuple[AttributionExample, ...] = Field(min_length=1)
    labels: tuple[Text, ...] | None = Field(default=None, min_length=2)
    template: str | None = None
    method: str = "saliency"
    target: Literal["gold", "predicted"] = "predicted"
    top_k: int = Field(default=5, ge=1, le=100)


class Attribution(Answer):
    """`words` cover the input in reading order. `rationale` are the top-k of them, in reading order too.

    `explained` is the text whose logit was differentiated. `truncated` counts the tokens of the input that did not fit
    the model's window: words past the cut are absent from `words`.
    """

    id: str | None
    prediction: str
    probability: float
    probabilities: dict[str, float] | None = None
    explained: str
    words: tuple[Word, ...]
    rationale: tuple[Word, ...]
    tokens: int
    truncated: int = 0


class AttributionResponse(Answer):
    """`fingerprint` identifies weights, tokenizer and configuration: equal fingerprints give equal answers."""

    model: str
    fingerprint: str
    method: str
    target: str
    precision: str
    results: tuple[Attribution, ...]


class ModelInfo(Answer):
    id: str
    object: Literal["model"] = "model"
    architecture: str
    parameters: int
    max_tokens: int
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
    template: str | None = None


class Prediction(Answer):
    """`words` are spans of the input that the model names as its reasons; None when they were not asked for.

    `dropped_words` counts words that a generating student named but that are not in the input.
    """

    id: str | None
    label: str
    probability: float
    probabilities: dict[str, float] | None = None
    words: tuple[Word, ...] | None = None
    dropped_words: int = 0
    truncated: int = 0


class PredictionResponse(Answer):
    """`reasons` says where the words come from: `gate` and `generated` are learned, `saliency` is computed."""

    model: str
    artifact: str | None = None
    reasons: Literal["gate", "generated", "saliency"] | None = None
    predictions: tuple[Prediction, ...]


# --- jobs (orchestrator): OpenAI's fine-tuning wire format, and our part of it ----------------------------------------


class Hyperparameters(Request):
    """`auto` lets the trainer choose. Equal for every arm of a job, so that arms differ by their recipe only."""

    n_epochs: int | float | Literal["auto"] = "auto"
    batch_size: int | Literal["auto"] = "auto"
    learning_rate_multiplier: float | Literal["auto"] = "auto"
    max_steps: int | None = Field(default=None, ge=1, le=10_000_000)

    @model_validator(mode="after")
    def _positive(self) -> Hyperparameters:
        for name in ("n_epochs", "batch_size", "learning_rate_multiplier"):
            value = getattr(self, name)
            if value != "auto" and not value > 0:
                raise ValueError(f"{name} must be above 0 or 'auto', not {value}")
        return self


class TeacherSpec(Request):
    """`finetune`: train the teacher on the job's training split first, as the paper does."""

    model: str = Field(min_length=1, max_length=500)
    finetune: bool = False
    hyperparameters: Hyperparameters = Hyperparameters()


class AttributionSpec(Request):
    method: str = "saliency"
    target: Literal["gold", "predicted"] = "gold"
    top_k: int = Field(default=5, ge=1, le=100)


class DistillationSpec(Request):
    """`recipe` is `auto`, one recipe, or several; controls (`finetune`, random words) are always added beside them."""

    teacher: TeacherSpec
    recipe: str | tuple[str, ...] = "auto"
    test_file: str | None = None
    attribution: AttributionSpec = AttributionSpec()
    hyperparameters: Hyperparameters = Hyperparameters()
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1, max_length=20)
    rationale_weight: float = Field(default=1.0, gt=0, le=100)
    max_train_rows: int | None = Field(default=None, ge=2)
    template: str = "{input}"
    alias: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")


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
