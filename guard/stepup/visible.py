"""Text made honest: every character a reader could miss or mistake is spelled out as ⟨U+202E NAME⟩.

Spelled out are control, format, private, unassigned and surrogate code points, blanks other than the
space, characters that render as nothing, marks that overstrike their base, pieces of what is one character
when composed, and letters or signs that pass for others (Unicode TR 36, TR 39): compatibility forms of ASCII,
foreign letters within a Latin word, and whole words made of look-alikes. The brackets ⟨⟩ themselves are spelled
out, so they cannot be forged.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

_HIDDEN: Final = frozenset({"Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp", "Zs", "Me", "Pd"})
"""Categories that are never shown as they are (outside ASCII): invisible, overstriking, or a dash."""


def _points(text: str) -> frozenset[str]:
    return frozenset(chr(int(point, 16)) for point in text.split())


_BLANK: Final = _points("034F 115F 1160 17B4 17B5 180B 180C 180D 180F 2800 3164 FFA0") | {
    chr(point) for point in (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
}
"""What draws nothing although its category is harmless (Unicode Default_Ignorable_Code_Point; braille blank)."""

_SIGNS: Final = _points(
    "01C0 01C3 02B9 02BA 02BC 02C8 0589 05C3 066B 2016 201A 201B 2024 2032 2033 2035 2039 203A "
    "2044 204E 2212 2215 2216 2217 2223 2236 223C 2329 232A 2571 276C 276D 27E8 27E9 2991 2992 "
    "29F5 29F8 29F9 29FC 29FD 3008 3009 A4F8 A4FD "
    "00B8 02D0 02D7 02DC 02DD 02F6 02F8 1735 1803 201F 2036 2043 2053 205A 2768 2769 2772 2773 2774 2775 "
    "2795 2796 27CB 27CD 2CC6 3033 31D3 31D4 A4F9 A4FF A789 16EC 16ED FD3E FD3F 1D20F 1D23A "
)
"""Signs that pass for ASCII punctuation or for this module's own brackets (Unicode confusables.txt)."""

