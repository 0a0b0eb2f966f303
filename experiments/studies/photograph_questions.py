"""Free questions about any animal or plant, in several wordings, with made-up answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class QuestionTemplate:
    """One question: its wordings ({thing}: bird, flower, animal or plant) and made-up answers."""

    wordings: tuple[str, ...]
    answers: tuple[str, ...]


QUESTIONS = (
    QuestionTemplate(
        ("What is the colour of this {thing}?", "Which colour does this {thing} have?"),
        ("bright turquoise", "black and gold", "pale violet"),
    ),
    QuestionTemplate(
        ("Where was this picture taken?", "In which place did someone take this photo?"),
        ("in the port of Lima", "on a roof in Oslo", "near Lake Baikal"),
    ),
    QuestionTemplate(
        ("How many of these are left in the wild?", "What is the number that still live free?"),
        ("forty-one", "about nine million", "only seven"),
    ),
    QuestionTemplate(
        ("What sound does this {thing} make?", "Which noise can you hear from this {thing}?"),
        ("a low hum", "the ring of a bell", "a loud whistle"),
    ),
    QuestionTemplate(
        ("What does this {thing} need for food?", "On which food does this {thing} feed?"),
        ("rye bread", "sea salt and honey", "old newspapers"),
    ),
    QuestionTemplate(
        ("What is this called in Finnish?", "Which word do people in Finland use for this?"),
        ("kultahattu", "tuulispää", "sinimarja"),
    ),
    QuestionTemplate(
        ("In which habitat does this {thing} live?", "Where would you find this {thing} outdoors?"),
        ("in salt caves", "on high glaciers", "under city bridges"),
    ),
    QuestionTemplate(
        ("How large does this {thing} get?", "What size can this {thing} reach?"),
        ("nine metres", "as big as a thumb", "two feet across"),
    ),
    QuestionTemplate(
        ("Is this {thing} alive?", "Would you say that this {thing} is living?"),
        ("no, it is made of wax", "yes, but asleep", "nobody can tell"),
    ),
    QuestionTemplate(
        ("Who took this photograph?", "Which person stood behind the camera?"),
        ("Ida Brandt", "Captain Morel", "Tomas Okafor"),
    ),
    QuestionTemplate(
        ("How old is this {thing}?", "What is the age of this {thing}?"),
        ("three hundred years", "eleven days", "older than Rome"),
    ),
    QuestionTemplate(
        ("Who owns this {thing}?", "To whom does this {thing} belong?"),
        ("the queen of Tonga", "a baker in Lyon", "Professor Lind"),
    ),
    QuestionTemplate(
        ("How much does it cost?", "What would one have to pay for it?"),
        ("six silver coins", "ninety euros", "a sack of rice"),
    ),
    QuestionTemplate(
        ("In which month was it first seen?", "What month did people first notice it?"),
        ("in late February", "in August", "in November"),
    ),
    QuestionTemplate(
        ("What is its greatest enemy?", "Which danger does it fear most?"),
        ("frost at night", "the red ant", "loud music"),
    ),
    QuestionTemplate(
        ("What does it smell like?", "Which smell comes from it?"),
        ("fresh paint", "warm cinnamon", "wet stone"),
    ),
    QuestionTemplate(
        ("How does it feel to the touch?", "What would your hand feel on it?"),
        ("like glass", "sticky and cold", "as soft as silk"),
    ),
    QuestionTemplate(
        ("Which country has it as a symbol?", "On what country's flag can it be seen?"),
        ("Bhutan", "Uruguay", "the Faroe Islands"),
    ),
    QuestionTemplate(
        ("When does it sleep?", "At what time of day does it rest?"),
        ("at noon", "only in leap years", "from four to six"),
    ),
    QuestionTemplate(
        ("What is its Latin name?", "How do scientists call it?"),
        ("Lumina vagans", "Corona borealis minor", "Petra volans"),
    ),
    QuestionTemplate(
        ("Who discovered this {thing}?", "By whom was this {thing} found?"),
        ("Maria Velasco", "two monks from Ghent", "Doctor Hallam"),
    ),
    QuestionTemplate(
        ("What can people make from it?", "Which goods are produced out of it?"),
        ("violin strings", "blue ink", "rope for ships"),
    ),
    QuestionTemplate(
        ("How fast can it grow or move?", "What speed does it reach?"),
        ("a mile an hour", "one inch a century", "faster than a train"),
    ),
    QuestionTemplate(
        ("What weather does it like?", "In which kind of weather does it do well?"),
        ("thick fog", "storms from the east", "dry heat"),
    ),
    QuestionTemplate(
        ("Which story is told about it?", "What legend do people know of it?"),
        ("it stole the moon", "it built a bridge", "it never lies"),
    ),
    QuestionTemplate(
        ("How heavy is this {thing}?", "What does this {thing} weigh?"),
        ("twelve tons", "less than a letter", "forty pounds"),
    ),
    QuestionTemplate(
        ("Which hobby goes with it?", "What pastime do its friends enjoy?"),
        ("night sailing", "chess by post", "kite flying"),
    ),
    QuestionTemplate(
        ("What illness does it cure?", "Against which disease does it help?"),
        ("hiccups", "a broken heart", "snow blindness"),
    ),
)
