"""No secret and no character that could deceive a reader leaves through a record."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.audit.redact import MASK, TEXT_LIMIT, Redactor, shown

KEY = bytes(range(32))
CANARIES = (
    "hunter2-Zx9",
    "grd_0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT",
    "AKIAIOSFODNN7EXAMPLE",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIIrYSSNQFaA2Hwf1duRSxKtLYX5CB04fSeQ6tF1aY\n-----END EC PRIVATE KEY-----",
    "4kVw-9zQ_Lm2xY7pR-sT5uB8nC_1dEfGhJ",
    "9f86d081884c7d659a2feaa0c55ad015",
)


@pytest.fixture
def redactor() -> Redactor:
    return Redactor(KEY)


def test_arguments_appear_as_keyed_digest_type_and_size_only(redactor: Redactor) -> None:
    assert redactor.arguments({"path": "prod/db", "n": 3}, frozenset()) == {
        "path": {"hmac": hmac.digest(KEY, b'"prod/db"', "sha256").hex()[:16], "type": "string", "size": 9},
        "n": {"hmac": hmac.digest(KEY, b"3", "sha256").hex()[:16], "type": "number", "size": 1},
    }


def test_equal_values_have_equal_digests_whatever_the_order_of_their_members(redactor: Redactor) -> None:
    one = redactor.arguments({"a": {"x": 1, "y": [True, None]}}, frozenset())
    other = redactor.arguments({"a": {"y": [True, None], "x": 1}}, frozenset())
    assert one == other


def test_another_deployment_s_digests_do_not_compare(redactor: Redactor) -> None:
    args = {"password": "hunter2"}
    assert redactor.arguments(args, frozenset()) != Redactor(KEY[::-1]).arguments(args, frozenset())


def test_an_owner_s_opted_in_field_is_legible(redactor: Redactor) -> None:
    shown = redactor.arguments({"region": "eu-west-1", "key": "k"}, frozenset({"region"}))
    assert isinstance(shown, Mapping)
    assert shown["region"] == "eu-west-1"
    assert isinstance(shown["key"], Mapping)


@pytest.mark.parametrize("canary", CANARIES)
def test_a_secret_never_leaves_through_arguments_however_it_is_named(redactor: Redactor, canary: str) -> None:
    args = {
        "PassWord": canary,
        "cfg": json.dumps({"secret": canary}),
        "deep": {"list": [canary]},
        "p\u0430ssword": canary,
    }
    assert canary not in json.dumps(redactor.arguments(args, frozenset()), ensure_ascii=False)


@pytest.mark.parametrize("canary", CANARIES[1:])
@pytest.mark.parametrize("around", ["{}", "upstream said: {}", "key={}&x=1", '{{"a":"{}"}}', "failed ({})."])
def test_a_secret_in_free_text_is_masked(redactor: Redactor, canary: str, around: str) -> None:
    said = redactor.text(around.format(canary))
    assert canary not in said
    assert MASK in said


@pytest.mark.parametrize(
    "text",
    [
        "password=hunter2-Zx9",
        'the "api_key": "hunter2-Zx9" is wrong',
        "Authorization: Bearer hunter2-Zx9",
        "https://bob:hunter2-Zx9@example.com/x",
        "client_secret: hunter2-Zx9",
    ],
)
def test_what_is_called_a_secret_is_masked_even_when_it_is_a_word(redactor: Redactor, text: str) -> None:
    assert "hunter2" not in redactor.text(text)


def test_a_secret_in_an_opted_in_field_is_masked(redactor: Redactor) -> None:
    args = {"cfg": {"note": f"use {CANARIES[2]}", "password": "hunter2-Zx9", "ok": "plain"}}
    shown = json.dumps(redactor.arguments(args, frozenset({"cfg"})))
    assert CANARIES[2] not in shown
    assert "hunter2" not in shown
    assert "plain" in shown


def test_a_secret_used_as_a_field_name_is_masked(redactor: Redactor) -> None:
    assert CANARIES[1] not in json.dumps(redactor.arguments({CANARIES[1]: 1}, frozenset()))


@pytest.mark.parametrize(
    "text",
    [
        "the owner tagged this as critical",
        "create_pull_request_review_comment",
        "vault-delete-secret-2024-staging",
        "550e8400-e29b-41d4-a716-446655440000",
        "/srv/projects/app2/src/main.py",
        "10.1.2.0/24 never seen in 214 calls",
    ],
)
def test_ordinary_text_stays_as_it_is(redactor: Redactor, text: str) -> None:
    assert redactor.text(text) == text


@given(st.text(alphabet=st.characters(), max_size=200))
def test_no_text_holds_a_control_or_direction_character(text: str) -> None:
    said = Redactor(KEY).text(text)
    assert not any(ord(char) < 0x20 or 0x7F <= ord(char) <= 0x9F or char in "\u200b\u202e\u2066\ufeff" for char in said)
    assert len(said) <= TEXT_LIMIT


def test_a_reader_s_terminal_gets_no_sequence_and_sees_the_mask_plainly() -> None:
    assert shown(f"\x1b]0;evil\x07 {MASK}").endswith(MASK)
    assert "\x1b" not in shown("\x1b[2J")
    assert shown(shown("\u202e")) == shown("\u202e")


@pytest.mark.parametrize("evil", ["a" * 40_000, "eyJ" * 9000, "password" * 5000, "://" * 9000, "-----BEGIN A" * 3000])
def test_hostile_text_costs_little_and_ends_up_short(redactor: Redactor, evil: str) -> None:
    assert len(redactor.text(evil)) <= TEXT_LIMIT


def test_too_many_fields_are_counted_instead_of_listed(redactor: Redactor) -> None:
    shown = redactor.arguments({f"f{n}": n for n in range(1000)}, frozenset())
    assert isinstance(shown, Mapping)
    assert len(shown) == 49
    assert shown["..."] == {"type": "omitted", "size": 952}


def test_an_integer_too_long_to_print_is_digested_all_the_same(redactor: Redactor) -> None:
    one, other = ({"n": [10**5000 + n]} for n in (0, 1))
    assert redactor.arguments(one, frozenset()) != redactor.arguments(other, frozenset())
