"""Sentences to read aloud.

They were written for this package. Together they hold all consonants and vowels of English many times, fricatives and
nasals in particular, which body sensors change the most, questions and numbers, and sounds before and after pauses.
"""

from __future__ import annotations

import os
from pathlib import Path

from bcfusion.errors import DataError
from bcfusion.files import on_disk

__all__ = ["SENTENCES", "read_prompts"]

SENTENCES = (
    "The fisherman washed six fresh shells in the shallow sea.",
    "Why did the young judge change his mind on Thursday?",
    "Both brothers breathe easily through thick woollen cloth.",
    "My uncle grows yellow onions and juicy plums behind the garage.",
    "A quick sketch of the yacht hangs above the kitchen door.",
    "She sells nothing but sugar, spice and vanilla from June to July.",
    "Seven zebras dozed in the hazy sunshine of the zoo.",
    "Please put the blue cup back on the top shelf.",
    "The engine coughed twice, and then it hummed along the road.",
    "How often does the treasure ship visit this harbour?",
    "Eight thousand voices sang the anthem at the stadium.",
    "He thought that the weather there was rather smooth.",
    "Fetch five envelopes and a heavy leather folder for Vivian.",
    "Our neighbour boils rice in an enormous copper pot.",
    "It is a pleasure to measure the usual decision again.",
    "The children chose cheese, cherries and a chocolate cheesecake.",
    "George managed a large orange bridge near the village.",
    "No one knows when the morning train from Vienna comes in.",
    "The long song rang among the singing young men.",
    "Could you hold the wooden hook while I look for the book?",
    "Loud brown owls flew around the town at midnight.",
    "Paul saw four tall horses walk across the lawn.",
    "The nurse turned the first page of her journal and heard a bird.",
    "Ask Martha to park the car in the dark yard.",
    "Ten men sent a letter, yet nobody answered it.",
    "Bring a thin pink ribbon, a pin and a bit of string.",
    "Three green trees keep the street cool in the heat.",
    "Who threw those two shoes into the blue pool?",
    "The old boat slowly rolled home through the foggy gulf.",
    "Nine white kites fly high in the bright summer sky.",
    "A noisy boy enjoyed the oily taste of oysters.",
    "Here is a clear idea: the pier is near the weir.",
    "Their mayor wears a rare pair of hairy gloves.",
    "The tourist was sure that the cure for boredom was poetry.",
    "Sixty-six clerks asked for extra desks and boxes.",
    "Splash cold water on the screen, then scrub it with a sponge.",
    "Strong springs stretch when a twelfth of the load is added.",
    "What a remarkable view! We had never walked this far.",
    "Call me at half past seven, or leave a message at nine fifteen.",
    "The hotel is open all year; breakfast costs eleven euros.",
    "Whose gloves are these, and where did you leave your scarf?",
    "I would rather have an apple than a handful of almonds.",
    "Fog covered the valley until the wind blew from the west.",
    "Does this machine really finish such a job in an hour?",
    "A small wolf howled, a dog barked, and the geese hissed.",
    "Put the pepper, the butter and the paper bag on the table.",
    "Good friends forgive each other for saying foolish things.",
    "The museum shows azure vases, beige carpets and gold rings.",
    "Zoe's cousin raised three puppies and a lazy Persian cat.",
    "We shall wish you a happy birthday with flowers and fireworks.",
)  #: 50 of them, about three minutes


def read_prompts(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the sentences of a text file, one a line; empty lines and those that begin with # are left out.

    Raises:
        DataError: the file cannot be read, or holds no sentence, or one of them twice.
    """
    source = on_disk(Path(path))
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DataError(f"cannot read the sentences in {source}: {reason}") from error
    sentences = [" ".join(line.split()) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not sentences:
        raise DataError(f"{source} holds no sentence: write one a line")
    if twice := [sentence for place, sentence in enumerate(sentences) if sentence in sentences[:place]]:
        raise DataError(f"{source} holds a sentence twice: {twice[0]}")
    return tuple(sentences)
