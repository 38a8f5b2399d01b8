"""Personal data in a text: e-mail addresses, phone numbers, payment cards, bank accounts (IBAN)."""

from __future__ import annotations

import re

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.)+[^\W\d_]{2,24}(?![\w-])")
_IBAN_START = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?=[ ]?[A-Za-z0-9]{4})")
_CARD = re.compile(r"(?<![\d.,+-])\d(?:[ -]?\d){12,18}(?![\d]|[.,-]\d)")
# Visa; Mastercard (two ranges); American Express; Diners; Discover, UnionPay and Maestro; JCB.
_BRANDS = re.compile(
    r"4(?:\d{15}|\d{18})|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|3[068]\d{12}|6[0245]\d{14}|35\d{14}", re.ASCII
)
_INTERNATIONAL = r"(?:\+|\b00)[ ]?[1-9]\d{0,2}[ ./-]?(?:\(0?\d{0,4}\)[ ./-]?)?\d{1,5}(?:[ ./-]?\d{2,9}){1,5}"
_NORTH_AMERICAN = r"(?:\b1[ .-])?(?:\([2-9]\d\d\)[ ]?|\b[2-9]\d\d[ .-])\d{3}[ .-]\d{4}"
_NATIONAL = r"(?:\(0[1-9]\d{0,4}\)[ ]?|\b0[1-9]\d{0,4}[ /-])\d{2,8}(?:[ /-]?\d{2,6}){0,4}|\b0[1-9](?:[.]\d{2}){4}"
_PHONE = re.compile(rf"(?<![\w.,/-])(?<!\d{{4}} )(?:{_INTERNATIONAL}|{_NORTH_AMERICAN}|{_NATIONAL})(?!\w|[.,/-]\d)")
_CALLED = re.compile(
    r"\b(?:tel|telephone|phone|call|mobile|cell|fax|whatsapp|sms|ring)\b[^\w+]{0,3}(?:me |us |on |at |no\.? |number )*"
    r"(\d{7,15})(?![\w]|[.,/-]\d)",
    re.IGNORECASE,
)
# Phones, cards and IBANs all have seven digits in a row; this one search is far cheaper than theirs.
_SEVEN_DIGITS = re.compile(r"\d(?:[ ./()-]{0,3}\d){6}")
_DATE = re.compile(r"(?:19|20)\d\d[ ./-]\d{1,2}[ ./-]\d{1,2}(?!\d)|\d{1,2}[ ./-]\d{1,2}[ ./-](?:19|20)\d\d(?!\d)")
_NUMBER_OF = re.compile(
    r"(?:\b(?:order|invoice|ref|reference|ticket|case|id|isbn|issn|tracking|parcel|serial|sku|no|nr|version|item)\b"
    r"[ .:#]*|[#$€£])(?:(?:number|no|nr|id)\b[ .:#]*)?(?:is )?$",
    re.IGNORECASE,
)

# country -> length of its IBANs, from the SWIFT IBAN registry
_IBAN_LENGTHS = {
    country: int(length)
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI FO GL NL",
        19: "MK SI",
        20: "AT BA EE KZ LT LU XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "PT",
        26: "IS TR",
        27: "FR GR IT MC MR SM",
        28: "AL AZ CY DO GT HU LB PL BY SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU",
        31: "MT SC",
        32: "LC",
    }.items()
    for country in countries.split()
}


def find_personal(text: str) -> list[tuple[str, str]]:
    """(kind, match) for each piece of personal data in `text`, in order; kinds: email, phone, card, iban.

    Cards must pass the Luhn check and IBANs theirs (ISO 13616, modulo 97); what reads like a date, a price, an IP
    address or the number of an order is no phone number.
    """
    found = [(match.start(), "email", match.group()) for match in _EMAIL.finditer(text)] if "@" in text else []
    if _SEVEN_DIGITS.search(text):
        found += _ibans(text) + [
            (match.start(), "card", match.group()) for match in _CARD.finditer(text) if _is_card(match.group())
        ]
        rest = text
        for start, _, match in found:
            rest = rest[:start] + "x" * len(match) + rest[start + len(match) :]
        found += _phones(rest)
    return [(kind, match) for _, kind, match in sorted(found)]


def mask(match: str) -> str:
    """The first character and the last two, the rest hidden: enough to find it, too little to use it."""
    return f"{match[0]}…{match[-2:]}" if len(match) > 5 else "…"


def _ibans(text: str) -> list[tuple[int, str, str]]:
    found = []
    for start in _IBAN_START.finditer(text):
        length = _IBAN_LENGTHS.get(start.group()[:2].upper(), 0)
        pattern = re.compile(rf"[A-Za-z0-9](?:[ ]?[A-Za-z0-9]){{{length - 1}}}(?![A-Za-z0-9])") if length else None
        match = pattern.match(text, start.start()) if pattern else None
        if match and _is_iban(match.group()):
            found.append((match.start(), "iban", match.group()))
    return found


def _is_iban(candidate: str) -> bool:
    plain = candidate.replace(" ", "").upper()
    return plain.isascii() and int("".join(str(int(char, 36)) for char in plain[4:] + plain[:4])) % 97 == 1


def _is_card(candidate: str) -> bool:
    plain = re.sub(r"[ -]", "", candidate)
    if not _BRANDS.fullmatch(plain):
        return False
    digits = [int(char) for char in plain]
    doubled = [digit if place % 2 == 0 else sum(divmod(2 * digit, 10)) for place, digit in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def _phones(text: str) -> list[tuple[int, str, str]]:
    found = []
    for match in _PHONE.finditer(text):
        digits = sum(char.isdigit() for char in match.group())
        fewest = 12 if match.group().startswith("00") else 8
        if (
            fewest <= digits <= 15
            and not _DATE.search(match.group())
            and not _NUMBER_OF.search(text[max(0, match.start() - 40) : match.start()])
        ):
            found.append((match.start(), "phone", match.group()))
    spans = [(start, start + len(match)) for start, _, match in found]
    for match in _CALLED.finditer(text):
        if not any(start < match.end(1) and match.start(1) < end for start, end in spans):
            found.append((match.start(1), "phone", match.group(1)))
    return found
