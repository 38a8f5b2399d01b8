"""Which language a text is in, guessed from its script and its commonest words; "unknown" where that is not sure.

Source: the idea is that of the function-word baseline in G. Grefenstette, "Comparing two language identification
schemes", 1995: a few dozen frequent short words tell texts of twenty words or more apart. A word counts the less the
more languages share it. No model and no extra package; a single sentence is often "unknown".
"""

from __future__ import annotations

import re
from collections import Counter

_WORDS = {
    "cs": "a se v na je že o s z do i to k ve pro za by ale si po jako podle od jeho jsou které který nebo také byl "
    "už jen",
    "da": "og i at det en den til er som på de med han af for ikke der var et har om vi min havde hun nu over da "
    "fra du ud",
    "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus "
    "er hat dass sie nach bei einer um am sind noch wie einem über einen so zum war haben nur oder aber vor "
    "zur bis mehr durch",
    "en": "the of and to in a is that for it was as with on be by this are or his from at which but have an not had "
    "they you were their one all we can her has there been if more when will would who so no she he i my what "
    "said them",
    "es": "de la que el en y a los se del las un por con no una su para es al lo como más o pero sus le ha me si "
    "sin sobre este ya entre cuando todo esta ser son dos también fue había era muy años hasta desde está",
    "fi": "ja on ei että se oli hän mutta kun niin myös joka ovat tai mitä sen hänen ole jo vain kuin mukaan olla "
    "tämä vielä",
    "fr": "de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se ce il sont avec ou "
    "son aux cette ont mais comme on elle été nous leur sa ses était c'est d'un d'une qu'il ces deux",
    "it": "di e il la che in a per un del è una non sono da con si le della i dei nel al ha come più lo anche alla "
    "gli ma delle dal o se nella suo sua essere questo ed c'è dell ad stato tra fu era degli",
    "nl": "de het een van en in is dat op te zijn met voor niet die er aan ook als bij door naar om wordt werd hij "
    "maar uit dan zich nog of deze dit meer hebben heeft tot over worden kan haar",
    "no": "og i det på som er en til å for av at med de ikke han den har et fra var om men vi seg ble hun jeg etter "
    "ved også eller kan så mot når blir",
    "pl": "i w na z do się nie to że jest o jak ale po za od przez tak co są był dla oraz lub tego jego który które "
    "już jej było może tylko ich przed być",
    "pt": "de a o que e do da em um para é com não uma os no se na por mais as dos como mas foi ao ele das tem à "
    "seu sua ou ser quando muito há nos já está eu também só pelo pela até isso são",
    "ru": "и в не на что с он как по это к но из у за от его для так был о же все она а то бы если или мы их была быть",
    "sv": "och att det som en på är av för i den till med ett de inte har om han var från vid men sig kan efter så "
    "när hade under vi jag eller också hon ut där år skulle",
    "tr": "ve bir bu da de için ile çok olarak daha ne var gibi kadar olan sonra en ise değil o ki mi her ama ya "
    "iki oldu",
    "uk": "і в на що з не та до як у за це від його для про й він а але був є або які який було щоб її",
}
_LANGUAGES = {name: frozenset(words.split()) for name, words in _WORDS.items()}
_SHARED = Counter(word for words in _LANGUAGES.values() for word in words)
_WEIGHTS = {
    word: [(name, 1 / _SHARED[word]) for name, words in _LANGUAGES.items() if word in words] for word in sorted(_SHARED)
}
# Scripts that one language in particular is written in: Greek, Hebrew, Arabic, Devanagari, Thai, kana, Hangul, Han.
_SCRIPTS = (
    ("el", "\u0370-\u03ff"), ("he", "\u0590-\u05ff"), ("ar", "\u0600-\u06ff"), ("hi", "\u0900-\u097f"),
    ("th", "\u0e00-\u0e7f"), ("ja", "\u3040-\u30ff"), ("ko", "\uac00-\ud7a3"), ("zh", "\u4e00-\u9fff"),
)  # fmt: skip
_COUNTED = {name: re.compile(f"[{letters}]") for name, letters in _SCRIPTS}
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")

_SAMPLE_CHARS = 5_000
_LEAST_SHARE = 0.12  # of the words, weighted: running text of a known language has 0.2 to 0.5
_LEAST_LEAD = 1.4  # times the next language
_LEAST_HITS = 3

KNOWN = tuple(sorted([*_LANGUAGES, *_COUNTED]))


def language_of(text: str) -> str:
    """The ISO 639-1 code of the language of `text`, one of `KNOWN`, or "unknown".

    Looks at the first 5,000 characters.
    """
    sample = text[:_SAMPLE_CHARS]
    if not sample.isascii():
        script = _by_script(sample)
        if script:
            return script
    words = [word.lower() for word in _WORD.findall(sample.replace("\u2019", "'"))]
    if not words:
        return "unknown"
    found: dict[str, float] = dict.fromkeys(_LANGUAGES, 0.0)
    hits: Counter[str] = Counter()
    for word, count in Counter(words).items():
        for name, weight in _WEIGHTS.get(word, ()):
            found[name] += count * weight
            hits[name] += count
    (best, score), (_, second) = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:2]
    sure = hits[best] >= _LEAST_HITS and score >= _LEAST_SHARE * len(words) and score >= _LEAST_LEAD * second
    return best if sure else "unknown"


def _by_script(sample: str) -> str:
    """The language that a third of the letters have the script of; empty where there is none."""
    letters = sum(map(str.isalpha, sample))
    counts = {name: len(pattern.findall(sample)) for name, pattern in _COUNTED.items()}
    # Japanese is written in Han and kana together, and kana make it certain.
    if counts["ja"] and counts["ja"] * 10 >= counts["zh"]:
        counts["ja"] += counts.pop("zh")
    best = max(sorted(counts), key=lambda name: counts[name])
    return best if counts[best] and counts[best] * 3 >= letters else ""
