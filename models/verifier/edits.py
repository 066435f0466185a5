"""Generated pairs: an edit that changes what is asked, and one of the same look that does not, in equal numbers.

A first model that saw only edits that change the meaning learnt "an edit happened" and fell on people's own words, so
each kind here has both. Words that the hash holds out are met only in the held-out pairs.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from pairs import Pair, share

HELD_OUT = 0.15

ANTONYMS = (
    "open close|enable disable|increase decrease|before after|start stop|buy sell|accept reject|best worst|highest lowest|"
    "cheapest dearest|import export|lock unlock|upload download|install uninstall|add remove|show hide|win lose|hot cold|"
    "inside outside|above below|first last|oldest newest|longest shortest|largest smallest|early late|gain lose|push pull|"
    "allow forbid|attach detach|borrow lend|deposit withdraw|arrive depart|encrypt decrypt|pros cons|advantages disadvantages|"
    "safe dangerous|legal illegal|possible impossible|public private|minimum maximum|more less|most least|good bad|up down|"
    "on off|raise lower|fast slow|expand shrink|ascending descending|internal external|join leave|create delete|pause resume|"
    "subscribe unsubscribe|connect disconnect|mute unmute|strongest weakest|heaviest lightest|easy hard|rich poor|"
    "winter summer|morning evening|breakfast dinner|left right|north south|east west|male female|parent child|"
    "employer employee|landlord tenant|buyer seller|teacher student|gross net|sunrise sunset|entry exit|love hate"
)
SYNONYMS = (
    "buy purchase|start begin|stop quit|fix repair|large big|small little|quick fast|job occupation|car automobile|"
    "doctor physician|film movie|phone telephone|photo picture|error mistake|answer reply|choose pick|close shut|"
    "delete erase|difficult hard|end finish|gift present|happen occur|help assist|ill sick|kid child|learn study|"
    "method way|need require|often frequently|shop store|speak talk|sure certain|town city|use utilise|vacation holiday|"
    "wealthy rich|get obtain|show display|best finest|cost price|reason cause|explain describe|improve enhance|"
    "important significant|increase raise|reduce lower|important crucial|lose misplace|begin commence|company firm"
)
UNITS = (
    "kilometres miles|kilograms pounds|litres gallons|celsius fahrenheit|hours minutes|days weeks|months years|metres feet|"
    "centimetres inches|grams ounces|dollars euros|pounds euros|megabytes gigabytes|seconds minutes|km miles|kg lbs"
)
SAME_UNITS = "kilometres km|kilograms kg|hours hrs|minutes mins|dollars usd|euros eur|megabytes mb|gigabytes gb|centimetres cm|seconds secs|kilometers kilometres|liters litres"
MONTHS = "january february march april may june july august september october november december".split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
WISHES = (
    "in French|in Spanish|in German|in Italian|in one sentence|in three bullet points|as a table|as JSON|in under 50 words|in detail|"
    "for a five year old|for an expert|with an example|without any jargon|step by step|in a formal tone|as a poem|as an email|"
    "for beginners|on a tight budget|in the UK|in India|in Canada|on Linux|on a Mac|on Android|using Python|in Excel|for children|"
    "for my grandmother|without spending money|over the phone|at night|in winter|for two people|with references|in Chinese|"
    "in Portuguese|as a list of ten|for small businesses|while pregnant|with no internet|as a CSV file|in 200 words|using Rust"
)
AUXILIARIES = "is are was were can could should would will do does did has have must may".split()
SHORT = {"is not": "isn't", "are not": "aren't", "can not": "can't", "do not": "don't", "does not": "doesn't", "did not": "didn't",
         "should not": "shouldn't", "will not": "won't", "would not": "wouldn't", "was not": "wasn't", "have not": "haven't"}  # fmt: skip

Edit = Callable[[str, random.Random, bool], str | None]


def twos(words: str, held_out: bool) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for two in words.split("|"):
        a, b = two.split()
        if (share(two) < HELD_OUT) == held_out:
            found.setdefault(a, []).append(b)
            found.setdefault(b, []).append(a)
    return found


TABLES = {(name, out): twos(words, out) for name, words in
          (("antonyms", ANTONYMS), ("synonyms", SYNONYMS), ("units", UNITS), ("same units", SAME_UNITS)) for out in (False, True)}  # fmt: skip


def replaced(text: str, table: dict[str, list[str]], dice: random.Random) -> str | None:
    found = [m for m in re.finditer(r"[a-z]+", text.lower()) if m.group() in table]
    if not found:
        return None
    word = dice.choice(found)
    return text[: word.start()] + dice.choice(table[word.group()]) + text[word.end() :]


def from_table(name: str) -> Edit:
    return lambda text, dice, held_out: replaced(text, TABLES[name, held_out], dice)


def other_number(text: str, dice: random.Random, held_out: bool) -> str | None:
    found = list(re.finditer(r"\d+", text))
    if not found:
        return replaced(text, {n: [m for m in NUMBERS[1:] if m != n] for n in NUMBERS[2:]}, dice)
    number = dice.choice(found)
    value = int(number.group()[:9])
    new = dice.choice([value + 1, value + dice.randint(2, 9), value * 2, value * 10, max(1, value - 1), max(2, value // 2), value + 100])
    return None if new == value else text[: number.start()] + str(new) + text[number.end() :]


def same_number(text: str, dice: random.Random, held_out: bool) -> str | None:
    found = [m for m in re.finditer(r"(?<![\d.,])\d+(?![\d.,])", text) if int(m.group()) <= 12 or len(m.group()) in (4, 5, 6)]
    if not found:
        return replaced(text, {word: [str(value)] for value, word in enumerate(NUMBERS) if value > 1}, dice)
    number = dice.choice(found)
    value = int(number.group())
    if 1000 <= value <= 2100:
        return None
    return text[: number.start()] + (NUMBERS[value] if value <= 12 else f"{value:,}") + text[number.end() :]


def other_date(text: str, dice: random.Random, held_out: bool) -> str | None:
    table = {word: [other for other in words if other != word] for words in (MONTHS, DAYS) for word in words if word != "may"}
    return replaced(text, table, dice)


def same_date(text: str, dice: random.Random, held_out: bool) -> str | None:
    return replaced(text, {word: [word[:3]] for word in MONTHS + DAYS if word != "may"}, dice)


def negated(text: str, dice: random.Random, held_out: bool) -> str | None:
    lower = text.lower()
    if re.search(r"\bnot |n't\b|\bnever ", lower):
        return re.sub(r"n't\b", "", re.sub(r"\b(not|never) ", "", lower, count=1), count=1).replace("ca ", "can ").replace("wo ", "will ")
    subject = r"(i|you|we|they|he|she|it|people|there|someone|this|that)"
    asked = re.search(rf"\b({'|'.join(AUXILIARIES)}) {subject}\b", lower)
    said = re.search(rf"\b{subject} ({'|'.join(AUXILIARIES)})\b", lower)
    place = asked or said
    return lower[: place.end()] + " not" + lower[place.end() :] if place else None


def same_negation(text: str, dice: random.Random, held_out: bool) -> str | None:
    lower = text.lower()
    for long, short in SHORT.items():
        if long in lower:
            return lower.replace(long, short, 1)
        if short in lower:
            return lower.replace(short, long, 1)
    return None


def turned(text: str, dice: random.Random, held_out: bool) -> str | None:
    return swapped(text, r"\bfrom ((?:\w+ ){0,2}?\w+) to (\w+(?: \w+)?)", "from {1} to {0}")


def same_turned(text: str, dice: random.Random, held_out: bool) -> str | None:
    return swapped(text, r"\bfrom ((?:\w+ ){0,2}?\w+) to (\w+)(?=[?.!,]|$)", "to {1} from {0}") or swapped(
        text, r"(\w{3,}) (?:and|or) (\w{3,})(?=[?.!,]|$)", "{1} and {0}" if " and " in text else "{1} or {0}"
    )


def names_swapped(text: str, dice: random.Random, held_out: bool) -> str | None:
    """Two names of a sentence change places, unless all that stands between them is a list's "and" or comma."""
    found = [m for m in re.finditer(r"(?<!^)(?<![.?!] )\b[A-Z][a-z]+(?: [A-Z][a-z]+)*", text)]
    if len(found) < 2:
        return None
    a, b = sorted(dice.sample(found, 2), key=lambda m: m.start())
    between = text[a.end() : b.start()]
    if len(between) < 6 or re.fullmatch(r"[\w ,]*\b(and|or)\b ?", between) or a.group() == b.group():
        return None
    return text[: a.start()] + b.group() + between + a.group() + text[b.end() :]


