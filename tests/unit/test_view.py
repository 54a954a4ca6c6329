"""What an approver sees: everything, and nothing disguised."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.model import Demand, Further, Principal, ProofClass, Quorum, Requirement, State
from guard.requirement import missing
from guard.stepup.view import pretty, render
from guard.stepup.visible import bounded, visible
from guard.wire.canonical import canonical, digest
from tests import nouns

_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(-1e9, 1e9) | st.text(max_size=60),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb", "a⟨U+202E RIGHT-TO-LEFT OVERRIDE⟩b"),
        ("a\u200bb", "a⟨U+200B ZERO WIDTH SPACE⟩b"),
        ("a\x1b[2Jb", "a⟨U+001B Cc⟩[2Jb"),
        ("a\nb", "a⟨U+000A Cc⟩b"),
        ("p\u0430ypal", "p⟨U+0430 CYRILLIC SMALL LETTER A⟩ypal"),
        ("\uff52\uff4d", "⟨U+FF52 FULLWIDTH LATIN SMALL LETTER R⟩⟨U+FF4D FULLWIDTH LATIN SMALL LETTER M⟩"),
        ("\u2028", "⟨U+2028 LINE SEPARATOR⟩"),
        ("\ud800", "⟨U+D800 Cs⟩"),
        ("\U000e0041", "⟨U+E0041 TAG LATIN CAPITAL LETTER A⟩"),
        ("a\ufe0f", "a⟨U+FE0F VARIATION SELECTOR-16⟩"),
        ("\u3164", "⟨U+3164 HANGUL FILLER⟩"),
        ("a\u0301", "a⟨U+0301 COMBINING ACUTE ACCENT⟩"),
        ("etc\u2215passwd", "etc⟨U+2215 DIVISION SLASH⟩passwd"),
        ("a\u2010b", "a⟨U+2010 HYPHEN⟩b"),
        ("\u212b", "⟨U+212B ANGSTROM SIGN⟩"),
        ("⟨U+0041 A⟩", "⟨U+27E8 MATHEMATICAL LEFT ANGLE BRACKET⟩U+0041 A⟨U+27E9 MATHEMATICAL RIGHT ANGLE BRACKET⟩"),
    ],
)
def test_what_hides_or_deceives_is_spelled_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\u03bb\u0307", "\u03bb⟨U+0307 COMBINING DOT ABOVE⟩"),
        ("\u0436\u0307", "\u0436⟨U+0307 COMBINING DOT ABOVE⟩"),
        ("1\u0307", "1⟨U+0307 COMBINING DOT ABOVE⟩"),
        ("\u0307x", "⟨U+0307 COMBINING DOT ABOVE⟩x"),
        ("\u0915\u0902", "\u0915\u0902"),  # Devanagari needs its marks
        ("\u092e\u0902\u0947", "\u092e\u0902⟨U+0947 DEVANAGARI VOWEL SIGN E⟩"),  # in one order only
        ("\u0e17\u0e48\u0e35", "\u0e17\u0e48⟨U+0E35 THAI CHARACTER SARA II⟩"),
        ("\u0915\u0947\u0947", "\u0915\u0947⟨U+0947 DEVANAGARI VOWEL SIGN E⟩"),  # each once
        ("\u0915\u0947\u0307", "\u0915\u0947⟨U+0307 COMBINING DOT ABOVE⟩"),
        ("\u0915\u0947\u0e48", "\u0915\u0947⟨U+0E48 THAI CHARACTER MAI EK⟩"),  # of one script
        ("\u0e17\u0947\u0902", "\u0e17\u0947⟨U+0902 DEVANAGARI SIGN ANUSVARA⟩"),
        ("a\u0947\u0902", "a⟨U+0947 DEVANAGARI VOWEL SIGN E⟩⟨U+0902 DEVANAGARI SIGN ANUSVARA⟩"),
        ("\u0947\u0902", "⟨U+0947 DEVANAGARI VOWEL SIGN E⟩⟨U+0902 DEVANAGARI SIGN ANUSVARA⟩"),
        ("\u0995\u09c7\u09be", "\u0995\u09c7⟨U+09BE BENGALI VOWEL SIGN AA⟩"),  # drawn like the next one
        ("\u0995\u09cb", "\u0995\u09cb"),
        ("\u1112\u1161", "\u1112⟨U+1161 HANGUL JUNGSEONG A⟩"),
        ("\u304b\u3099", "\u304b⟨U+3099 COMBINING KATAKANA-HIRAGANA VOICED SOUND MARK⟩"),
        ("\u095c\u0947", "⟨U+095C DEVANAGARI LETTER DDDHA⟩\u0947"),
        ("p\u0251ypal", "p⟨U+0251 LATIN SMALL LETTER ALPHA⟩ypal"),
        ("日本語ab", "日本語ab"),
        ("\u0430\u0435", "⟨U+0430 CYRILLIC SMALL LETTER A⟩⟨U+0435 CYRILLIC SMALL LETTER IE⟩"),
        ("\u0430\u0436", "\u0430\u0436"),
        ("a x\u0430", "a x⟨U+0430 CYRILLIC SMALL LETTER A⟩"),
    ],
)
def test_marks_and_letters_are_judged_by_what_stands_beside_them(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_persons_words_are_bounded_and_say_how_much_was_left_out() -> None:
    assert bounded("x" * 500) == "x" * 500
    assert bounded("x" * 503) == "x" * 500 + " … (3 characters more)"


@pytest.mark.parametrize(
    "word",
    [
        "\u0441\u043e\u0440\u0443",  # Cyrillic, reads "copy"
        "\ua4d1\ua4ee\ua4ec\ua4d1\ua4ee\ua4e1",  # Lisu, reads "PAYPAL"
        "\u13ab\u13a5\u13b7",  # Cherokee, reads "JiM"
        "\u146d\u15c5\u1587",  # Canadian syllabics, reads "PAR"
        "\u2ca2\u2c9e\u2ca4",  # Coptic, reads "POC"
        "\U00010301\U00010302",  # Old Italic, reads "BC"
        "\U0001d6a8\U0001d6a9",  # mathematical Greek, reads "AB"
        "\u09ea\u09ea",  # Bengali 44, reads "88"
    ],
)
def test_a_word_made_only_of_look_alikes_is_spelled_out(word: str) -> None:
    assert not set(visible(word)) & set(word)


@pytest.mark.parametrize(
    "text", ["r\u1d0fot", "\ua731udo", "1\u0966\u0966", "\u09e7\u0966\u096b\u09e7", "a\u0967", "x\u02dd"]
)
def test_a_letter_or_digit_that_passes_for_another_is_spelled_out_where_it_stands(text: str) -> None:
    assert "⟨" in visible(text)
    assert not any(char in visible(text) for char in text if not char.isascii())


@pytest.mark.parametrize(
    "text",
    [
        *("Grüße aus Köln", "привет мир", "日本語のTシャツ", "καλημέρα", "שלום", "naïve café", "€ 12,50", "한국어"),
        *("हूँ, में, ज़ुल्म, ड़ें, बाँध, क्षेत्रों", "চাঁদ বাংলা ভাষা", "ਸਿੰਘ ਪੁੱਤ", "ગુજરાતીમાં", "தமிழ் மொழி", "తెలుగు", "മലയാളം"),
        *(
            "ภาษาไทยที่นี่ สิทธิ์ เมื่อ น้ำ",
            "ສິ່ງ ທີ່ ພາສາລາວ",
            "१२३ कक्षा१०",
            "٢٠٢٦",
            "कक्षा",
            "\u0433\u043e\u0440\u0430\u043c2",
            "ᐃᓄᒃᑎᑐᑦ",
            "ᏣᎳᎩ",
        ),
    ],
)
def test_honest_text_of_other_languages_stays_readable(text: str) -> None:
    assert visible(text) == text


@given(st.text(), st.text())
def test_different_texts_never_look_the_same(one: str, other: str) -> None:
    assert (visible(one) == visible(other)) is (one == other)


@given(st.text(st.sampled_from("aकगाे़्ंँที่ำ\u1112\u1161\u11ab\u09c7\u09be\u0995")))
def test_what_is_shown_as_it_is_has_one_canonical_form(text: str) -> None:
    """Texts that Unicode calls equivalent are drawn alike, so at most one of them is shown without a word."""
    assert visible(text) != text or unicodedata.normalize("NFC", text) == text


@given(st.text())
def test_nothing_shown_is_a_control_or_format_character(text: str) -> None:
    assert not {unicodedata.category(char) for char in visible(text)} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@given(_json)
def test_the_pretty_form_is_the_same_json_with_every_character_of_it(value: object) -> None:
    text = canonical(value)
    lines = list(pretty(text))
    assert canonical(json.loads("\n".join(lines))) == text
    unquoted = "".join(line.strip(" ") if '"' not in line else line.lstrip(" ") for line in lines)
    assert unquoted.replace('": ', '":') == text.replace('": ', '":')


def test_nothing_is_nested_so_deeply_that_it_leaves_the_page() -> None:
    deep: object = {"given      consent by ann": "x" * 200}
    for _ in range(60):
        deep = [deep]
    text = render(nouns.challenge(Demand.CONSENT, arguments=canonical({"a": deep})), width=80).text
    assert max(map(len, text.splitlines())) <= 80
    assert not any(line.startswith("given ") for line in text.splitlines())
    assert text.count("[") == text.count("]") == 60
    assert text.count("x") >= 200


@given(st.dictionaries(st.text(max_size=8), st.text(alphabet=st.characters(codec="ascii"), max_size=400), max_size=3))
def test_wrapping_drops_nothing(arguments: dict[str, str]) -> None:
    challenge = nouns.challenge(Demand.CONSENT, arguments=canonical(arguments))
    wide = render(challenge, width=100_000).text
    narrow = render(challenge, width=60).text
    joined = "".join(
        line.lstrip(" ").removeprefix("↳ ") if line.lstrip(" ").startswith("↳ ") else "\n" + line
        for line in narrow.split("arguments\n", 1)[1].splitlines()
    )
    assert joined.removeprefix("\n") == wide.split("arguments\n", 1)[1].removesuffix("\n")
    assert max(map(len, narrow.splitlines())) <= 80


def test_the_view_says_who_wants_what_why_and_what_is_still_missing() -> None:
    challenge = nouns.challenge(
        Demand.CONSENT, Demand.POSSESSION, findings=(nouns.finding(evidence="192.0.2.0/24"),), proofs=(nouns.consent(),)
    )
    text = render(challenge, width=200).text
    for fact in (
        "deployer of olga, key 1a2b3c4d5e6f7a8b",
        "tool refund",
        "payments.yaml#tools.refund",
        "sensitive, move_money",
        "the owner tagged this as sensitive (payments-team)",
        "192.0.2.0/24 (signal s, unusual, doubt about identity)",
        "both, people of group approvers",
        "consent by ann, totp",
        "missing    the workload's signature",
        challenge.short_digest,
        "2027-01-15 08:15:00 UTC",
        '    "amount": 12,',
    ):
        assert fact in text


def test_a_tool_name_cannot_forge_a_line_of_the_view() -> None:
    text = render(nouns.challenge(Demand.CONSENT, name="x\nmissing    nothing")).text
    assert "\nmissing    nothing" not in text


def test_the_digest_is_that_of_the_text_and_changes_with_every_argument() -> None:
    view = render(nouns.challenge(Demand.CONSENT))
    assert view.digest == digest(view.text)
    assert view.digest != render(nouns.challenge(Demand.CONSENT, arguments='{"amount":13,"to":"ACME"}')).digest


def test_an_ended_challenge_says_that_its_arguments_are_gone() -> None:
    challenge = replace(
        nouns.challenge(Demand.CONSENT), state=State.DENIED, arguments="", ended_by="ann", ended_because="no"
    )
    text = render(challenge).text
    assert "erased when the challenge ended" in text
    assert "ann: no" in text


def test_the_view_is_the_same_text_in_every_version_since_proofs_hold_its_digest() -> None:
    call = nouns.challenge(
        principal=replace(nouns.PRINCIPAL, on_behalf_of="oli"),
        requirement=Requirement(
            frozenset({Demand.TWO_PEOPLE}),
            quorums=frozenset({Quorum(proof_class=ProofClass.CONSENT, group="oncall")}),
            barred=frozenset({"zoe", "cy"}),
        ),
        effects=frozenset({"move_money", "destroy"}),
        arguments='{"amount":12,"empty":{},"list":[1,[],"a:b"],"to":{"name":"ACME"}}',
        findings=(nouns.finding(evidence="192.0.2.0/24"),),
        further=Further(3, 5400),
        proofs=(
            replace(nouns.consent(), note="planned", solo=True),
            replace(nouns.consent("releases", "intent"), attestation=0),
            replace(nouns.consent("ci", "intent"), attestation=1),
        ),
    )
    assert (
        render(call, width=200).text
        == f"""\
