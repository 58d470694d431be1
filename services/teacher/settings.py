"""What an installation may choose, from the environment (`UNDERSTUDY_TEACHER_...`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

__all__ = ["Settings"]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="UNDERSTUDY_TEACHER_", extra="ignore", frozen=True, populate_by_name=True
    )

    host: str = "127.0.0.1"
    port: int = Field(default=8001, ge=0, le=65535)
    artifacts: str = Field(
        default=str(Path(".understudy") / "artifacts"),
        validation_alias=AliasChoices("UNDERSTUDY_TEACHER_ARTIFACTS", "UNDERSTUDY_ARTIFACTS"),
    )
    """The root of the artifact store, a folder or an fsspec URL: artifact ids and aliases are looked up there."""
    model: str | None = None
    """The model of requests that name none. It is loaded before the service says that it is ready."""
    allowed_models: Annotated[tuple[str, ...], NoDecode] = ("*",)
    """Patterns (`*`, `?`, `[...]`) of the references that requests may name, as a JSON list or separated by commas."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, ..."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 halves a model's memory; equal texts may then score a little differently in different batches."""
    max_models: int = Field(default=2, ge=1)
    """Models kept in memory; one more puts out the one that was asked longest ago."""
    max_queue: int = Field(default=64, ge=1)
    """Requests that wait for the model or run; one more is answered with 429 at once."""
    max_examples: int = Field(default=256, ge=1)
    """Examples of one request."""
    max_candidates: int = Field(default=1000, ge=2)
    """Labels, or choices of one example."""
    max_request_tokens: int = Field(default=131_072, ge=1)
    """Tokens of one request, all examples together, as the model reads them."""
    max_padded_tokens: int = Field(default=2048, ge=1)
    """Tokens of one pass through the model, padding counted: more is faster on an accelerator and takes memory."""
    max_body_bytes: int = Field(default=32 * 1024**2, ge=1)

    @field_validator("allowed_models", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return (
            json.loads(value) if value.startswith("[") else [part.strip() for part in value.split(",") if part.strip()]
        )
