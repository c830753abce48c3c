"""Characters that a word processor or a web page puts in the place of those of a keyboard."""

from __future__ import annotations

import shlex
from collections.abc import Collection

DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
QUOTES = "\u201c\u201d\u201e\u2018\u2019\u201a\u00ab\u00bb"
SPACES = "\u00a0\u2007\u202f\u200b"


def typographic_dash(argument: str, options: Collection[str]) -> str | None:
    """Return two lines about an argument that begins with a dash of another kind; None if it does not."""
    if not argument or argument[0] not in DASHES:
        return None
    name, equals, value = argument.lstrip("-" + DASHES).partition("=")
    known = [option for option in options if option.lstrip("-") == name]
    plain = (known[0] if known else name) + equals + value
    return f"{argument}: begins with a dash that is not the - of the keyboard\nwrite {shlex.quote(plain)}"


def typographic(argument: str, options: Collection[str]) -> str | None:
    """Return two lines about characters of a word processor in an override or option; None if there are none.

    Args:
        argument: as typed.
        options: the options that exist, with their dashes.
    """
    if dash := typographic_dash(argument, options):
        return dash
    key, _, value = argument.partition("=")
    ends = {argument[:1], argument[-1:], value[:1]}
    if any(end and end in QUOTES for end in ends):
        plain = argument.translate({ord(quote): None for quote in QUOTES})
        return f"{argument}: has quotation marks that are not those of the keyboard\nwrite {shlex.quote(plain)}"
    if any(space in key or argument.endswith(space) for space in SPACES):
        plain = argument.translate({ord(space): None for space in SPACES})
        return f"{argument}: has a space that cannot be seen\nwrite {shlex.quote(plain)}"
    return None
