"""What an installation may choose, from the environment (`UNDERSTUDY_STUDENT_...`)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field
from pydantic_settings import SettingsConfigDict

from understudy.guarded import GuardedSettings

__all__ = ["PREFIX", "Settings"]

PREFIX = "UNDERSTUDY_STUDENT"


class Settings(GuardedSettings):
    """Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix=f"{PREFIX}_", extra="ignore", frozen=True, populate_by_name=True)

    host: str = "127.0.0.1"
    port: int = Field(default=8002, ge=0, le=65535)
    artifacts: str = Field(
        default=str(Path(".understudy") / "artifacts"),
        validation_alias=AliasChoices(f"{PREFIX}_ARTIFACTS", "UNDERSTUDY_ARTIFACTS"),
    )
    """The root of the artifact store, a folder or an fsspec URL: artifact ids and aliases are looked up there."""
    alias: str = Field(default="production", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """The alias that answers requests that name no model. The service is ready once its model is loaded."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, ..."""
    engine: Literal[
        "auto", "hf", "ct2", "ort", "ct2:int8", "ct2:float32", "ort:int8", "ort:int8-blocks", "ort:float32"
    ] = "auto"
    """`auto` takes the fastest engine that a model was published with and that runs here, `hf` on an accelerator."""
    canary: str = Field(default="canary", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    canary_share: float = Field(default=0.0, ge=0, le=1)
    """The share of the default alias's requests that the model of the alias `canary` answers, while it is in memory."""
    shadow: str = Field(default="shadow", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    shadow_share: float = Field(default=0.0, ge=0, le=1)
    """The share of the default alias's requests of which the model of the alias `shadow` gets a copy. It answers
    nobody; how it disagrees is counted."""
    shadow_queue: int = Field(default=1024, ge=1)
    """Inputs whose copies may wait for the shadow or run; a copy above that is dropped and counted."""
    shadow_samples: int = Field(default=0, ge=0, le=1000)
    """The last inputs that the two disagreed on, kept in memory and shown to whoever has a key. 0 keeps no text."""
    max_models: int = Field(default=2, ge=1)
    """Models kept in memory, the default alias's among them; one more is there while an alias moves."""
    max_model_bytes: int = Field(default=0, ge=0)
    """Bytes of all models in memory together: of their parameters, or of the files of the engine that runs in their
    place, or of both where that engine's reasons are computed by the reference. 0 is no bound."""
    refresh_seconds: float = Field(default=1.0, gt=0)
    """How often the aliases in use are looked up: a moved alias is noticed this much later at most."""
    retry_seconds: float = Field(default=10.0, ge=0)
    """How long a model that could not be loaded is not tried again."""

    max_queue: int = Field(default=1024, ge=1)
    """Inputs of all requests that wait for the model or run; a request above that is answered with 429 at once."""
    max_queue_tokens: int = Field(default=4_194_304, ge=1)
    """The same in tokens, each counted once for every pass that it takes."""
    max_padded_tokens: int = Field(default=2048, ge=1)
    """Tokens of one pass through the model, padding counted: more is faster on an accelerator and takes memory. An
    engine that is faster with fewer takes fewer."""
    max_loading: int = Field(default=64, ge=1)
    """Requests that wait for a model to be looked up or read; one more is answered with 429 at once."""
    request_seconds: float = Field(default=60.0, gt=0)
    """How long a request may take, waiting counted; `X-Request-Timeout` may ask for less."""

    max_inputs: int = Field(default=256, ge=1)
    """Inputs of one request."""
    max_candidates: int = Field(default=1000, ge=2)
    """Labels, or choices of one input."""
    max_request_chars: int = Field(default=1_000_000, ge=1)
    """Characters of one request, all inputs together, each with the template and the answers that it may choose."""
    max_request_work: int = Field(default=4_194_304, ge=1)
    """Tokens of one request, each counted once for every pass that it takes: a model that writes reads a text once for
    each answer that it may choose, and an answer of its own counts as the longest that it writes."""
    max_body_bytes: int = Field(default=8 * 1024**2, ge=1)

    drift_window: int = Field(default=1000, ge=1)
    """The last answers of each model that are compared with its profile."""
