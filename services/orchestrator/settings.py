"""What an installation may choose, from the environment (`UNDERSTUDY_...`). The API and the workers read the same."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import AliasChoices, Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from understudy.errors import InvalidRequest
from understudy.guarded import GuardedSettings, listed, whole_keys
from understudy.keys import HASHED
from understudy.serving.published import MAX_DROP, MIN_AGREEMENT, NAMES

__all__ = ["PREFIX", "Settings"]

PREFIX = "UNDERSTUDY"

_BROKERS = ("redis://", "rediss://", "redis+socket://", "sentinel://")


class Settings(GuardedSettings):
    """Times are in seconds, sizes in bytes. Keys of the settings may do all; see `keys` for those of the database."""

    model_config = SettingsConfigDict(env_prefix=f"{PREFIX}_", extra="ignore", frozen=True, populate_by_name=True)

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    home: Path = Path(".understudy")
    """The folder of what a machine may lose: the SQLite file by default, and trainings in progress."""
    database_url: str = ""
    """Empty: a SQLite file in `home`. Otherwise any SQLAlchemy URL (`postgresql+psycopg://...`)."""
    broker_url: str = Field(
        default="redis://127.0.0.1:6379/0", validation_alias=AliasChoices("UNDERSTUDY_BROKER_URL", "REDIS_URL")
    )
    artifacts: str = ""
    """The root of the artifact store, a folder or an fsspec URL. Empty: a folder in `home`."""
    teacher_urls: Annotated[tuple[str, ...], NoDecode] = ("http://127.0.0.1:8001",)
    teacher_api_key: str | None = Field(default=None, repr=False)
    """The key that the teachers ask for. Of a list of keys, by commas or one a line, the first whole one."""
    student_url: str | None = None
    """The student service that comparisons ask; None: there are none."""
    student_api_key: str | None = Field(default=None, repr=False)
    """The key that the student service asks for; of a list, as with the teachers', the first whole one."""
    teacher_max_examples: int = Field(default=32, ge=1)
    """Examples of one request to a teacher. A teacher that accepts fewer says so, and the request is halved."""
    teacher_patience: float = Field(default=120.0, gt=0)
    """How long a shard waits for a teacher that is busy or away before it gives its worker back."""
    teacher_timeout: float = Field(default=600.0, gt=0)
    """The longest that one call may take as a whole: the first one waits until its model is loaded."""

    shard_size: int = Field(default=128, ge=1)
    window: int = Field(default=8, ge=1)
    """Messages in flight for each queue; the rest waits in the table."""
    max_attempts: int = Field(default=3, ge=1)
    retry_after: float = Field(default=2.0, ge=0)
    """The pause before a second attempt; it doubles with each further one."""
    lease_seconds: float = Field(default=30.0, gt=0)
    heartbeat_seconds: float = Field(default=1.0, gt=0)
    resend_seconds: float = Field(default=60.0, gt=0)
    """How old a message may grow before it is taken for lost and sent again."""
    sweep_seconds: float = Field(default=1.0, gt=0)
    visibility_timeout: int = Field(default=3600, ge=10)
    """When Redis itself hands out an unacknowledged message again. Leases make a second copy harmless."""
    database_patience: float = Field(default=10.0, gt=0)
    """How long a request waits for another process's lock on SQLite before it is answered 503. Workers wait longer."""

    threads_per_child: int = Field(default=1, ge=1)
    child_grace: float = Field(default=5.0, ge=0)
    """How long a training process may take to end before it is killed."""
    engines: Annotated[tuple[str, ...], NoDecode] = ("ct2:int8", "ort:int8", "ort:int8-blocks")
    """What students are exported for, where this machine has the packages; empty for the reference alone."""
    engine_min_agreement: float = Field(default=MIN_AGREEMENT, ge=0, le=1)
    """The least share of validation rows that an engine answers as the reference does; else it is not published."""
    engine_max_drop: float = Field(default=MAX_DROP, ge=0, le=1)
    """By how much its share of right answers may be lower: 0.005 is half a point."""
    gc: bool = True
    """Whether this process removes, now and then, what no job, alias or file needs any more."""
    gc_every_hours: float = Field(default=6.0, gt=0)
    gc_retention_days: float = Field(default=30.0, ge=0)
    """How long after a job's end its unpublished models, data set and shards are kept; `reproduce` reads them."""
    gc_grace_hours: float = Field(default=24.0, ge=1)
    """How long a thing must have been needed by nobody before it goes, and how long one that was used is left alone."""
    rationale_cache_bytes: int = Field(default=20 * 1024**3, ge=0)
    """The answers of teachers that are kept for later jobs; those that were used longest ago go first."""
    rationale_cache_days: float = Field(default=180.0, ge=0)
    max_upload_bytes: int = Field(default=512 * 1024**2, ge=1)
    max_body_bytes: int = Field(default=1024**2, ge=1)
    """The largest body of any other request."""

    @field_validator("teacher_urls", "engines", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Read a JSON list as well as `http://a:8001,http://b:8001`."""
        return listed(value)

    @field_validator("teacher_api_key", "student_api_key")
    @classmethod
    def _first(cls, value: str | None, info: ValidationInfo) -> str | None:
        """The service that is asked may get its keys from the same place, and has several while one is replaced."""
        if not value or value.isspace():
            return None
        if whole := whole_keys(value):
            return whole[0]
        raise ValueError(
            f"{info.field_name} has no key that can be sent: give one of them whole, not as its {HASHED}<hex>"
        )

    @field_validator("engines")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in value if name not in NAMES]:
            raise ValueError(f"there is no engine '{unknown[0]}' to export for: choose from {', '.join(NAMES)}")
        return value

    @field_validator("broker_url")
    @classmethod
    def _redis(cls, value: str) -> str:
        url = value.replace("unix://", "redis+socket://", 1) if value.startswith("unix://") else value
        if not url.startswith(_BROKERS):
            raise ValueError(f"the broker is Redis or Valkey: the URL starts with one of {', '.join(_BROKERS)}")
        return url

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.lease_seconds < 2 * self.heartbeat_seconds:
            raise ValueError("lease_seconds must be at least twice heartbeat_seconds, or a late beat loses the lease")
        if not self.teacher_urls:
            raise ValueError("teacher_urls is empty: name at least one teacher service")
        return self

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{quote(str(self.home.resolve() / 'understudy.db'))}"

    @property
    def artifact_root(self) -> str:
        return self.artifacts or str(self.home.resolve() / "artifacts")

    @property
    def work(self) -> Path:
        """Where stages keep what is not finished yet, one folder a work item."""
        return self.home.resolve() / "work"

    def make_home(self) -> None:
        """Make `home` where it is not there yet. Raises InvalidRequest where this process may not write to it."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.home):
                pass
        except OSError as error:
            raise InvalidRequest(
                f"home is '{self.home}', and user {os.getuid()} cannot write there ({error.strerror}): give that user "
                f"the folder, or set {PREFIX}_HOME to another",
                param="home",
            ) from error
