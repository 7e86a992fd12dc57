"""TOML files merged into one and turned into structs table by table, each fault kept with its file and key.

A field of a struct may be ``Annotated[type, parse]``: ``parse`` takes the TOML value and gives the field's, or raises
ValueError with a sentence.  ``Annotated[str, File]`` is a path, ``Annotated[tuple[str, ...], File]`` several; other
fields are checked against their type by msgspec.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from relayd import notation
from relayd.errors import InputError

T = TypeVar("T", bound=msgspec.Struct)
SHAPING = ("provider", "site", "reaction")


class Fault(msgspec.Struct, frozen=True):
    """One thing wrong, and where.  ``key`` is dotted, "" for the file itself."""

    file: str
    key: str
    text: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.file, self.key, self.text)))


class ConfigError(Exception):
    """The configuration cannot be used; ``faults`` holds the first one of every table."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


class File:
    """Marks a path: a relative one is taken from the directory of the main file."""


class Reader:
    """One reading: the merged tables, where each key came from, and the faults so far."""

    def __init__(self, path: Path) -> None:
        self.main = str(path)
        self.base = str(path.absolute().parent)
        self.raw: dict[str, Any] = {}
        self.faults: dict[str, Fault] = {}
        self._where: dict[str, str] = {}
        self._lines: dict[str, dict[str, int]] = {}  # of keys, by file

    def read(self) -> "Reader":
        """Reads the files of ``shaping.d`` beside the main one, which others override, then the main one, then those of
        ``conf.d``.  Raises ConfigError."""
        path = Path(self.main)
        for file in sorted((path.parent / "shaping.d").glob("*.toml")):
            self.add_shaping(str(file), _parsed(file))
        for file in [path, *sorted((path.parent / "conf.d").glob("*.toml"))]:
            self._merge(self.raw, _parsed(file), str(file), "")
        return self

    def add_shaping(self, file: str, tables: dict[str, Any]) -> None:
        """The tables of a file that may hold those of SHAPING only."""
        for key in tables.keys() - set(SHAPING):
            allowed = ", ".join(f"[{name}.NAME]" for name in SHAPING)
            self.faults.setdefault(key, Fault(file, key, f"does not belong here: a file of shaping has {allowed} only"))
        self._merge(self.raw, {key: tables[key] for key in SHAPING if key in tables}, file, "")

    def _merge(self, into: dict[str, Any], new: Mapping[str, Any], file: str, prefix: str) -> None:
        for key, value in new.items():
            name = prefix + key
            if isinstance(value, dict) and isinstance(into.setdefault(key, {}), dict):
                self._where.setdefault(name, file)
                self._merge(into[key], value, file, name + ".")
            elif not prefix and isinstance(value, list) and isinstance(into.setdefault(key, []), list):
                for item in value:
                    self._where[f"{name}[{len(into[key])}]"] = file
                    into[key].append(item)
            else:
                into[key] = value
                self._where[name] = file

    def origins(self, *tables: str) -> dict[str, str]:
        """FILE:LINE of every key below these tables."""
        found = {}
        for name, file in self._where.items():
            if name.partition(".")[0] in tables:
                if file not in self._lines:
                    self._lines[file] = _key_lines(Path(file).read_text("utf-8"))
                lines = self._lines[file]
                above = name
                while above not in lines and "." in above:  # inside an inline table
                    above = above.rpartition(".")[0]
                found[name] = f"{file}:{lines[above]}" if above in lines else file
        return found

    def fault(self, table: str, key: str, text: str) -> None:
        """Keeps the table's first fault, with the file that the key, or else the nearest table above it, is from."""
        name = ".".join(filter(None, (table, key)))
        above = name
        while above and above not in self._where:
            above = above[: max(above.rfind("."), above.rfind("["), 0)]
        self.faults.setdefault(table, Fault(self._where.get(above, self.main), name, text))

    def table(self, kind: type[T], raw: object, name: str) -> T | None:
        """One table as its struct, or None and a fault."""
        if not isinstance(raw, dict):
            self.fault(name, "", f"must be a table, not {raw!r}")
            return None
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        hints = get_type_hints(kind, include_extras=True)
        for key in (key for key in raw if key not in fields):
            self.fault(name, key, f"unknown key{notation.nearest(key, fields)}")
        values = {}
        for key, field in fields.items():
            if key in raw:
                try:
                    values[key] = _read(field, hints[key], raw[key], self.base)
                except ValueError as error:
                    self.fault(name, key, str(error))
            elif field.required:
                self.fault(name, key, "is missing")
        return None if name in self.faults else kind(**values)

    def array(self, name: str) -> list[Any]:
        items = self.raw.get(name, [])
        if isinstance(items, list):
            return items
        self.fault(name, "", f"is an array: write [[{name}]]")
        return []

    def named(self, name: str) -> dict[str, Any]:
        items = self.raw.get(name, {})
        if isinstance(items, dict) and all(isinstance(item, dict) for item in items.values()):
            return items
        self.fault(name, "", f"holds named tables: write [{name}.NAME]")
        return {}


def overridden(base: T, raw: Mapping[str, object]) -> T:
    """A struct with some of its keys given anew, as in its table.  Raises InputError."""
    fields = {field.name: field for field in msgspec.structs.fields(base)}
    hints = get_type_hints(type(base), include_extras=True)
    values = {}
    for key, value in raw.items():
        if key not in fields:
            raise InputError(key, f"unknown key {key!r}{notation.nearest(key, fields)}")
        try:
            values[key] = _read(fields[key], hints[key], value, "/")
        except ValueError as error:
            raise InputError(key, f"{key}: {error}") from None
    return msgspec.structs.replace(base, **values)


def _read(field: msgspec.structs.FieldInfo, kind: Any, raw: object, base: str) -> object:
    """A field's value from its TOML one; files are taken from the directory ``base``.  Raises ValueError."""
    if raw == field.default == "":
        return raw
    parse = kind.__metadata__[0] if get_origin(kind) is Annotated else None
    if parse is File:
        if get_args(kind)[0] is str:
            return _path(raw, base)
        return tuple(_path(item, base) for item in notation.list_of(lambda item: item)(raw))
    return parse(raw) if parse else _plain(kind, raw)


def _path(raw: object, base: str) -> str:
    if not isinstance(raw, str) or not raw:
        raise ValueError(f"{raw!r} is not a path")
    return os.path.join(base, raw)


_HEADER = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]")
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PART = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")


def _key_lines(text: str) -> dict[str, int]:
    """The line of each key, by its full name.  tomllib keeps none; what stands across several lines is at its first."""
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if match := _HEADER.match(line):
            table = _dotted(match[1]) + "."
            found.setdefault(table[:-1], number)
        elif match := _KEY.match(line):
            found.setdefault(table + _dotted(match[1]), number)
    return found


def _dotted(key: str) -> str:
    return ".".join(part.strip("\"'") for part in _PART.findall(key))


def _parsed(file: Path) -> dict[str, Any]:
    try:
        return parsed(str(file), file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError([Fault(str(file), "", error.strerror or str(error))]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([Fault(str(file), "", f"is not TOML: {error}")]) from None


def parsed(file: str, text: str) -> dict[str, Any]:
    """The tables of a file's text.  Raises ConfigError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([Fault(file, "", f"is not TOML: {error}")]) from None


def _plain(kind: Any, raw: object) -> object:
    if get_origin(kind) is Literal and raw not in kind.__args__:
        raise ValueError(f"{raw!r} is none of {', '.join(map(str, kind.__args__))}")
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError:
        raise ValueError(f"{raw!r} is of the wrong type: {getattr(kind, '__name__', kind)} expected") from None
