"""Errors as answers: what crosses the wire, and what a peer cannot make of it."""

from collections.abc import Iterator
from math import inf, isfinite
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titan_overlay import errors
from titan_overlay.cli import outcome
from titan_overlay.errors import (
    BadMessage,
    NotFound,
    NotHere,
    Overloaded,
    RemotableError,
    RemoteError,
    TitanError,
    WireError,
    from_wire,
)
from titan_overlay.wire import codec

OURS = sorted((each for each in errors._BY_CODE.values() if "." not in each.code), key=lambda cls: cls.code)


def test_an_error_without_a_text_is_shown_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        outcome.fail(RemoteError("", type="AssertionError", correlation="c0"))
    assert "the object raised AssertionError (look for c0 in the holder's log)" in capsys.readouterr().err


@pytest.fixture(autouse=True)
def _registry_as_before() -> Iterator[None]:
    before = dict(errors._BY_CODE)
    yield
    errors._BY_CODE.clear()
    errors._BY_CODE.update(before)


def over_the_wire(error: RemotableError) -> RemotableError:
    return from_wire(codec.decode(codec.encode(error.to_wire()), WireError))


@pytest.mark.parametrize("cls", OURS, ids=lambda cls: cls.code)
@given(text=st.text(), executed=st.booleans())
def test_every_error_comes_back_as_itself(cls: type[RemotableError], text: str, executed: bool) -> None:
    sent = cls(text.encode("utf-8", "replace").decode(), maybe_executed=executed)
    back = over_the_wire(sent)
    assert type(back) is cls
    assert (str(back), back.maybe_executed) == (str(sent), executed)
    assert [getattr(back, name) for name in cls.FIELDS] == [getattr(sent, name) for name in cls.FIELDS]


def test_a_text_with_half_of_a_character_can_be_sent() -> None:
    assert str(over_the_wire(BadMessage("no account \ud800"))) == r"no account \ud800"


def test_an_error_whose_author_gave_it_no_code_comes_back_by_its_name() -> None:
    class NamelessError(RemotableError):
        pass

    back = over_the_wire(NamelessError("still an answer"))
    assert isinstance(back, RemoteError) and (back.type, str(back)) == ("NamelessError", "still an answer")


def test_fields_come_along() -> None:
    assert over_the_wire(NotFound("x", asked=17)).asked == 17  # type: ignore[attr-defined]
    assert over_the_wire(NotHere("x", hint=b"n" * 32)).hint == b"n" * 32  # type: ignore[attr-defined]
    assert over_the_wire(Overloaded("x", retry_after=2.5)).retry_after == 2.5  # type: ignore[attr-defined]


@pytest.mark.parametrize("cls", OURS, ids=lambda cls: cls.code)
@given(value=st.one_of(st.none(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(), st.binary(), st.booleans()))
def test_a_field_is_of_its_type_whatever_a_peer_sends(cls: type[RemotableError], value: Any) -> None:
    made = from_wire(WireError(cls.code, "text", False, dict.fromkeys(cls.FIELDS, value)))
    honest = cls("text")
    for name in cls.FIELDS:
        assert type(getattr(made, name)) is type(getattr(honest, name))


@pytest.mark.parametrize("pause", [float("nan"), inf, -inf, -1.0, -1, True])
def test_nobody_is_made_to_sleep_for_ever_or_backwards(pause: Any) -> None:
    made = from_wire(WireError("overloaded", "later", False, {"retry_after": pause}))
    assert isinstance(made, Overloaded) and isfinite(made.retry_after) and made.retry_after >= 0


@given(st.builds(WireError, st.text(), st.text(), st.booleans(), st.dictionaries(st.text(), st.integers())))
def test_any_wire_error_is_an_exception(wire: WireError) -> None:
    made = from_wire(wire)
    assert isinstance(made, RemotableError)
    assert made.maybe_executed is wire.maybe_executed


def test_a_code_that_is_unknown_here_is_kept_as_a_remote_errors_type() -> None:
    made = from_wire(WireError("bank.insufficient", "no money", True, {"correlation": "c-1"}))
    assert isinstance(made, RemoteError)
    assert (made.type, made.correlation, str(made)) == ("bank.insufficient", "c-1", "no money")


def test_an_error_of_the_users_own_comes_back_typed() -> None:
    @errors.error("bank.insufficient")
    class InsufficientError(RemoteError):
        FIELDS = ("missing",)

        def __init__(self, message: str = "", *, missing: int = 0) -> None:
            super().__init__(message)
            self.missing = missing

    back = over_the_wire(InsufficientError("no money", missing=5))
    assert isinstance(back, InsufficientError)
    assert back.missing == 5


def test_a_field_that_its_author_forgot_to_set_does_not_lose_the_error() -> None:
    @errors.error("bank.forgetful")
    class ForgetfulError(RemoteError):
        FIELDS = ("never_set",)

    back = over_the_wire(ForgetfulError("still an answer"))
    assert isinstance(back, ForgetfulError) and str(back) == "still an answer"


def test_codes_are_taken_once_and_plain_ones_are_ours() -> None:
    with pytest.raises(ValueError, match="needs a dot"):
        errors.error("gone")
    errors.error("bank.closed")(type("ClosedError", (RemoteError,), {}))
    with pytest.raises(ValueError, match="already taken"):
        errors.error("bank.closed")(type("OtherError", (RemoteError,), {}))


def test_codes_differ_and_have_a_class_each() -> None:
    assert len({cls.code for cls in OURS}) == len(OURS)
    assert all(issubclass(cls, TitanError) and cls.__doc__ for cls in OURS)
    assert BadMessage in OURS
