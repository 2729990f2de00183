"""Personal data in text: e-mail, phone, card and identity numbers and IP addresses, replaced by typed placeholders.

Each kind is proposed by a pattern and then confirmed by its own check digits, numbering plan or parser, so that
years, verse references, prices and dates stay. `research.data.cleaning.cleaning` offers it as one step.
"""

import ipaddress
import re
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import phonenumbers
from stdnum import iban, luhn
from stdnum.es import dni, nie
from stdnum.it import codicefiscale
from stdnum.us import ssn

EMAIL = re.compile(r"(?<![\w.+%-])\w[\w.+%'-]{0,63}@(?:[\w-]{1,63}\.)+[^\W\d_]{2,63}(?![\w-])")
# A number must stand alone: not inside a word or a decimal fraction.
STARTS, ENDS = r"(?<![\w.,])", r"(?!\w|[.,]\d)"
CARD = re.compile(
    STARTS + r"(?:[2-6]\d{12,18}|[2-6]\d{3}([ -])\d{4}\1\d{4}\1\d{1,7}|3\d{3}([ -])\d{6}\2\d{4,5})" + ENDS
)
IBAN = re.compile(STARTS + r"[A-Z]{2}\d\d(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")
IDENTITY: tuple[tuple[re.Pattern[str], Callable[[str], bool]], ...] = (
    (re.compile(STARTS + r"\d{3}-\d\d-\d{4}(?![\w-])"), ssn.is_valid),
    (re.compile(STARTS + r"\d{8}-?[A-Z]" + ENDS), dni.is_valid),
    (re.compile(STARTS + r"[XYZ]-?\d{7}-?[A-Z]" + ENDS), nie.is_valid),
    (re.compile(STARTS + r"[A-Z]{6}\d\d[A-Z]\d\d[A-Z]\d{3}[A-Z]" + ENDS), codicefiscale.is_valid),
)
IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)")
IPV6 = re.compile(
    r"(?<![\w:.])(?=[\dA-Fa-f:]*\d)[\dA-Fa-f:]*:[\dA-Fa-f]*:[\dA-Fa-f:]+(?:\d{0,3}(?:\.\d{1,3}){3})?(?![\w:])"
)
SEVEN_DIGITS = re.compile(r"(?:\d[^\w\n]{0,3}){6}\d")
PLAIN_NUMBER = re.compile(r"\d+(?:[.,]\d+)?")
PHONE_WORD = re.compile(r"(?:phone|mobile|cell|call|fax|tel|dial|whatsapp)\W*(?:\w+\W+){0,2}$", re.IGNORECASE)


class Found(NamedTuple):
    """A piece of personal data: text[start:end] is of this kind."""

    start: int
    end: int
    kind: str


def remove_personal_data(text: str, region: str = "US") -> str:
    """Replaces every piece of personal data by its kind: `<EMAIL>`, `<PHONE>`, `<CARD>`, `<IBAN>`, `<ID>`, `<IP>`."""
    parts, end = [], 0
    for found in find_personal_data(text, region):
        parts += [text[end : found.start], f"<{found.kind}>"]
        end = found.end
    return "".join([*parts, text[end:]])


def find_personal_data(text: str, region: str = "US") -> list[Found]:
    """Finds e-mail addresses, IBANs, payment cards, identity numbers, IP addresses and phone numbers.

    Cards pass the Luhn check (ISO/IEC 7812), IBANs their check digits and country (ISO 13616), identity numbers are
    US social security numbers, Spanish DNI and NIE and Italian fiscal codes that pass their own rules.

    Args:
        text: any text.
        region: country whose national phone numbers are known without the prefix `+`, as ISO 3166-1 code. A number of
            digits alone counts only after a word such as "call" or "phone".

    Returns:
        Pieces in the order of the text, not overlapping.
    """
    pieces: list[Found] = []
    for found in _candidates(text, region):
        if all(found.end <= other.start or other.end <= found.start for other in pieces):
            pieces.append(found)
    return sorted(pieces)


def _candidates(text: str, region: str) -> Iterator[Found]:
    """Yields confirmed pieces, the surest kinds first."""
    if "@" in text:
        yield from (Found(*match.span(), "EMAIL") for match in EMAIL.finditer(text))
    for match in IBAN.finditer(text):
        # Capitals after the number look like a part of it; the check digits tell where it ends.
        ends = [end for end in range(match.end(), match.start() + 14, -1) if not text[end : end + 1].isalnum()]
        end = next((end for end in ends if iban.is_valid(text[match.start() : end])), None)
        if end is not None:
            yield Found(match.start(), end, "IBAN")
    for match in CARD.finditer(text):
        if luhn.is_valid(re.sub("[ -]", "", match.group())):
            yield Found(*match.span(), "CARD")
    for pattern, is_valid in IDENTITY:
        yield from (Found(*match.span(), "ID") for match in pattern.finditer(text) if is_valid(match.group()))
    for pattern in (IPV6, IPV4):  # IPv6 first: it may end in an IPv4 address
        yield from (Found(*match.span(), "IP") for match in pattern.finditer(text) if _is_address(match.group()))
    yield from _phones(text, region)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _phones(text: str, region: str) -> Iterator[Found]:
    start = 0
    for line in text.splitlines(keepends=True):
        # The matcher takes milliseconds a page, so it only sees lines with enough digits for a number.
        if SEVEN_DIGITS.search(line):
            for match in phonenumbers.PhoneNumberMatcher(line, region, max_tries=sys.maxsize):
                if not PLAIN_NUMBER.fullmatch(match.raw_string) or PHONE_WORD.search(line[: match.start]):
                    yield Found(start + match.start, start + match.end, "PHONE")
        start += len(line)
