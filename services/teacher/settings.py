"""What an installation may choose, from the environment (`UNDERSTUDY_TEACHER_...`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from understudy.guarded import GuardedSettings, listed

__all__ = ["PREFIX", "Settings"]

PREFIX = "UNDERSTUDY_TEACHER"


class Settings(GuardedSettings):
    """Times are in seconds, sizes in bytes. Lists are JSON, or separated by commas."""

    model_config = SettingsConfigDict(env_prefix=f"{PREFIX}_", extra="ignore", frozen=True, populate_by_name=True)

    host: str = "127.0.0.1"
    port: int = Field(default=8001, ge=0, le=65535)

    artifacts: str = Field(
        default=str(Path(".understudy") / "artifacts"),
        validation_alias=AliasChoices(f"{PREFIX}_ARTIFACTS", "UNDERSTUDY_ARTIFACTS"),
    )
    """The root of the artifact store, a folder or an fsspec URL: artifact ids and aliases are looked up there."""
    model: str | None = None
    """The model of requests that name none. It is loaded before the service says that it is ready."""
    allowed_models: Annotated[tuple[str, ...], NoDecode] = ("*",)
    """Patterns (`*`, `?`, `[...]`) of the references that requests may name."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, ..."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 halves a model's memory; equal texts may then score a little differently in different batches."""
    max_models: int = Field(default=2, ge=1)
    """Models kept in memory; one more puts out the one that was asked longest ago."""
    max_model_bytes: int = Field(default=0, ge=0)
    """Bytes of the parameters of all models in memory together; 0 is no bound."""
    cache_bytes: int = Field(default=64 * 1024**2, ge=0)
    """Attributions that are kept to be given again; 0 keeps none."""

    max_queue: int = Field(default=1024, ge=1)
    """Examples of all requests that wait for the model or run; a request above that is answered with 429 at once."""
    max_queue_tokens: int = Field(default=4_194_304, ge=1)
    """The same in tokens, each counted once for every pass that its method makes."""
    max_padded_tokens: int = Field(default=2048, ge=1)
    """Tokens of one pass through the model, answers and padding counted: more is faster on an accelerator and takes
    memory. Where answers are long, a pass has fewer, so that the logits of their tokens keep within bounds."""

    max_examples: int = Field(default=256, ge=1)
    """Examples of one request."""
    max_stream_examples: int = Field(default=10_000, ge=1)
    """Examples of one request whose answer is streamed: it never waits in the queue as a whole."""
    max_candidates: int = Field(default=1000, ge=2)
    """Labels, or choices of one example."""
    max_request_chars: int = Field(default=4_000_000, ge=1)
    """Characters of one request, all examples together, each with the template and the answers that are named for it.
    A streamed request has these once for each example that is under way."""
    max_request_tokens: int = Field(default=131_072, ge=1)
    """Tokens of one request, all examples together, as the model reads them. Streamed requests have no such bound."""
    max_request_work: int = Field(default=4_194_304, ge=1)
    """The same, each token counted once for every pass that the method makes, and those of the answers with them."""
    max_steps: int = Field(default=200, ge=1)
    """Steps or samples of a method that averages over many."""
    max_body_bytes: int = Field(default=32 * 1024**2, ge=1)

    @field_validator("allowed_models", mode="before")
    @classmethod
    def _listed_models(cls, value: Any) -> Any:
        return listed(value)
