"""CQL types: parsing and printing, for example `map<text, frozen<set<int>>>`."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

# The scalar types of Cassandra 5, without `varchar`, which is another name of `text`.
SCALARS = frozenset(
    "ascii bigint blob boolean counter date decimal double duration float inet int smallint text time timestamp "
    "timeuuid tinyint uuid varint".split()
)
# Parameterized types, each with its number of type arguments; None for any number.
_PARAMETERIZED = {"list": 1, "set": 1, "map": 2, "vector": 1, "tuple": None}

# For error messages.
_FORMS = {
    "list": "list<T>",
    "set": "set<T>",
    "map": "map<K, V>",
    "vector": "vector<T, N> with N > 0",
    "frozen": "frozen<T>",
}

_TOKEN = re.compile(r"\s*([a-z_]+|[0-9]+|[<>,])")


class CqlType(NamedTuple):
    """A CQL type. `frozen<…>` is left out, because it does not change the values.

    :ivar name: for example `int`, `list` or `udt`.
    :ivar arguments: types of the elements: of a map, keys and values; of a user-defined type, its fields.
    :ivar dimension: number of elements of a vector.
    :ivar field_names: of a user-defined type.
    """

    name: str
    arguments: tuple[CqlType, ...] = ()
    dimension: int = 0
    field_names: tuple[str, ...] = ()

    def __str__(self) -> str:
        inner = [str(argument) for argument in self.arguments] + ([str(self.dimension)] if self.dimension else [])
        return f"{self.name}<{', '.join(inner)}>" if inner else self.name

    @property
    def is_collection(self) -> bool:
        """Whether Cassandra does not distinguish an empty value of this type from null, unless it is frozen."""
        return self.name in ("list", "set", "map")


@cache
def parse_type(text: str) -> CqlType:
    """Parse a CQL type.

    :raises ValueError: the text is not a type of Cassandra 5; user-defined types are not supported here.
    """
    tokens = _tokens(text)
    parsed = _parse(tokens, text)
    if tokens:
        raise ValueError(f"{text!r} is not a CQL type: unexpected text after {parsed}")
    return parsed


def _tokens(text: str) -> list[str]:
    """The tokens of a type in reverse order, so that `pop()` returns the next one."""
    tokens = []
    position, text = 0, text.rstrip().lower()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"{text!r} is not a CQL type: unexpected {text[position]!r}")
        tokens.append(match[1])
        position = match.end()
    return tokens[::-1]


def _parse(tokens: list[str], text: str) -> CqlType:
    name = tokens.pop() if tokens else ""
    if name == "varchar":
        return CqlType("text")
    if name in SCALARS:
        return CqlType(name)
    if name != "frozen" and name not in _PARAMETERIZED:
        raise ValueError(f"{text!r} is not a CQL type: {name!r} is unknown")
    _expect("<", tokens, text)
    arguments = [_parse(tokens, text)]
    dimension = 0
    while tokens and tokens[-1] == ",":
        tokens.pop()
        if name == "vector" and tokens and tokens[-1].isdigit():
            dimension = int(tokens.pop())
            break
        arguments.append(_parse(tokens, text))
    _expect(">", tokens, text)
    count = 1 if name == "frozen" else _PARAMETERIZED[name]
    if (count is not None and len(arguments) != count) or (name == "vector" and dimension == 0):
        raise ValueError(f"{text!r} is not a CQL type: expected {_FORMS.get(name, name)}")
    return arguments[0] if name == "frozen" else CqlType(name, tuple(arguments), dimension)


def _expect(token: str, tokens: list[str], text: str) -> None:
    if not tokens or tokens.pop() != token:
        raise ValueError(f"{text!r} is not a CQL type: expected {token!r}")