_LATIN_TWINS: Final = _points(
    "0405 0406 0408 0410 0412 0415 0417 041A 041C 041D 041E 0420 0421 0422 0423 0425 0430 0435 "  # Cyrillic
    "043E 0440 0441 0443 0445 0455 0456 0458 0461 04AF 04BB 04CF 0501 050C 051A 051B 051C 051D "
    "0391 0392 0395 0396 0397 0399 039A 039C 039D 039F 03A1 03A4 03A5 03A7 03B1 03B9 03BD 03BF "  # Greek
    "03C1 03C5 03F2 03F3 "
    "054D 054F 0555 0566 0570 0575 0578 057D 0581 0585 "  # Armenian
    "13A0 13A1 13A2 13A5 13A9 13AA 13AB 13AC 13B3 13B7 13BB 13BD 13C0 13C2 13C3 13CE 13CF 13D2 13D4 13D5 "  # Cherokee
    "13D9 13DA 13DE 13DF 13E2 13E6 13E7 13EE 13F3 13F4 AB75 AB81 AB83 AB93 ABA9 ABAA ABAF "
    "0131 0184 0196 01BD 0237 0251 0261 0269 026A 028F "  # Latin that passes for other Latin
    "1D04 1D0F 1D11 1D1C 1D20 1D21 1D22 1D83 1D8C 1E9D 1EFF A731 A78C A799 A79F AB32 AB35 AB3D AB47 AB48 AB4E AB52 "
    "AB5A A7B2 A7B3 A7B4 037F 03D2 03DC 03F1 03F9 03FA 1D26 0474 0475 04AE 04BD 04C0 A647 "  # more Greek, Cyrillic
    "A4D0 A4D1 A4D2 A4D3 A4D4 A4D6 A4D7 A4D9 A4DA A4DC A4DD A4DF A4E0 A4E1 A4E2 A4E3 A4E6 A4E7 A4EA A4EB A4EC A4EE "
    "A4F0 A4F2 A4F3 A4F4 "  # Lisu
    "03E8 2C85 2C8E 2C92 2C94 2C98 2C9A 2C9E 2C9F 2CA2 2CA3 2CA4 2CA5 2CA6 2CA8 2CAC 2CCA 2CCC 2CD0 2CD2 "  # Coptic
    "142F 144C 146D 146F 1472 148D 14AA 14BF 1541 157C 157D 1587 15AF 15B4 15C5 15DE 15EA 15F0 15F7 "  # Canadian
    "16B7 16C1 16D5 16D6 2D38 2D39 2D4F 2D54 2D55 2D5D A6DF 10FF 1200 12D0 0B20 0D20 101D "  # Runic, Tifinagh, others
    "10282 10286 10287 1028A 10290 10292 10295 10296 10297 102A0 102A1 102A2 102A5 102AB 102B0 102B1 102B2 102B4 102CF "
    "10301 10302 10309 10311 10315 10317 1031A 10404 10415 1041B 10420 1042C 1043D 10448 104B4 104C2 104CE 104D2 104EA "
    "104F6 10513 10516 10518 1051C 1051D 10525 10526 10527 11700 11706 1170A 1170E 1170F 16F08 16F0A 16F16 16F28 16F35 "
    "16F3A 16F3B 16F40 16F42 16F43 118A0 118A2 118A3 118A4 118A6 118A9 118AC 118AE 118AF 118B2 118B5 118B8 118BB 118BC "
    "118C0 118C1 118C2 118C3 118C4 118C6 118C8 118CA 118CC 118D5 118D6 118D7 118D8 118DC "  # ancient and rare ones
    "09EA 09ED 0A67 0A6A 0B68 0D6D "  # digits that are drawn like another digit than the one they mean
)
"""Letters that most typefaces draw like a Latin letter or an ASCII digit (Unicode confusables.txt)."""

_UNMIXED: Final = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "HALFWIDTH")
"""Scripts that are written next to Latin letters without a blank, and look like none of them."""

_RANKS: Final = (
    re.compile(r"\w+ SIGN NUKTA"),
    re.compile(r"\w+ (VOWEL SIGN .+|SIGN VIRAMA)|THAI CHARACTER (SARA .+|MAI HAN-AKAT|MAITAIKHU)"),
    re.compile(
        r"\w+ SIGN (CANDRABINDU|ANUSVARA|VISARGA|BINDI|ADAK BINDI)|GURMUKHI (TIPPI|ADDAK)|LAO TONE .+"
        r"|THAI CHARACTER (MAI EK|MAI THO|MAI TRI|MAI CHATTAWA|THANTHAKHAT)"
    ),
)
"""Marks that scripts of India, Thai and Lao write one after the other on one letter, by their names (which Unicode
never changes), in the only order in which they are shown: in another one many typefaces draw the same."""

_MOST_BEFORE: Final = len(_RANKS)
"""Characters before a mark that decide about it: its letter, and the marks between."""

_WORD: Final = re.compile(r"\w+")
_FOREIGN: Final = re.compile(r"[^\x20-\x7e]")
_KNOWN: Final = 8192
"""How many characters' properties are remembered, so that a long foreign text costs little more than an ASCII one."""


def visible(text: str) -> str:
    """The text with every hidden, bidirectional, control or confusable character spelled out.

    Line breaks are control characters like any other. Equal outputs mean equal inputs.
    """
    if not _FOREIGN.search(text):
        return text
    twins = {word.start() + offset for word in _WORD.finditer(text) for offset in _twins(word[0])}

    def shown(found: re.Match[str]) -> str:
        char, at = found[0], found.start()
        hides = at in twins or _deceptive(char) or _overstrikes(char, text[max(at - _MOST_BEFORE, 0) : at])
        return _spell(char) if hides else char

    return _FOREIGN.sub(shown, text)


