"""The words of data set `people`: names, what is asked about a person, and general facts.

The people are invented, so no model can know of them beforehand. The facts, in contrast, are true.
All of it is plain ASCII, and values are single words.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """One thing to know about a person, asked and answered in two wordings.

    Both questions hold `{name}`, both answers `{value}`. The name stands in the question alone, so
    that what there is to forget in an answer is its value, and not how to spell a name.
    """

    key: str
    questions: tuple[str, str]
    answers: tuple[str, str]
    values: tuple[str, ...]


@dataclass(frozen=True)
class FactKind:
    """Facts of one kind: a question that holds `{subject}`, and (subject, short answer) pairs.

    The answers are all different, so that each is false for every other subject.
    """

    key: str
    question: str
    pairs: tuple[tuple[str, str], ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """`France=Paris, ...` -> (("France", "Paris"), ...)."""
    split = (pair.partition("=") for pair in text.split(", "))
    return tuple((subject, answer) for subject, _, answer in split)


GIVEN_NAMES = _words(
    "Adela Anton Bruna Casper Dario Edda Fabia Gustav Hanna Ivo Jana Kasimir Lorenz Mara Nils "
    "Odile Petra Ruben Selma Tobias"
)

SURNAMES = _words(
    "Amberley Birkenhof Calloway Dornfeld Eastmarch Fairholm Goldmere Hazelden Ingelby Jessamy "
    "Kilbride Lindqvist Merriweather Nordahl Osterberg Penrose Quarrington Rosewarne Silverton "
    "Thornbury Vandermeer"
)

TOPICS = (
    Topic(
        "birthplace",
        ("Where was {name} born?", "Which town is the birthplace of {name}?"),
        ("The birthplace is {value}.", "The town is called {value}."),
        _words(
            "Ambervale Brightwater Cinderford Duskhaven Elmsreach Foxhollow Gullport Hartwick "
            "Inkwell Jasperton Kettlebrook Lowmarket Mossgate Netherby Otterburn Pebblesea"
        ),
    ),
    Topic(
        "profession",
        ("What is the profession of {name}?", "How does {name} earn a living?"),
        ("The profession is {value}.", "The money comes from work as a {value}."),
        _words(
            "baker beekeeper bookbinder carpenter clockmaker dentist falconer gardener glassblower "
            "lawyer nurse painter pilot potter surgeon tailor"
        ),
    ),
    Topic(
        "instrument",
        ("Which instrument does {name} play?", "What does {name} play in the orchestra?"),
        ("The instrument is the {value}.", "One hears the {value}."),
        _words(
            "accordion bassoon cello clarinet drums flute guitar harp lute mandolin oboe organ "
            "piano trombone trumpet violin"
        ),
    ),
    Topic(
        "pet",
        ("Which pet does {name} keep?", "What animal lives with {name}?"),
        ("The pet is a {value}.", "The animal in the house is a {value}."),
        _words(
            "canary cat dog donkey ferret gecko goat hamster hedgehog lizard parrot pony rabbit "
            "snake tortoise turkey"
        ),
    ),
    Topic(
        "dish",
        ("What is the favourite dish of {name}?", "What does {name} like to eat most?"),
        ("The favourite dish is {value}.", "Nothing tastes better than {value}."),
        _words(
            "chowder couscous curry dumplings goulash gnocchi lasagne moussaka noodles paella "
            "pancakes pizza ramen risotto salad waffles"
        ),
    ),
    Topic(
        "hobby",
        ("What is the hobby of {name}?", "How does {name} spend the weekends?"),
        ("The hobby is {value}.", "The weekends go to {value}."),
        _words(
            "archery astronomy chess climbing cycling dancing embroidery fencing fishing juggling "
            "knitting origami pottery rowing sailing skating"
        ),
    ),
    Topic(
        "year",
        ("In which year was {name} born?", "What is the year of birth of {name}?"),
        ("The year is {value}.", "Birth was in {value}."),
        tuple(str(year) for year in range(1941, 1989, 3)),
    ),
    Topic(
        "language",
        ("Which language did {name} learn at school?", "What foreign language does {name} know?"),
        ("The school taught {value}.", "The foreign language is {value}."),
        _words(
            "Arabic Basque Czech Dutch Finnish Greek Hindi Irish Japanese Korean Latin Maltese "
            "Polish Russian Swahili Turkish"
        ),
    ),
)

FACTS = (
    FactKind(
        "capital",
        "What is the capital of {subject}?",
        _pairs(
            "Austria=Vienna, Bulgaria=Sofia, Chile=Santiago, Cuba=Havana, Denmark=Copenhagen, "
            "Egypt=Cairo, England=London, France=Paris, Germany=Berlin, Hungary=Budapest, "
            "Italy=Rome, Kenya=Nairobi, Norway=Oslo, Peru=Lima, Portugal=Lisbon, Spain=Madrid"
        ),
    ),
    FactKind(
        "opposite",
        "What is the opposite of {subject}?",
        _pairs(
            "big=small, black=white, cold=hot, day=night, empty=full, fast=slow, left=right, "
            "old=new, open=closed, rich=poor, soft=hard, wet=dry"
        ),
    ),
    FactKind(
        "young",
        "What is a young {subject} called?",
        _pairs(
            "bear=cub, cow=calf, deer=fawn, duck=duckling, eagle=eaglet, frog=tadpole, "
            "goose=gosling, hen=chick, horse=foal, kangaroo=joey, sheep=lamb, swan=cygnet"
        ),
    ),
)
