"""The words that the templates of `textrl_envs.data.instructions` are filled with.

A phrase carries its own article, so that no template has to choose between "a" and "an". It may
hold fields itself: "a flower shop in {city}". All people, companies and villages are made up.
"""

from collections.abc import Mapping, Sequence

__all__ = ["PHRASES"]


def _split(phrases: str) -> tuple[str, ...]:
    return tuple(phrase.strip() for phrase in phrases.split(";"))


PHRASES: Mapping[str, Sequence[str]] = {
    # --- people, places, numbers ---
    "name": _split(
        "Amira; Jonas; Priya; Mateo; Ingrid; Kwame; Yuki; Leila; Tomas; Nadia; Owen; Rafael; Hana; "
        "Felix; Zainab; Marta; Dmitri; Chloe; Arjun; Elena; Samuel; Freya; Omar; Beatriz; Lucas; "
        "Noor; Viktor; Aisha; Henrik; Rosa; Daniel; Mei"
    ),
    "surname": _split(
        "Lindqvist; Okafor; Moreau; Tanaka; Haddad; Novak; Silva; Keller; Banerjee; Whitfield; "
        "Rossi; Petrova; Adeyemi; Larsen; Castillo; Byrne; Kowalski; Nguyen; Fischer; Oduya; "
        "Marchetti; Halvorsen; Rahman; Dubois"
    ),
    "city": _split(
        "Lisbon; Toronto; Nairobi; Osaka; Bristol; Gothenburg; Porto; Melbourne; Lyon; Krakow; "
        "Montevideo; Seattle; Ghent; Valencia; Tartu; Accra; Pune; Halifax; Trieste; Leipzig"
    ),
    "village": _split(
        "Alderbrook; Ferncombe; Hollow Weir; Stenfield; Marlow End; Kessing; Upper Tarn; Brackwater"
    ),
    "company": _split(
        "Brightwater; Northfield Tools; Maple and Pine; Lumen Cycles; Harbour Lane Books; "
        "Copperleaf; Tidewell; Juniper Foods; Redstart Travel; Oakridge Interiors; Bluefinch; "
        "Silver Kettle"
    ),
    "weekday": _split("Monday; Tuesday; Wednesday; Thursday; Friday; Saturday"),
    "month": _split("January; March; April; May; June; July; September; October; November"),
    "day": tuple(str(day) for day in range(1, 31)),
    "year": tuple(str(year) for year in range(1881, 1912)),
    "later year": tuple(str(year) for year in range(1924, 1963)),
    "number": tuple(str(number) for number in range(13, 96)),
    "few": tuple(str(number) for number in range(3, 13)),
    "large": tuple(str(number) for number in range(210, 990, 7)),
    "order": tuple(str(number) for number in range(40127, 99999, 1373)),
    "time": tuple(f"{hour}:{minute}" for hour in range(7, 13) for minute in (10, 25, 35, 50)),
    "count": _split("three; four; five; six; seven; eight; ten; twelve; fifteen; twenty"),
    # --- what a text is about, and for whom, and how ---
    "topic": _split(
        "renewable energy; urban beekeeping; remote work; the history of chess; healthy sleep; "
        "ocean plastic; public libraries; electric cars; time management; indoor plants; "
        "space travel; coffee culture; learning a second language; volcanoes; the printing press; "
        "recycling at home; night trains; school uniforms; bird migration; street food; "
        "personal budgeting; board games; marathon training; the water cycle; community gardens; "
        "online privacy; sourdough bread; handwritten letters; tidal power; the Silk Road; jazz; "
        "coral reefs; pottery; mountain rescue; film photography; childhood friendships; "
        "winter cycling; the four-day week; local elections; telescopes"
    ),
    "audience": _split(
        "beginners; ten-year-olds; busy parents; university students; small business owners; "
        "retired people; new employees; tourists; teenagers; curious adults"
    ),
    "tone": _split(
        "friendly; formal; cheerful; calm; polite; warm; professional; witty; confident; modest; "
        "matter-of-fact; enthusiastic"
    ),
    "length": _split(
        "in under 50 words; in about 100 words; in one paragraph; in two paragraphs; "
        "in three short paragraphs; in at most five sentences; in roughly 150 words; "
        "in no more than ten lines"
    ),
    "short": _split(
        "in one sentence; in two sentences; in three bullet points; in at most 30 words; "
        "in a single short paragraph; in plain language; "
        "in about 40 words"
    ),
    "recipient": _split(
        "my sister; a colleague; my father; a ten-year-old; my neighbour; a good friend; "
        "my grandmother; a teacher; my flatmate; my new boss"
    ),
    # --- characters and things of stories ---
    "character": _split(
        "a retired detective; a young violinist; a lighthouse keeper; a bus driver; a clockmaker; "
        "a marine biologist; a shy robot; a travelling baker; an amateur astronomer; "
        "a night nurse; a beekeeper; a deep-sea diver; an old fisherman; a street musician; "
        "a glassblower; a map maker; a train conductor; a museum guard; a chess teacher; "
        "a mountain guide"
    ),
    "creature": _split(
        "a hedgehog; a dragon; a snail; an owl; a paper boat; a small cloud; a lost sock; "
        "a penguin; a tiny whale; a garden gnome; a fox; a lazy bee; a snowman; a young giraffe"
    ),
    "wish": _split(
        "wants to see the sea; is afraid of the dark; cannot stop sneezing; has lost the way home; "
        "dreams of becoming a pilot; wants to learn to swim; is looking for a friend; "
        "has swallowed an alarm clock; would like to be taller; forgets everything; "
        "is planning a surprise party; refuses to sleep"
    ),
    "object": _split(
        "a lost letter; a broken compass; a locked wooden box; a talking clock; "
        "a map of a city that does not exist; a forgotten photograph; a key without a lock; "
        "a diary written in code; a suitcase full of seashells; a radio that plays tomorrow's "
        "news; a coat with somebody else's name in it; a jar of fireflies; "
        "a ticket to a cancelled concert; a piano with one silent key"
    ),
    "setting": _split(
        "in a mountain village; on a night train; in a city under the sea; at a crowded airport; "
        "on a remote island; in an abandoned library; at a lonely petrol station; "
        "at a desert research station; in a small coastal town; aboard a spaceship; "
        "in medieval Prague; at a summer camp; in the last bookshop of the world; "
        "on the roof of an old hotel"
    ),
    "genre": _split(
        "a mystery novel; a science fiction novel; a fairy tale; a ghost story; "
        "a historical novel; a romantic comedy; a spy thriller; a children's book"
    ),
    "image": _split(
        "the first snow of the year; an empty railway platform; rain on a tin roof; "
        "a cat asleep on a piano; the smell of fresh bread; a harbour at dawn; "
        "the last day of the holidays; a kite caught in a tree; an unread letter; moonlight "
        "on a frozen lake; the sound of a distant train; a garden after the storm"
    ),
    "event": _split(
        "a storm that lasted nine days; an unexpected visitor; the decision to move abroad; "
        "a prize that nobody claimed; the closing of the village school; a wedding in the rain; "
        "the night the river froze; a mistake made twenty years ago; a journey by bicycle; "
        "the first day in a new job; a long-awaited reunion; the arrival of the circus"
    ),
    "song": _split(
        "a sea shanty; a country ballad; a lullaby; a protest song; a cheerful pop song; "
        "a slow blues; a marching song; a folk song"
    ),
    "memory": _split(
        "a camping trip; a promise that was kept; the first day we met; a cake that went wrong; "
        "a long drive through the rain; a lost suitcase; a borrowed umbrella; a late-night phone "
        "call; a game of chess that never ended; a dance in the kitchen"
    ),
    "occasion": _split(
        "my sister's wedding; a colleague's retirement party; a school graduation; "
        "the opening of a community centre; my grandfather's eightieth birthday; "
        "the anniversary of a choir; a prize ceremony for young scientists; a farewell dinner; "
        "the start of a charity run; a family reunion"
    ),
    # --- work, trade and leisure ---
    "product": _split(
        "a reusable water bottle; a folding bicycle; a solar-powered lamp; a bamboo toothbrush; "
        "a weighted blanket; a pocket notebook; a cast-iron pan; a waterproof backpack; "
        "a pair of hiking boots; a hand-cranked coffee grinder; a wooden puzzle; "
        "a smart bird feeder; a set of watercolours; a portable speaker"
    ),
    "item": _split(
        "kettle; desk lamp; backpack; keyboard; rain jacket; alarm clock; blender; tent; "
        "office chair; phone case; suitcase; toaster; bicycle pump; headset"
    ),
    "colour": _split("black; dark green; grey; red; white; navy blue; yellow; brown"),
    "business": _split(
        "a family-run bakery; a second-hand bookshop; a dog grooming salon; a bicycle repair "
        "workshop; a vegan food truck; a yoga studio; a tutoring service; a flower shop; "
        "a board game cafe; a house-cleaning company; a language school; a small brewery; "
        "an ice cream parlour; a pottery studio"
    ),
    "detail": _split(
        "the patient staff; the fair prices; the quiet corner by the window; the quick service; "
        "the live music; the easy parking; the handwritten signs; the friendly dog; "
        "the generous opening hours; the free samples"
    ),
    "role": _split(
        "a data analyst; a pastry chef; a primary school teacher; a warehouse manager; "
        "a graphic designer; a veterinary nurse; a software tester; a tour guide; a librarian; "
        "an electrician; a museum curator; a social worker"
    ),
    "field": _split(
        "customer service; logistics; teaching; data entry; event planning; food production; "
        "graphic design; health care; project management; bookkeeping"
    ),
    "news": _split(
        "a spring sale; longer opening hours; a new delivery service; a charity run; "
        "a second shop in {city}; a free workshop on {weekday}; the winner of a photo contest; "
        "its tenth anniversary; a partnership with a local school; a new range of products"
    ),
    "hobby": _split(
        "gardening; astronomy; knitting; chess; hiking; baking; sailing; bird watching; "
        "photography; old films; playing the guitar; crossword puzzles; running; calligraphy"
    ),
    "dish": _split(
        "a quick soup; a vegetarian curry; a simple salad; a one-pot pasta dish; an autumn stew; "
        "a savoury pie; a breakfast bowl; a spicy noodle dish"
    ),
    "ingredient": _split(
        "chickpeas; spinach; mushrooms; lentils; pumpkin; lemon; walnuts; tomatoes; leeks; "
        "sweet potatoes; coconut milk; red peppers"
    ),
    "trip": _split("a two-day; a three-day; a four-day; a five-day; a week-long; a ten-day"),
    "travellers": _split(
        "a couple who love museums; a family with two small children; three friends on a tight "
        "budget; a solo traveller who enjoys hiking; two retired teachers; "
        "a group of architecture students; somebody who uses a wheelchair; a pair of food lovers"
    ),
    "duration": _split("30 minutes; 45 minutes; one hour; 90 minutes; two hours"),
    "language": _split("Python; JavaScript; Java; Go; Rust; C++; Ruby; TypeScript"),
    "foreign language": _split("French; Spanish; German; Italian; Portuguese; Dutch; Swedish"),
    "coding task": _split(
        "reverses the words of a sentence; checks whether a number is prime; merges two sorted "
        "lists; counts the vowels of a text; converts Roman numerals to integers; "
        "removes duplicates from a list and keeps the order; finds the longest word of a text; "
        "computes the median of a list of numbers; tells whether two words are anagrams; "
        "writes a number of seconds as hours, minutes and seconds; "
        "rotates a square matrix by 90 degrees; splits a list into chunks of equal size"
    ),
    "coding note": _split(
        "Include a short example.; Explain each step in a comment.; Do not use any library.; "
        "Handle empty input as well.; Add two test cases."
    ),
    "claim": _split(
        "public transport should be free; school should start later in the morning; "
        "every town needs a public swimming pool; homework does more harm than good; "
        "cars have no place in city centres; museums should not charge for admission; "
        "everybody should learn to cook at school; handwriting is still worth teaching; "
        "a shorter working week helps companies as well; zoos should become sanctuaries; "
        "voting should be possible from the age of sixteen; advertising should be banned from "
        "public squares"
    ),
    # --- short texts to rewrite ---
    "draft": (
        "hey {name}, cant make it to the meeting on {weekday}, got stuck in {city}. can u take "
        "notes for me? thx",
        "sorry {name} totally forgot to send the numbers for {month}, my bad!! will do it asap",
        "{name} the {item} in the office is broken AGAIN. somebody has to call {company} today",
        "yo {name}, {name2} says the invoice over {large} euros is wrong. whats going on?",
    ),
    "faulty": (
        "Me and {name} was late becaus the bus dont stop in {village} on {weekday}s no more.",
        "Their are to many people in {city} in {month}, so we stayed at there house in {village}.",
        "{name} have lended me the {item}, but he do not work since {weekday}.",
        "The {item} what I buyed in {city} is more better then the old one.",
    ),
    "notice": (
        "Pursuant to the decision of {day} {month}, residents of {village} are hereby notified "
        "that the utilisation of {product} within the premises is no longer permitted.",
        "Passengers are requested to refrain from boarding the {time} service to {city} in the "
        "absence of a valid reservation, which may be obtained exclusively prior to departure.",
        "In the event of non-receipt of order {order}, the customer shall without undue delay "
        "furnish {company} with a written declaration to that effect.",
        "It is incumbent upon all members of staff to ensure that the {item} has been disconnected "
        "from the power supply before vacating the office on {weekday}.",
    ),
    "notes": (
        "- call {name} before {weekday}\n- ask {company} for prices\n- book a room in {city}",
        "- {item} is late, new date {day} {month}\n- {name} tells the customer\n- no extra cost",
        "- meeting moved to {weekday}, {time}\n- {name} cannot come\n- bring the {month} figures",
    ),
    # --- what people want to know or to do ---
    "phenomenon": _split(
        "the sky blue during the day; sea water salty; the moon sometimes visible by day; ice "
        "lighter than water; a cat able to land on its feet; iron magnetic; it colder on mountains "
        "than in valleys; it hard to sleep in a new bed; glass transparent; honey so slow to "
        "spoil; a yawn contagious; a rainbow curved"
    ),
    "device": _split(
        "a refrigerator; a touch screen; a steam engine; a microwave oven; a solar panel; "
        "a mechanical watch; a parachute; a hot-air balloon; a lock on a canal; a piano; "
        "a thermos flask; a bicycle gear; a vaccine; a barometer"
    ),
    "pair": _split(
        "weather and climate; a lake and a pond; a virus and a bacterium; baking soda and baking "
        "powder; a simile and a metaphor; speed and velocity; jam and marmalade; a novel and "
        "a novella; an alligator and a crocodile; a debit card and a credit card; "
        "a comet and an asteroid; stalactites and stalagmites"
    ),
    "practice": _split(
        "working from home; buying second-hand clothes; learning with flashcards; renting instead "
        "of buying a home; keeping a diary; living without a car; growing your own vegetables; "
        "shopping online; paying only in cash; getting up at five in the morning"
    ),
    "goal": _split(
        "sleep better; save money on groceries; read more books; learn a new language; "
        "spend less time on my phone; get to know my neighbours; prepare for a job interview; "
        "reduce waste in the kitchen; drink more water; become a better listener; "
        "keep a small flat tidy; run my first ten kilometres; remember people's names; "
        "cook more at home"
    ),
    "constraint": _split(
        "without spending any money; in less than fifteen minutes a day; while working full time; "
        "with two small children at home; in a shared flat; during the winter; "
        "before the end of {month}; without an internet connection"
    ),
    "project": _split(
        "a school newspaper; a podcast about {topic}; a birthday party for {recipient}; "
        "a neighbourhood festival; a rainy afternoon with children; a science fair; "
        "a team event without alcohol; a low-budget short film; a window display in {month}; "
        "a fundraiser for an animal shelter; a mural in a school yard; a reading group"
    ),
    "work": _split(
        "a podcast; a blog post; a non-fiction book; a school project; an exhibition; "
        "a newsletter; a documentary; a lecture series"
    ),
    "expert": _split(
        "a beekeeper; a retired pilot; the head of a museum; a midwife; a bridge engineer; "
        "a landlord before I sign the lease; a candidate for a job in {field}; a local farmer; "
        "a weather forecaster; the founder of {company}"
    ),
    "worry": _split(
        "I have been offered a job in {city}, but my friends all live here; "
        "My flatmate never washes the dishes; I forgot the birthday of {recipient}; "
        "I am nervous about my first day at {company}; My neighbour plays the drums at night; "
        "I have to give a talk about {topic} and I cannot sleep; "
        "I would like to study again, but I am over fifty; "
        "My dog barks as soon as I leave the flat; I lent {name} some money a year ago and have "
        "not seen it since; I cannot decide between {hobby} and {hobby2} as a new hobby"
    ),
}
"""Slot -> the phrases that may stand in it."""
