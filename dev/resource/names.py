"""Names of resources and columns: their English forms, and the checks that reject names."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Sequence

from schemas.base import Body


class Refused(Exception):
    """The command can't be executed. The message is one sentence that says why."""


# A table's name may have at most 48 characters in Cassandra.
MAX_LENGTH = 48

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")

# Cassandra 5.0's reserved_keywords.txt, and FALSE, LIMIT and TRUE, which that file lacks.
CQL_RESERVED = frozenset(
    """
    add allow alter and apply asc authorize batch begin by columnfamily create delete desc describe drop entries execute
    false from full grant if in index infinity insert into is keyspace limit materialized modify nan norecursive not
    null of on or order primary rename revoke schema select set table to token true truncate unlogged update use using
    view where with
    """.split()
)

# Names that the service uses, or reserves for planned features.
_SERVICE = frozenset(
    "auth batch docs export exports health import imports jobs metrics openapi shutdown static stream ui uploads v1 "
    "job upload".split()
)
# Names in the generated classes. A field of the same name would hide them.
_IN_CLASSES = frozenset(["bool", "bytes", "dict", "float", "int", "list", "optional", "parameters", "str"])
# A column of the primary key is an argument of `location`, and a link to the next page has it beside the query
# parameters. The others of these are reserved words of CQL.
_BESIDE_KEYS = frozenset(["endpoint", "page_state"])
# ruff rejects it, because it looks like a digit.
_AMBIGUOUS = "l"

_IRREGULAR = {
    "child": "children",
    "foot": "feet",
    "goose": "geese",
    "half": "halves",
    "knife": "knives",
    "leaf": "leaves",
    "life": "lives",
    "man": "men",
    "mouse": "mice",
    "person": "people",
    "shelf": "shelves",
    "tooth": "teeth",
    "wolf": "wolves",
    "woman": "women",
}
_SAME_IN_PLURAL = frozenset(["data", "deer", "equipment", "fish", "series", "sheep", "species"])


def plural_of(singular: str) -> str:
    """The plural of a snake_case noun: `weather_station` becomes `weather_stations`."""
    head, underscore, word = singular.rpartition("_")
    return f"{head}{underscore}{_plural_word(word)}"


def _plural_word(word: str) -> str:
    if word in _SAME_IN_PLURAL:
        return word
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("sis"):
        return f"{word[:-2]}es"
    if re.search(r"(s|x|z|ch|sh)$", word):
        return f"{word}es"
    if re.search(r"[^aeiou]y$", word):
        return f"{word[:-1]}ies"
    return f"{word}s"


def with_article(noun: str) -> str:
    """The noun with `a` or `an` before it."""
    # Exceptions: a silent h, and vowel letters that are pronounced like "you" or "won".
    if re.match(r"(hour|honest|heir|honou?r)", noun):
        return f"an {noun}"
    if re.match(r"[aeiou]", noun) and not re.match(r"(eu|one|once|u[bcnrst][aeiou])", noun):
        return f"an {noun}"
    return f"a {noun}"


def camel_case(name: str) -> str:
    """The class name of a snake_case name."""
    return "".join(part.capitalize() for part in name.split("_"))


def in_prose(words: Sequence[str]) -> str:
    """The words as an enumeration: `a, b and c`."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def check_resource_name(name: str) -> None:
    """Check the form of the singular or the plural of a resource, and reserved words.

    :raises Refused: the name is not valid, is a reserved word, or belongs to the service.
    """
    _check_form(name, "resource")
    if name in CQL_RESERVED:
        raise Refused(f"{name} is a reserved word of CQL")
    # A name is that of a module, of variables and, in camel case, of a class.
    if any(keyword.iskeyword(each) or hasattr(builtins, each) for each in (name, camel_case(name))):
        raise Refused(f"{name} is a keyword or a builtin of Python")
    if name == _AMBIGUOUS:
        raise Refused(f"{name} looks like a digit, so choose another name")
    if name in _SERVICE:
        raise Refused(f"{name} is a name that the service itself uses or reserves")


def check_column_name(name: str, is_key: bool) -> None:
    """Check the name of a column, without regard to the other columns.

    :param is_key: the column belongs to the primary key.
    :raises Refused: the name is not valid, is a reserved word, or is used in the generated code.
    """
    _check_form(name, "column")
    if name in CQL_RESERVED:
        raise Refused(f"column {name}: it is a reserved word of CQL")
    if keyword.iskeyword(name):
        raise Refused(f"column {name}: it is a keyword of Python")
    if hasattr(tuple, name):
        raise Refused(f"column {name}: every row already has a method of that name, because a row is a tuple")
    if hasattr(Body, name) or name.startswith("model_"):
        raise Refused(f"column {name}: pydantic uses that name in every model")
    if name == _AMBIGUOUS:
        raise Refused(f"column {name}: it looks like a digit, so choose another name")
    if name in _IN_CLASSES or (is_key and name in _BESIDE_KEYS):
        raise Refused(f"column {name}: the generated code uses that name for something else")


def _check_form(name: str, kind: str) -> None:
    if not _NAME.fullmatch(name):
        raise Refused(
            f"{kind} {name!r}: a name has lower-case letters, digits and single underscores, and begins with a letter"
        )
    if len(name) > MAX_LENGTH:
        raise Refused(f"{kind} {name}: a name has at most {MAX_LENGTH} characters")
