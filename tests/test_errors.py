from __future__ import annotations

import pytest

from understudy import errors
from understudy.errors import InvalidRequest, Overloaded, Unavailable, UnderstudyError, UnknownName, from_body

CLASSES = [getattr(errors, name) for name in errors.__all__ if name[0].isupper()]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_survives_the_wire(cls: type[UnderstudyError]) -> None:
    sent = cls("what was wrong", param="examples[3].input")
    got = from_body(sent.status, sent.body())
    assert (type(got), got.message, got.param) == (cls, "what was wrong", "examples[3].input")


def test_codes_are_unique() -> None:
    assert len({cls.code for cls in CLASSES}) == len(CLASSES)


def test_every_class_is_drawn_in_the_tree() -> None:
    assert errors.__doc__ is not None
    assert [cls.__name__ for cls in CLASSES if cls.__name__ not in errors.__doc__] == []


def test_unknown_name_lists_the_choices_and_guesses_what_was_meant() -> None:
    error = UnknownName.among("method", "salience", ["saliency", "integrated_gradients"], param="method")
    assert "integrated_gradients, saliency" in error.message
    assert "Did you mean 'saliency'?" in error.message
    assert error.param == "method"


@pytest.mark.parametrize(
    ("status", "body", "cls"),
    [
        (400, {}, InvalidRequest),
        (418, {"error": "teapot"}, InvalidRequest),
        (502, {"detail": "bad gateway"}, Unavailable),
        (503, {"error": {"code": "from-the-future", "message": "x"}}, Unavailable),
    ],
)
def test_foreign_answers_become_the_class_of_their_status(status: int, body: dict, cls: type) -> None:
    assert type(from_body(status, body)) is cls


def test_only_passing_troubles_are_retryable() -> None:
    assert {cls for cls in CLASSES if cls.retryable} == {Overloaded, Unavailable, errors.StageFailed}
