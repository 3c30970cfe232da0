"""The templates of `textrl_envs.data.instructions`, by category.

A field such as "{city}" stands for a phrase (`instruction_words`), "{fact[question]}" for a part of
a record (`instruction_records`). "{city2}" is another city, and a field that comes twice is the
same both times, in the answer too.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

__all__ = ["TEMPLATES", "Template"]


class Template(NamedTuple):
    """A request with fields, and the answer to it where there is one that can be checked."""

    text: str
    answer: str | None = None
    labels: Sequence[str] = ()
    """The labels to choose from, for a classification."""


def _open(*texts: str) -> list[Template]:
    return [Template(text) for text in texts]


def _each(answer: str, labels: Iterable[str], *texts: str) -> list[Template]:
    return [Template(text, answer, tuple(labels)) for text in texts]


GENERATION = _open(
    "Write a short story about {character} who finds {object} {setting}.",
    "Write a story {length} in which {character} and {character2} meet {setting}.",
    "Write a poem about {event}. The speaker is {character}.",
    "Write a haiku about {image}, and another one about {image2}.",
    "Write the opening paragraph of {genre} set {setting}. It should mention {object}.",
    "Write a dialogue between {character} and {character2}, who meet {setting} and talk about "
    "{topic}.",
    "Write a bedtime story for a five-year-old called {name}. It is about {creature} that {wish}.",
    "Write a fable about {creature} and {creature2} and end it with a moral.",
    "Write the lyrics of {song} about {event}. Mention {image} in the chorus.",
    "Continue this story {length}:\n\nThe first thing that {name} noticed {setting} was {object}. "
    "It had not been there the evening before.",
    "Finish the story.\n\nNobody in {village} spoke about {event}. Then, one {weekday} in {month}, "
    "{name} came back with {object}.",
    "Write an introduction to a blog post about {topic} for {audience}. Keep the tone {tone}.",
    "Write an article about {topic} {length}. The readers are {audience}.",
    "Write an essay arguing that {claim}. Include one objection and answer it.",
    "Write a letter to the editor of a newspaper in {city} in which {name} {surname} argues that "
    "{claim}.",
    "Write an email to my landlord asking for the broken heating to be repaired before {weekday}. "
    "Keep it {tone} and sign it as {name} {surname}.",
    "Write an email to my manager asking for two days off at the beginning of {month}. My name is "
    "{name}, and the reason is {occasion}.",
    "Write an email to a customer of {company} explaining that order {order} will be a week late. "
    "Keep it {tone}.",
    "Write an email to a conference in {city}, offering to give a talk about {topic}.",
    "Write a letter from {character} to {character2} about {event}.",
    "Write a two-minute speech for {occasion}. Mention {memory} and keep the tone {tone}.",
    "Write a product description for {product} made by {company}. Keep the tone {tone}.",
    "Create a slogan for {business} in {city}. It should sound {tone}.",
    "Write a five-star review of {business} in {city} that praises {detail} and {detail2}.",
    "Write a social media post for {company} announcing {news}. Keep the tone {tone}.",
    "Write a press release {length}: {company} announces {news}.",
    "Write a job advertisement for {role}. The employer is {company} in {city}.",
    "My name is {name} {surname} and I am applying for a job as {role} at {company}. Write a cover "
    "letter that mentions my experience in {field}.",
    "Write a recipe for {dish} with {ingredient} and {ingredient2} that serves four.",
    "Plan {trip} trip to {city} for {travellers}.",
    "Write a lesson plan of {duration} on {topic} for {audience}.",
    "Write {count} quiz questions about {topic} for {audience}, and give the answers at the end.",
    "Write a function in {language} that {coding task}. {coding note}",
)

OPEN_QA = [
    Template("What is the capital of {country[name]}?", "{country[capital]}"),
    Template(
        "Which city is the capital of {country[name]}? Reply with the name only.",
        "{country[capital]}",
    ),
    Template("{country[capital]} is the capital of which country?", "{country[name]}"),
    Template("What is the chemical symbol for {element[name]}?", "{element[symbol]}"),
    Template("Which chemical element has the symbol {element[symbol]}?", "{element[name]}"),
    Template("What is {equation[left]}?", "{equation[right]}"),
    Template("Calculate {equation[left]}. Give only the number.", "{equation[right]}"),
    Template(
        "How many {unit[small]} are there in {unit[number]} {unit[large]}? Answer with a number.",
        "{unit[answer]}",
    ),
    Template(
        "{name} buys {purchase[packs]} packs of pencils with {purchase[each]} pencils in each. How "
        "many pencils is that in total? Answer with a number.",
        "{purchase[total]}",
    ),
    *_open(
        "Why is {phenomenon}?",
        "Why is {phenomenon}? Explain it to {audience} {short}.",
        "How does {device} work? Explain it {length}.",
        "How does {device} work? I need an explanation for {audience}.",
        "What is the difference between {pair}?",
        "What is the difference between {pair}? Answer {short}.",
        "What are the advantages and disadvantages of {practice}?",
        "Some people say that {claim}. What speaks for it, and what against it?",
        "Where should somebody start who wants to learn more about {topic}?",
        "What should {audience} know about {topic}?",
    ),
]

BRAINSTORMING = _open(
    "List {count} ideas for {project}.",
    "Give me {count} creative ideas for {project} in {city}.",
    "What are some ways to {goal} {constraint}?",
    "I want to {goal} {constraint}. List {count} things I could try.",
    "Suggest {count} names for {business} in {city}.",
    "Come up with {count} gift ideas for {recipient} who loves {hobby} and {hobby2}.",
    "List {count} questions that I could ask {expert}.",
    "Give me {count} possible titles for {work} about {topic}. They should sound {tone}.",
    "What are {count} unusual uses for {product}?",
    "Brainstorm {count} topics for {work} aimed at {audience}.",
    "List {count} reasons why {audience} might be interested in {topic}.",
    "I have {ingredient}, {ingredient2} and {ingredient3} at home. What are {count} things I could "
    "cook?",
    "Give me {count} ideas for a story that takes place {setting} and involves {object}.",
    "How could {business} find more customers in {month}? List {count} ideas.",
)

CHAT = _open(
    "The following is a conversation with an AI assistant. The assistant is helpful and "
    "{tone}.\n\nHuman: Hello, who are you?\nAI: I am an AI assistant. How can I help you "
    "today?\nHuman: I would like to {goal} {constraint}.\nAI:",
    "This is a chat between a user and a travel assistant.\n\nUser: I am going to {city} in "
    "{month}. Any advice?\nAssistant: Gladly! Who is travelling, and for how long?\nUser: It is "
    "{trip} trip for {travellers}.\nAssistant:",
    "You are an agent in the customer support of {company}. Your tone is {tone}.\n\nCustomer: My "
    "order {order} has not arrived.\nAgent: I am sorry to hear that. What did you order?\n"
    "Customer: The {colour} {item}, and I need it by {weekday}.\nAgent:",
    "You are {character}. Stay in character and answer briefly.\n\nUser: What is the most "
    "surprising thing that has happened to you {setting}?\nYou:",
    "You are {character}. Stay in character.\n\nUser: Good morning! What do you think about "
    "{topic}?\nYou: I have thought about it more than most people.\nUser: Really? Tell me "
    "more.\nYou:",
    "{name}: Are you free on {weekday}?\n{name2}: Yes, from {time}. Why?\n{name}: I need help with "
    "{project}.\n{name2}:",
    "Continue the chat between two friends.\n\n{name}: Guess what I found in the attic!\n{name2}: "
    "No idea. Something valuable?\n{name}: Better: {object}.\n{name2}:",
    "The following is a conversation with a patient tutor who explains things to "
    "{audience}.\n\nStudent: Can you explain how {device} works?\nTutor: Of course. What do you "
    "know about it already?\nStudent: Almost nothing.\nTutor:",
    "The following is a conversation between a counsellor and a visitor.\n\nVisitor: May I tell "
    "you something?\nCounsellor: Of course. I am listening.\nVisitor: {worry}.\nCounsellor:",
    "This is an interview for a job as {role} at {company}.\n\nInterviewer: Thank you for coming, "
    "{name}. Which of your experience is useful for us?\n{name}: I have worked in {field} for "
    "three years.\nInterviewer: And why do you want to leave?\n{name}:",
)

REWRITE = _open(
    "Rewrite this message so that it sounds {tone}:\n\n{draft}",
    "Make this text message suitable for an email to a manager at {company2}:\n\n{draft}",
    "Correct the mistakes in this sentence:\n\n{faulty}",
    "{faulty}\n\nRewrite the sentence above in standard English. Keep the tone {tone}.",
    "Rewrite the following notice in plain English for {audience}:\n\n{notice}",
    "Say this {short}:\n\n{notice}",
    "Turn these notes into a message to a colleague. Keep it {tone}.\n\n{notes}",
    "Rewrite this paragraph in the past tense:\n\n{name} lives {setting} and works as {role}. "
    "Every {weekday} there is a visit from {character}, and they talk about {topic}.",
    "Rewrite the passage from the point of view of {character}:\n\n{name} opened the door, and "
    "there was {object}. It was {weekday}, and nobody else was at home.",
    "Translate this sentence into {foreign language}:\n\n{name} bought a {colour} {item} in {city} "
    "on {weekday}.",
    'Translate into {foreign language}: "Could you tell me where the train to {city} leaves at '
    '{time}?"',
    "Make this slogan for {business} shorter. It should sound {tone}:\n\nCome to us, because we "
    "care about {detail} and about {detail2}.",
    "Rewrite the review so that it is polite but still honest:\n\n{complaint[text]}",
    "Rewrite this story beginning as {genre}:\n\nOne {weekday} in {month}, {name} lost the way "
    "and ended up {setting}.",
)

SUMMARIZATION = _open(
    "Summarise the following text {short}.\n\n{passage[text]}",
    "{passage[text]}\n\nTl;dr:",
    "Read the text below and give me the main point {short}.\n\nText: {passage[text]}\n\nSummary:",
    "Summarise this for {audience}:\n\n{passage[text]}",
    "Write a headline for the following text. It should sound {tone}.\n\n{passage[text]}",
    "I have to tell {recipient} about this. What are the most important points?\n\n{passage[text]}",
    "Summarise the customer's problem {short}.\n\nCustomer: {ticket[text]}\nAgent: Thank you for "
    "your message. Is there anything else?\nCustomer: Yes. {ticket2[text]}",
)

CLASSIFICATION = [
    *_each(
        "{review[label]}",
        ("positive", "negative", "neutral"),
        "Is the following review positive, negative or neutral?\n\n{review[text]}",
        "Classify the sentiment of the review as positive, negative or neutral.\n\nReview: "
        "{review[text]}\nSentiment:",
        "{review[text]}\n\nDecide whether the review above is positive, negative or neutral. "
        "Answer with one word.",
    ),
    *_each(
        "{headline[label]}",
        ("sport", "business", "science", "culture"),
        "To which section of a newspaper does this headline belong: sport, business, science or "
        "culture?\n\n{headline[text]}",
        "Sections: sport, business, science, culture\n\nHeadline: {headline[text]}\nSection:",
    ),
    *_each(
        "{message[label]}",
        ("spam", "genuine"),
        "Tell me whether this message is spam or genuine. Answer with one word.\n\n{message[text]}",
        "Label the message as spam or genuine.\n\nMessage: {message[text]}\nLabel:",
    ),
    *_each(
        "{ticket[label]}",
        ("billing", "delivery", "login"),
        "Which team should handle this request: billing, delivery or login?\n\n{ticket[text]}",
        "Sort the request of a customer into one of the categories billing, delivery and "
        "login.\n\nRequest: {ticket[text]}\nCategory:",
    ),
    *_each(
        "{feeling[label]}",
        ("joy", "anger", "fear", "sadness"),
        "Which emotion does the writer show: joy, anger, fear or sadness?\n\n{feeling[text]}",
        "{feeling[text]}\n\nThe emotion in this message (joy, anger, fear or sadness) is",
    ),
]

OTHER = [
    Template(
        "Which number comes next in the sequence {sequence[start]}? Answer with the number only.",
        "{sequence[next]}",
    ),
    *_open(
        "{worry}. What should I do?",
        "{worry}. How would {character} deal with this?",
        "I am writing {genre} set {setting}. Does it sound plausible that {character} would own "
        "{object}? Give me your honest opinion.",
        'Give me feedback on this first sentence of {genre}:\n\n"When {name} woke up {setting}, '
        '{object} was gone."',
        "Let us play a game. You think of {product} or of {creature}, and I ask questions until I "
        "know which of the two it is. Are you ready?",
        "Which would you choose if you were {character}: {practice} or {practice2}? Say why.",
        "Put these events into a sensible order:\n\n- {name} returns {object}\n- {name} finds "
        "{object} {setting}\n- {name} wonders whose it may be",
        "Make a table with the columns name, city and day from this text:\n\n{name} goes to {city} "
        "on {weekday}, {name2} goes to {city2} on {weekday2}.",
        "Is my answer right? The question was: what is the difference between {pair}? I wrote that "
        "there is none.",
    ),
]

CLOSED_QA = [
    Template(text, "{span[answer]}")
    for text in (
        "Answer the question with words from the passage.\n\nPassage: {span[text]}\n\nQuestion: "
        "{span[question]}\nAnswer:",
        "{span[text]}\n\nBased on the text above: {span[question]}",
        "Read this and tell me: {span[question]} Quote the exact words only.\n\n{span[text]}",
        "Context:\n{span[text]}\n\nQ: {span[question]}\nA:",
    )
]

EXTRACT = [
    Template(text, "{list[answer]}")
    for text in (
        "Extract all {list[kind]} from the text below, in order and separated by "
        "commas.\n\n{list[text]}",
        "List the {list[kind]} that occur in this text, in order and separated by "
        "commas.\n\nText: {list[text]}\n\nList:",
        "{list[text]}\n\nFind all {list[kind]} in the text above and write them on one line, in "
        "order and with commas between them.",
    )
]

TEMPLATES: Mapping[str, Sequence[Template]] = {
    "Generation": GENERATION,
    "Open QA": OPEN_QA,
    "Brainstorming": BRAINSTORMING,
    "Chat": CHAT,
    "Rewrite": REWRITE,
    "Summarization": SUMMARIZATION,
    "Classification": CLASSIFICATION,
    "Other": OTHER,
    "Closed QA": CLOSED_QA,
    "Extract": EXTRACT,
}
"""Category -> its templates, each as likely as another."""
