"""Every error that Understudy raises on purpose, in one tree.

The HTTP status, the machine-readable code and `retryable` sit on the class; only `web.py` and the routes know what a
status is for. A client rebuilds the same class from an answer's body with `from_body`, so that code on either side of
the wire catches the same names.

    UnderstudyError
    ├── InvalidRequest          a field of a request is wrong; `param` names it
    │   ├── UnknownName         not one of the choices, which the message lists
    │   ├── PayloadTooLarge
    │   ├── KeyReused           an idempotency key that came with another request before
    │   └── UnsupportedContent
    ├── Unauthorized            no API key, or one that is not known here
    ├── Forbidden               whoever asks may not do this
    │   └── MissingScope        the key is for less than this
    ├── QuotaExceeded           the key has used up what it may; waiting does not help
    │   └── RateLimited         waiting helps, until `retry_after` where that is known
    ├── NotFound
    │   ├── ModelNotFound
    │   └── ArtifactNotFound
    ├── Conflict                the thing exists, but its state does not allow this
    │   ├── LeaseLost           another worker holds the work item now
    │   └── BudgetExhausted     a job's budget is spent before it has a model
    ├── Overloaded              the queue is full; try again later
    ├── Unavailable             a service or broker that is needed does not answer
    ├── DeadlineExceeded        the time that the caller gives, or the service, is over before the answer
    ├── ArtifactCorrupt         stored bytes differ from their manifest
    ├── ModelError              a model was loaded but cannot do what was asked of it
    ├── StageFailed             a stage's child process ended without a result
    └── InternalError           a defect of ours, seen from the outside
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, ClassVar

__all__ = [
    "ArtifactCorrupt",
    "ArtifactNotFound",
    "BudgetExhausted",
    "Conflict",
    "DeadlineExceeded",
    "Forbidden",
    "InternalError",
    "InvalidRequest",
    "KeyReused",
    "LeaseLost",
    "MissingScope",
    "ModelError",
    "ModelNotFound",
    "NotFound",
    "Overloaded",
    "PayloadTooLarge",
    "QuotaExceeded",
    "RateLimited",
    "StageFailed",
    "Unauthorized",
    "Unavailable",
    "UnderstudyError",
    "UnknownName",
    "UnsupportedContent",
    "from_body",
]


class UnderstudyError(Exception):
    """The root. `param` names the field at fault, in the form `examples[3].input`; `retry_after` is in seconds."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "understudy_error"
    type: ClassVar[str] = "server_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """The one error shape of every service, which is OpenAI's."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(UnderstudyError):
    status = 400
    code = "invalid_request"
    type = "invalid_request_error"


class UnknownName(InvalidRequest):
    code = "unknown_name"

    @classmethod
    def among(cls, kind: str, name: object, choices: Iterable[str], *, param: str | None = None) -> UnknownName:
        """Say what was given, what it may be, and what was probably meant."""
        listed = sorted(choices)
        near = get_close_matches(str(name), listed, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        return cls(f"unknown {kind} '{name}': choose from {', '.join(listed) or '(none)'}.{hint}", param=param)


class PayloadTooLarge(InvalidRequest):
    status = 413
    code = "payload_too_large"


class KeyReused(InvalidRequest):
    status = 422
    code = "idempotency_key_reused"


class UnsupportedContent(InvalidRequest):
    status = 415
    code = "unsupported_content_type"


class Unauthorized(UnderstudyError):
    status = 401
    code = "unauthorized"
    type = "invalid_request_error"


class Forbidden(UnderstudyError):
    status = 403
    code = "forbidden"
    type = "invalid_request_error"


class MissingScope(Forbidden):
    code = "missing_scope"


class QuotaExceeded(UnderstudyError):
    status = 429
    code = "insufficient_quota"
    type = "insufficient_quota"


class RateLimited(QuotaExceeded):
    code = "rate_limit_exceeded"
    type = "requests"


class NotFound(UnderstudyError):
    status = 404
    code = "not_found"
    type = "invalid_request_error"


class ModelNotFound(NotFound):
    code = "model_not_found"


class ArtifactNotFound(NotFound):
    code = "artifact_not_found"


class Conflict(UnderstudyError):
    status = 409
    code = "conflict"
    type = "invalid_request_error"


class LeaseLost(Conflict):
    code = "lease_lost"


class BudgetExhausted(Conflict):
    code = "budget_exhausted"


class Overloaded(UnderstudyError):
    status = 429
    code = "overloaded"
    type = "rate_limit_error"
    retryable = True


class Unavailable(UnderstudyError):
    status = 503
    code = "unavailable"
    retryable = True


class DeadlineExceeded(UnderstudyError):
    status = 504
    code = "deadline_exceeded"


class ArtifactCorrupt(UnderstudyError):
    code = "artifact_corrupt"


class ModelError(UnderstudyError):
    status = 422
    code = "model_error"
    type = "invalid_request_error"


class StageFailed(UnderstudyError):
    code = "stage_failed"
    retryable = True


class InternalError(UnderstudyError):
    code = "internal_error"


def _tree(root: type[UnderstudyError]) -> Iterator[type[UnderstudyError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


def from_body(status: int, body: Mapping[str, Any], retry_after: float | None = None) -> UnderstudyError:
    """Rebuild the error that a service answered with; an unknown code becomes the root class of its status."""
    error = body.get("error")
    if not isinstance(error, Mapping):
        error = {"message": f"HTTP {status}: {str(dict(body))[:300]}"}
    by_code = {cls.code: cls for cls in _tree(UnderstudyError)}
    fallback: type[UnderstudyError] = InvalidRequest if 400 <= status < 500 else InternalError
    if status == 429:
        fallback = Overloaded
    elif status in (408, 502, 503, 504):
        fallback = Unavailable
    cls = by_code.get(str(error.get("code")), fallback)
    return cls(str(error.get("message") or f"HTTP {status}"), param=error.get("param"), retry_after=retry_after)
