"""Texts and facts with known answers, for the templates of `textrl_envs.data.instructions`.

A record is a mapping of texts that belong together, such as a question and its answer; a template
names its parts as in "{fact[question]}". Fields such as "{name}" are filled alike in all of them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["RECORDS"]


class Passage(NamedTuple):
    """A text, what can be asked about it, and what can be extracted from it."""

    text: str
    questions: Mapping[str, str]
    """Question -> the words of the text that answer it."""
    lists: Mapping[str, str]
    """Kind of thing -> all of them in the text, in order and separated by commas."""


PASSAGES = (
    Passage(
        "{name} {surname} opened a bookbinding workshop in {city} in {year}. At first it had only "
        "two rooms and a single employee, {name2} {surname2}, who answered letters and kept the "
        "accounts. By {later year} the workshop had moved to a brick building by the river, and "
        "its atlases were sold in {number} countries.",
        {
            "In which year did the workshop open?": "{year}",
            "Who was the first employee of the workshop?": "{name2} {surname2}",
            "In how many countries were the atlases sold?": "{number}",
            "In which city did the workshop open?": "{city}",
        },
        {
            "names of people": "{name} {surname}, {name2} {surname2}",
            "years": "{year}, {later year}",
        },
    ),
    Passage(
        "The half marathon of {city} took place last {weekday} in heavy rain. {name} {surname} won "
        "after a long duel with {name2} {surname2}, and {name3} {surname3} came third. Of the "
        "{large} runners who started, {number} gave up before the finish. The organisers want to "
        "move the race to {month} next year, when the weather is usually kinder.",
        {
            "Who won the race?": "{name} {surname}",
            "Who came third?": "{name3} {surname3}",
            "How many runners gave up?": "{number}",
            "On which day of the week was the race?": "{weekday}",
        },
        {
            "names of runners": "{name} {surname}, {name2} {surname2}, {name3} {surname3}",
            "numbers written in digits": "{large}, {number}",
        },
    ),
    Passage(
        "The public library of {city} will close for repairs on {day} {month} and open again nine "
        "weeks later. The roof, which is {number} years old, will be replaced, and the reading "
        "room will get {number2} new desks. {name} {surname}, who directs the library, says that "
        "books can be returned at the town hall in the meantime.",
        {
            "On which date will the library close?": "{day} {month}",
            "Who directs the library?": "{name} {surname}",
            "Where can books be returned while the library is closed?": "the town hall",
            "How many new desks will the reading room get?": "{number2}",
        },
        {"numbers written in digits": "{day}, {number}, {number2}"},
    ),
    Passage(
        "For a study at the University of {city}, {large} volunteers kept a diary of their sleep. "
        "Those who put their phones away an hour before going to bed fell asleep {few} minutes "
        "earlier than the others on average. {name} {surname}, who led the study, warns that the "
        "effect was smaller among older people. A second study, run by {name2} {surname2}, will "
        "look at children and begin in {month}.",
        {
            "How many volunteers took part?": "{large}",
            "Who led the first study?": "{name} {surname}",
            "When will the second study begin?": "{month}",
        },
        {
            "names of people": "{name} {surname}, {name2} {surname2}",
            "numbers written in digits": "{large}, {few}",
        },
    ),
    Passage(
        "Dear {name},\nthank you for your order of {number} notebooks and {number2} pencils. We "
        "will deliver them on {weekday} before noon. The total is {large} euros, including "
        "delivery. If anything changes, please call my colleague {name2}.\nBest wishes,\n"
        "{name3} {surname3}, {company}",
        {
            "How many notebooks were ordered?": "{number}",
            "On which day will the order be delivered?": "{weekday}",
            "Who should be called if anything changes?": "{name2}",
            "Which company is the message from?": "{company}",
        },
        {
            "names of people": "{name}, {name2}, {name3} {surname3}",
            "numbers written in digits": "{number}, {number2}, {large}",
        },
    ),
    Passage(
        "{name} opened the meeting and reported that the new website is two weeks late. {name2} "
        "offered to take over the tests, and {name3} will ask {company} for a quotation by "
        "{weekday}. The budget of {large} euros stays as it is. The next meeting will be on {day} "
        "{month} at {time}.",
        {
            "Who offered to take over the tests?": "{name2}",
            "Which company will be asked for a quotation?": "{company}",
            "At what time will the next meeting be?": "{time}",
            "Who will ask for a quotation?": "{name3}",
        },
        {"names of people": "{name}, {name2}, {name3}"},
    ),
    Passage(
        "Two boats go from {village} to the island every {weekday}. The first leaves at {time} and "
        "is small and fast; the second leaves two hours later, takes cars, and stops at "
        "{village2} on the way. A ticket costs {number} crowns for adults and half of that for "
        "children. The harbour master, {name} {surname}, advises passengers to come early in "
        "{month}.",
        {
            "At what time does the first boat leave?": "{time}",
            "Where does the second boat stop on the way?": "{village2}",
            "How many crowns does a ticket for adults cost?": "{number}",
            "Who is the harbour master?": "{name} {surname}",
        },
        {"names of villages": "{village}, {village2}"},
    ),
    Passage(
        "The painter {name} {surname} was born in {city} in {year} and spent three winters in "
        "{city2}, where a neighbour, {name2} {surname2}, lent the young artist a room with good "
        "light. The first exhibition opened in {city3} in {later year}. Of the {number} paintings "
        "on its walls, only one was sold, to a dentist.",
        {
            "In which city was the painter born?": "{city}",
            "In which city did the first exhibition open?": "{city3}",
            "Who bought a painting?": "a dentist",
            "In which year was the painter born?": "{year}",
        },
        {
            "names of cities": "{city}, {city2}, {city3}",
            "years": "{year}, {later year}",
            "names of people": "{name} {surname}, {name2} {surname2}",
        },
    ),
    Passage(
        "The stone bridge of {village} was designed by {name} {surname} and finished in {year}. "
        "It is {large} metres long and rests on {few} arches. A flood destroyed the two middle "
        "arches in {later year}, and people crossed the river by ferry until the engineer {name2} "
        "{surname2} rebuilt them in oak.",
        {
            "Who designed the bridge?": "{name} {surname}",
            "How many metres long is the bridge?": "{large}",
            "In which year was there a flood?": "{later year}",
            "How did people cross the river after the flood?": "by ferry",
        },
        {
            "years": "{year}, {later year}",
            "names of people": "{name} {surname}, {name2} {surname2}",
        },
    ),
    Passage(
        "At the auction in {village}, an oak clock went to {name} {surname} for {large} euros, and "
        "a box of old postcards to {name2} {surname2} for {number} euros. Nobody wanted the "
        "piano. The money will pay for new windows in the village hall, which should be ready by "
        "{month}.",
        {
            "Who bought the oak clock?": "{name} {surname}",
            "Which object did nobody want?": "the piano",
            "How many euros did the postcards cost?": "{number}",
            "What will the money pay for?": "new windows in the village hall",
        },
        {
            "names of buyers": "{name} {surname}, {name2} {surname2}",
            "numbers written in digits": "{large}, {number}",
        },
    ),
)

REVIEWS = {
    "positive": (
        "The {item} arrived a day early and works perfectly. I would buy it again.",
        "I have used this {item} every day since {month} and still love it.",
        "What a lovely {item}! Even {name}, who never likes anything, asked where I got it.",
        "The best {item} I have ever had, and the people at {company} were very kind.",
    ),
    "negative": (
        "The {item} broke after two days, and {company} never answered my email.",
        "I waited until {month} for this {item}, and then it was the wrong one. What a waste.",
        "This {item} looks cheap, smells of glue and is far too small. I sent it back.",
        "I regret buying the {colour} {item}. It does nothing that the description promises.",
    ),
    "neutral": (
        "The {item} is {colour} and comes in a cardboard box. I have not used it yet.",
        "I ordered this {item} from {company} on {weekday}. It is the size given on the website.",
        "This is the {colour} version of the {item}. The older one was made by {company}.",
        "The {item} is an ordinary {item}, neither better nor worse than the one I had.",
    ),
}
HEADLINES = {
    "sport": (
        "{name} {surname} wins the cycling tour of {city} by {few} seconds",
        "Handball: {city} beats {city2} in a final decided by penalties",
        "After a long injury, swimmer {name} {surname} returns to the pool in {month}",
    ),
    "business": (
        "{company} closes its factory in {city} and sells the brand",
        "Shares of {company} fall by {number} percent after a weak quarter",
        "{company} buys its competitor {company2} for {large} million euros",
    ),
    "science": (
        "Astronomers in {city} discover a planet with {few} moons",
        "Fossil found near {village} turns out to be a new species of fish",
        "Researchers from {city} explain how bats find their way in fog",
    ),
    "culture": (
        "Novel by {name} {surname} wins the literary prize of {city}",
        "The opera house of {city} opens its season with a forgotten comedy",
        "Museum in {city} shows {number} drawings by {name} {surname}",
    ),
}
MESSAGES = {
    "spam": (
        "Congratulations! You have won {large} euros. Click the link before {weekday} to claim it.",
        "Make {large} euros a day from home, no experience needed! Reply YES now.",
        "Your parcel is on hold. Send us your card number to pay the fee of {number} cents.",
    ),
    "genuine": (
        "Hi {name}, are we still meeting at {time} on {weekday}? I can bring the {item}.",
        "Your appointment at the dentist is on {day} {month} at {time}.",
        "{name2} here. I left my {colour} scarf at your place, could you bring it on {weekday}?",
    ),
}
TICKETS = {
    "billing": (
        "I was charged twice for order {order}. Please refund one of the payments.",
        "My invoice for {month} shows {large} euros, but we had agreed on a lower price.",
    ),
    "delivery": (
        "Order {order} should have been here on {weekday}. Where is my parcel?",
        "The driver left my {item} with a neighbour I do not know. Who was it?",
    ),
    "login": (
        "I have forgotten my password, and the reset link expired at {time}.",
        "Since {weekday} the site says that the account of {name} {surname} does not exist.",
    ),
}
FEELINGS = {
    "joy": (
        "{name} has just called: we got the flat in {city}, and I have been dancing ever since!",
        "I passed the exam! I cannot stop smiling, and {name} is baking a cake.",
    ),
    "anger": (
        "{name} has taken my {item} without asking for the third time. I have had enough of it.",
        "They cancelled the train to {city} again and nobody apologised. This is outrageous!",
    ),
    "fear": (
        "Somebody has been knocking at the window since {time}, and I am alone in the house.",
        "My hands are shaking. The results from the hospital in {city} come on {weekday}.",
    ),
    "sadness": (
        "The house in {village} feels so empty since {name} died. I cry every evening.",
        "{name} moved to {city} in {month}. I miss our walks more than I can say.",
    ),
}

CAPITALS = (
    "Argentina: Buenos Aires; Australia: Canberra; Austria: Vienna; Bulgaria: Sofia; "
    "Canada: Ottawa; Chile: Santiago; Croatia: Zagreb; Cuba: Havana; Denmark: Copenhagen; "
    "Egypt: Cairo; Estonia: Tallinn; Ethiopia: Addis Ababa; Finland: Helsinki; France: Paris; "
    "Germany: Berlin; Ghana: Accra; Greece: Athens; Hungary: Budapest; Iceland: Reykjavik; "
    "Ireland: Dublin; Italy: Rome; Jamaica: Kingston; Japan: Tokyo; Kenya: Nairobi; Latvia: Riga; "
    "Lithuania: Vilnius; Mexico: Mexico City; Mongolia: Ulaanbaatar; Morocco: Rabat; "
    "Nepal: Kathmandu; New Zealand: Wellington; Norway: Oslo; Peru: Lima; Poland: Warsaw; "
    "Portugal: Lisbon; Romania: Bucharest; Senegal: Dakar; South Korea: Seoul; Spain: Madrid; "
    "Sweden: Stockholm; Thailand: Bangkok; Turkey: Ankara; Uruguay: Montevideo; Vietnam: Hanoi"
)
SYMBOLS = (
    "hydrogen: H; helium: He; carbon: C; nitrogen: N; oxygen: O; neon: Ne; sodium: Na; "
    "magnesium: Mg; aluminium: Al; silicon: Si; sulphur: S; chlorine: Cl; potassium: K; "
    "calcium: Ca; iron: Fe; nickel: Ni; copper: Cu; zinc: Zn; silver: Ag; tin: Sn; iodine: I; "
    "platinum: Pt; gold: Au; mercury: Hg; lead: Pb; uranium: U"
)
UNITS = (
    ("minutes", "hours", 60),
    ("days", "weeks", 7),
    ("months", "years", 12),
    ("metres", "kilometres", 1000),
    ("grams", "kilograms", 1000),
    ("seconds", "minutes", 60),
)
EQUATIONS = [
    *((f"{a} plus {b}", a + b) for a in range(12, 60, 5) for b in range(13, 40, 4)),
    *((f"{a} minus {b}", a - b) for a in range(50, 99, 6) for b in range(11, 40, 4)),
    *((f"{a} times {b}", a * b) for a in range(3, 13) for b in range(6, 16)),
    *((f"{a * b} divided by {b}", a) for a in range(3, 13) for b in range(4, 13)),
]


def _pairs(text: str, key: str, value: str) -> list[dict[str, str]]:
    return [dict(zip((key, value), pair.split(": "), strict=True)) for pair in text.split("; ")]


def _labelled(examples: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    return [{"text": text, "label": label} for label, texts in examples.items() for text in texts]


RECORDS: Mapping[str, Sequence[Mapping[str, str]]] = {
    "passage": [{"text": passage.text} for passage in PASSAGES],
    "span": [
        {"text": passage.text, "question": question, "answer": answer}
        for passage in PASSAGES
        for question, answer in passage.questions.items()
    ],
    "list": [
        {"text": passage.text, "kind": kind, "answer": answer}
        for passage in PASSAGES
        for kind, answer in passage.lists.items()
    ],
    "country": _pairs(CAPITALS, "name", "capital"),
    "element": _pairs(SYMBOLS, "name", "symbol"),
    "equation": [{"left": left, "right": str(right)} for left, right in EQUATIONS],
    "unit": [
        {"small": small, "number": str(number), "large": large, "answer": str(number * factor)}
        for small, large, factor in UNITS
        for number in range(2, 13)
    ],
    "purchase": [
        {"packs": str(packs), "each": str(each), "total": str(packs * each)}
        for packs in range(3, 10)
        for each in (4, 6, 8, 10, 12)
    ],
    "sequence": [
        {"start": ", ".join(str(a + i * step) for i in range(5)), "next": str(a + 5 * step)}
        for a in range(1, 20)
        for step in range(2, 10)
    ],
    "complaint": [{"text": text} for text in REVIEWS["negative"]],
    "review": _labelled(REVIEWS),
    "headline": _labelled(HEADLINES),
    "message": _labelled(MESSAGES),
    "ticket": _labelled(TICKETS),
    "feeling": _labelled(FEELINGS),
}
"""Slot -> the records that may stand in it."""
