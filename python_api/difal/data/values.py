"""Which class a value of a mask stands for: numbers, or colours, as `classes.txt` or `--mask-values` says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from difal.errors import ConfigError, DataError

IGNORE = 255
VOID_NAMES = ("void", "ignore", "unlabeled", "unlabelled")
_NUMBER = r"-?\d+"
_COLOR = r"#[0-9a-fA-F]{6}|\d{1,3}\s*[,\s]\s*\d{1,3}\s*[,\s]\s*\d{1,3}"
_VALUE_FIRST = re.compile(rf"(?P<value>{_COLOR}|{_NUMBER})\s*[:=,;\s]\s*(?P<name>\S.*)")
_VALUE_LAST = re.compile(rf"(?P<name>\S.*?)\s*[:=,;\s]\s*(?P<value>{_COLOR}|{_NUMBER})")

Value = int | tuple[int, int, int]


@dataclass(frozen=True)
class MaskValues:
    """What the values of masks mean: `to_class` from a number or a colour to a class id, 255 for void."""

    to_class: Mapping[Value, int]

    @property
    def colors(self) -> bool:
        return any(isinstance(value, tuple) for value in self.to_class)

    def text(self) -> str:
        return ", ".join(f"{show_value(value)} = {to}" for value, to in self.to_class.items())


def show_value(value: Value) -> str:
    return "#{:02x}{:02x}{:02x}".format(*value) if isinstance(value, tuple) else str(value)


def parse_classes(text: str, path: Path) -> tuple[tuple[str, ...], MaskValues | None]:
    """Read a list of classes: a name a line, or on every line a mask's value (or colour) and a name, in either order.

    Lines of one name give several values to one class; those of `void` or `ignore` are void. Colours are `#rrggbb` or
    three numbers.

    Example:
        >>> parse_classes("0 background\\n255 object\\n", Path("classes.txt"))
        (('background', 'object'), MaskValues(to_class={0: 0, 255: 1}))
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for pattern in (_VALUE_FIRST, _VALUE_LAST):
        found = [match for line in lines if (match := pattern.fullmatch(line))]
        if lines and len(found) == len(lines):
            pairs = [(parse_value(match["value"]), match["name"].strip()) for match in found]
            return _from_pairs(pairs, path)
    return tuple(lines), None


def _from_pairs(pairs: list[tuple[Value, str]], path: Path) -> tuple[tuple[str, ...], MaskValues]:
    names = list(dict.fromkeys(name for _, name in pairs if name.lower() not in VOID_NAMES))
    to_class: dict[Value, int] = {}
    for value, name in pairs:
        if value in to_class:
            raise DataError(f"{path} gives the value {show_value(value)} twice; a value stands for one class")
        to_class[value] = IGNORE if name.lower() in VOID_NAMES else names.index(name)
    if len({isinstance(value, tuple) for value in to_class}) > 1:
        raise DataError(f"{path} mixes numbers and colours; give every class the one or the other")
    return tuple(names), MaskValues(to_class)


def parse_mask_values(text: str, classes: Sequence[str]) -> MaskValues:
    """`--mask-values`: the value (or colour #rrggbb) of each class, in the order of the classes.

    Raises:
        ConfigError: not one value a class, or one that is neither a number nor a colour.
    """
    try:
        values = [parse_value(word) for word in re.split(r"[,;\s]+", text.strip()) if word]
    except ValueError as error:
        raise ConfigError(f"`mask_values` must be numbers or colours #rrggbb, got {error}") from None
    if len(values) != len(classes) or len(set(values)) < len(values):
        raise ConfigError(
            f"`mask_values` must be {len(classes)} different values, one for each of {', '.join(classes)}, got {text!r}"
        )
    if len({isinstance(value, tuple) for value in values}) > 1:
        raise ConfigError(f"`mask_values` must be all numbers or all colours, got {text!r}")
    return MaskValues({value: i for i, value in enumerate(values)})


def parse_value(text: str) -> Value:
    text = text.strip()
    if text.startswith("#") and len(text) == 7:
        return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
    parts = [int(part) for part in re.split(r"[,\s]+", text)]
    if len(parts) == 3:
        red, green, blue = parts
        return red, green, blue
    if len(parts) != 1:
        raise ValueError(repr(text))
    return parts[0]