challenge  c_{nouns.RANDOM}, pending
digest     {call.short_digest}
agent      deployer of olga, key 1a2b3c4d5e6f7a8b
on behalf  oli
wants      tool refund
on server  payments
tagged     sensitive, destroy, move_money
rule       payments.yaml#tools.refund
policy     {"r" * 64}
because    {call.reasons[0]}
unusual    {call.findings[0].reason} (signal s, unusual, doubt about identity)
required   {call.requirement.label}, people of group approvers
           {call.requirement.terms[0]}
may allow  up to 3 further calls of this tool, within 90 minutes
but not by cy, zoe, who changed the policy last
given      consent by ann, who owns the agent, totp, 2027-01-15 08:00:00 UTC: planned
given      consent by releases, whose key is in no known token, intent, 2027-01-15 08:00:00 UTC
given      consent by ci, intent, 2027-01-15 08:00:00 UTC
missing    {missing(call.requirement, call.proofs)}
opened     2027-01-15 08:00:00 UTC
expires    2027-01-15 08:15:00 UTC

arguments
  {{
    "amount": 12,
    "empty": {{}},
    "list": [
      1,
      [],
      "a:b"
    ],
    "to": {{
      "name": "ACME"
    }}
  }}
"""
    )


def test_the_view_says_so_where_nothing_is_known_named_or_missing() -> None:
    call = nouns.challenge(
        principal=Principal(subject="deployer", credential="", owner=""),
        rule="",
        policy_revision="",
        proofs=(nouns.consent(),),
        state=State.CANCELLED,
        arguments="",
        ended_because="nobody waits for it",
    )
    lines = render(call).text.splitlines()
    for line in (
        "agent      deployer, key unknown",
        "rule       none names this",
        "policy     none",
        "missing    nothing",
        "ended      nobody waits for it",
        "  (erased when the challenge ended)",
    ):
        assert line in lines


def test_where_nothing_is_required_nobody_is_named() -> None:
    call = nouns.challenge(requirement=Requirement())
    assert f"required   {call.requirement.label}" in [line.rstrip() for line in render(call).text.splitlines()]


def test_a_long_line_is_broken_at_a_blank_of_its_second_half_and_else_where_it_is_full() -> None:
    def lines(rule: str) -> list[str]:
        text = render(nouns.challenge(rule=rule), width=51).text
        return text.split("rule       ")[1].split("policy ")[0].splitlines()

    assert lines("x" * 40) == ["x" * 40]
    assert lines("x" * 41) == ["x" * 38, " " * 11 + "↳ xxx"]
    assert lines("x" * 39 + " " + "y" * 5) == ["x" * 38, " " * 11 + "↳ x yyyyy"]
    assert lines("x" * 30 + " " + "y" * 20) == ["x" * 30 + " ", " " * 11 + "↳ " + "y" * 20]
    assert lines("x" * 18 + " " + "y" * 23) == ["x" * 18 + " " + "y" * 19, " " * 11 + "↳ yyyy"]