def swapped(text: str, pattern: str, form: str) -> str | None:
    found = re.search(pattern, text)
    if not found or found[1].lower() == found[2].lower():
        return None
    return text[: found.start()] + form.format(found[1], found[2]) + text[found.end() :]


KINDS: dict[str, tuple[Edit, Edit]] = {
    "number": (other_number, same_number),
    "date": (other_date, same_date),
    "unit": (from_table("units"), from_table("same units")),
    "antonym": (from_table("antonyms"), from_table("synonyms")),
    "negation": (negated, same_negation),
    "direction": (turned, same_turned),
    "names": (names_swapped, same_turned),
}


def with_wish(text: str, wish: str) -> str:
    return text.rstrip("?.! ") + " " + wish + ("?" if text.endswith("?") else "")


def wishes(a: str, b: str, dice: random.Random, held_out: bool) -> list[Pair]:
    """The same wish at the end of both, and on one of them alone or another one on each."""
    all_of = [wish for wish in WISHES.split("|") if (share(wish) < HELD_OUT) == held_out]
    one, two = dice.sample(all_of, 2)
    same = Pair(with_wish(a, one), with_wish(b, one), 1, "edits", "wish")
    if dice.random() < 0.5:
        return [same, Pair(with_wish(a, one), with_wish(b, two), 0, "edits", "wish")]
    return [same, Pair(a, with_wish(b, one), 0, "edits", "wish")]


def edited(right: list[Pair], count: int, dice: random.Random, held_out: bool) -> list[Pair]:
    """So many pairs made of pairs that are right: of each kind as many right as wrong ones."""
    waiting: dict[str, tuple[list[Pair], list[Pair]]] = {kind: ([], []) for kind in KINDS}
    out: list[Pair] = []
    for _ in range(40 * count):
        if len(out) >= count:
            break
        pair = dice.choice(right)
        a, b = (pair.a, pair.b) if dice.random() < 0.5 else (pair.b, pair.a)
        if dice.random() < 0.4:
            b = a
        if dice.random() < 0.012:
            out += wishes(a, b, dice, held_out)
            continue
        kind = dice.choice(list(KINDS))
        for label, edit in enumerate(KINDS[kind]):
            text = edit(b, dice, held_out)
            if text is not None and text != b:
                waiting[kind][label].append(Pair(a, text, label, "edits", kind))
        wrong, same = waiting[kind]
        while wrong and same:
            out += [wrong.pop(), same.pop()]
    return out[:count]
