"""Personal data is replaced by its kind, and numbers that are none stay."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stdnum import luhn

import research.data
from research.data.cleaning.personal_data import find_personal_data, remove_personal_data

AUSTEN = sorted((Path(research.data.__file__).parent / "datasets" / "austen").rglob("*.txt.gz"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to jane.o'neil+x@mail.example.co.uk.", "write to <EMAIL>."),
        ("'bob@example.com', <ana@correo.es>", "'<EMAIL>', <<EMAIL>>"),
        ("(650) 253-0000 or 650-253-0000", "<PHONE> or <PHONE>"),  # numbers of the libphonenumber documentation
        ("call me 6502530000\nor +44 20 7031 3000", "call me <PHONE>\nor <PHONE>"),
        # Test cards of the payment networks.
        ("card 4111 1111 1111 1111, 378282246310005", "card <CARD>, <CARD>"),
        ("5555-5555-5555-4444; 3782 822463 10005", "<CARD>; <CARD>"),
        # Examples of the IBAN registry (SWIFT).
        ("DE89 3704 0044 0532 0130 00 PLEASE, GB82WEST12345698765432.", "<IBAN> PLEASE, <IBAN>."),
        ("SSN 536-90-4399, DNI 12345678Z, NIE X1234567L", "SSN <ID>, DNI <ID>, NIE <ID>"),
        ("from 192.168.1.1, 2001:db8::1 and ::ffff:1.2.3.4.", "from <IP>, <IP> and <IP>."),
    ],
)
def test_each_kind_becomes_its_placeholder(text: str, expected: str) -> None:
    """E-mail, phone, card, IBAN, identity numbers and addresses go, and what is around them stays."""
    assert remove_personal_data(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # wrong check digit
        "DE88 3704 0044 0532 0130 00",  # wrong check digits
        "12345678A",  # wrong letter
        "000-12-3456",  # never issued
        "256.1.1.1 and v1.2.3.4",
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20",
        "0.4111111111111111 and 1.13043478261 and 2125550123",
        "std::vector, a::b, 12:30:45, @home, a@b",
        "In 1811-1813, 2004-01-13 12:30:45, 13/01/2004, $1,234,567,890.12, 1811 1813 1814 1815",
        "Gen 1:1-31; 2:3, 1 Chronicles 12:3-5; 7:14, 23",
    ],
)
def test_lookalikes_stay(text: str) -> None:
    """What fails its check digits, range or form is not touched."""
    assert remove_personal_data(text) == text


years = st.integers(1000, 2100).map(str)
verses = st.builds("{} {}:{}-{}".format, st.sampled_from(["Gen", "1 Kings", "Ps"]), *[st.integers(1, 176)] * 3)
prices = st.builds("{}{:,}.{:02}".format, st.sampled_from(["$", "£", "€ "]), st.integers(0, 10**9), st.integers(0, 99))
dates = st.dates().flatmap(lambda date: st.sampled_from([f"{date:%Y-%m-%d}", f"{date:%d/%m/%Y}", f"{date:%B %d, %Y}"]))
times = st.times().map(lambda time: f"{time:%H:%M:%S}")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(years, verses, prices, dates, times), max_size=8), st.sampled_from([", ", "; ", " and ", "\n"])
)
def test_years_verses_prices_dates_and_times_stay(parts: list[str], separator: str) -> None:
    """Ordinary numbers of prose are never taken for personal data."""
    text = separator.join(parts)
    assert remove_personal_data(text) == text


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("0123456789 -.:@aFDE/()+\n"), max_size=60))
def test_pieces_lie_in_order_and_are_gone_after(text: str) -> None:
    """The pieces never overlap, and nothing but them changes."""
    end, rest = 0, []
    for start, stop, kind in find_personal_data(text):
        assert end <= start < stop <= len(text)
        rest += [text[end:start], f"<{kind}>"]
        end = stop
    assert remove_personal_data(text) == "".join(rest) + text[end:]


@given(st.integers(10**14, 10**15 - 1), st.sampled_from("23456"))
def test_every_card_number_goes(digits: int, first: str) -> None:
    """Any sixteen-digit number with a card's first digit and a right check digit is found, grouped or not."""
    number = f"{first}{str(digits)[1:]}"
    number += luhn.calc_check_digit(number)
    number = number.ljust(16, "0") if len(number) == 16 else number + luhn.calc_check_digit(number)
    grouped = " ".join(number[i : i + 4] for i in range(0, 16, 4))
    assert remove_personal_data(f"pay {number} or {grouped} now") == "pay <CARD> or <CARD> now"


def test_real_novels_lose_nothing() -> None:
    """Jane Austen's novels hold no personal data: not a character changes."""
    assert len(AUSTEN) == 6
    for path in AUSTEN:
        assert find_personal_data(gzip.decompress(path.read_bytes()).decode()) == []