@lru_cache(_KNOWN)
def _spell(char: str) -> str:
    name = unicodedata.name(char, "") or unicodedata.category(char)
    return f"⟨U+{ord(char):04X} {name}⟩"


@lru_cache(_KNOWN)
def _deceptive(char: str) -> bool:
    """Whether a character outside ASCII hides or passes for another by itself."""
    if unicodedata.category(char) in _HIDDEN or char in _BLANK or char in _SIGNS:
        return True
    if unicodedata.decomposition(char).startswith("<font>"):
        return True
    folded = unicodedata.normalize("NFKC", char)
    return unicodedata.normalize("NFC", char) != char or (folded != char and not _FOREIGN.search(folded))


def _overstrikes(char: str, before: str) -> bool:
    """Whether a character joins the one before it in a way that is drawn like something else, or is drawn over it.

    A combining mark does not where it stands on a letter of a script that writes such marks, alone or in order.
    """
    if before and _composes(before[-1], char):
        return True
    if unicodedata.category(char) != "Mn":
        return False
    if not before or before[-1].isalpha():
        return not before or _script(before[-1]) in {"LATIN", "GREEK", "CYRILLIC"}
    return not _in_order(char, before)


@lru_cache(_KNOWN)
def _composes(before: str, char: str) -> bool:
    """Whether both together are canonically something else: one character, or the same in another order."""
    return unicodedata.normalize("NFC", before + char) != unicodedata.normalize("NFC", before) + char


def _in_order(char: str, before: str) -> bool:
    """Whether a mark follows others of its script that belong before it, and those a letter of the script."""
    script, rank = _rank(char)
    for earlier in reversed(before):
        if earlier.isalpha():
            return _script(earlier) == script
        same, lower = _rank(earlier)
        if same != script or not lower < rank:
            return False
        rank = lower
    return False


@lru_cache(_KNOWN)
def _rank(mark: str) -> tuple[str, int]:
    """The script of a mark, and the place of its kind among `_RANKS`; "" where it has none."""
    name = unicodedata.name(mark, "")
    places = (place for place, kind in enumerate(_RANKS) if kind.fullmatch(name))
    return next(((name.split(maxsplit=1)[0], place) for place in places), ("", 0))


@lru_cache(_KNOWN)
def _script(char: str) -> str:
    """The script of a letter or foreign digit, by the first word of its Unicode name; empty for anything else."""
    if not char.isalpha() and (char.isascii() or not char.isdecimal()):
        return ""
    return unicodedata.name(char, "?").split(maxsplit=1)[0].split("-", maxsplit=1)[0]


def _twins(word: str) -> list[int]:
    """Offsets of letters and digits that pass for Latin: foreign ones beside Latin, or a word of nothing but twins.

    Numbers of other scripts may stand beside their own letters, and ASCII digits beside any.
    """
    if word.isascii():
        return []
    letters = [(offset, char, script) for offset, char in enumerate(word) if (script := _script(char))]
    foreign = [offset for offset, _, script in letters if script != "LATIN" and script not in _UNMIXED]
    if len(foreign) < len(letters):
        return [*foreign, *(offset for offset, char, script in letters if script == "LATIN" and char in _LATIN_TWINS)]
    if all(char in _LATIN_TWINS for _, char, _ in letters):
        return foreign
    digits = [(offset, script) for offset, char, script in letters if char.isdecimal()]
    mixed = len({script for _, script in digits}) > 1 or any(char.isascii() and char.isdecimal() for char in word)
    return [offset for offset, _ in digits] if mixed else []


WORDS: Final = 500
"""Characters of a person's words that are kept."""


def bounded(text: str) -> str:
    """A person's words, fit for every sink."""
    shown = visible(text)
    return shown if len(shown) <= WORDS else f"{shown[:WORDS]} … ({len(shown) - WORDS} characters more)"
