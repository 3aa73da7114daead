"""Records of docs/serial-protocol.md: lines with a sum, some of them continued."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_SUM = re.compile(rb"(.*) sum=([0-9a-f]{4})", re.DOTALL)


class DamagedError(Exception):
    """An answer that is not whole; asking again may help."""


@dataclass(frozen=True)
class Record:
    """One record, or several lines of it joined."""

    kind: str
    fields: Mapping[str, str]

    def text(self, name: str) -> str:
        """A field. Raises DamagedError when it is not there."""
        if name not in self.fields:
            raise DamagedError(f"{self.kind!r} came without {name!r}")
        return self.fields[name]

    def number(self, name: str) -> int:
        """A decimal field. Raises DamagedError when it is not there or something else."""
        return self._integer(name, 10)

    def crc(self, name: str) -> int:
        """A hexadecimal field. Raises DamagedError as `number` does."""
        return self._integer(name, 16)

    def _integer(self, name: str, base: int) -> int:
        try:
            return int(self.text(name), base)
        except ValueError:
            raise DamagedError(
                f"{self.kind!r} came with {name}={self.fields[name]}, no number"
            ) from None


def checksum(line: bytes) -> bytes:
    """The sum of a line, without the field itself."""
    return b"%04x" % (zlib.crc32(line) & 0xFFFF)


def parse(line: bytes) -> Record | None:
    """The record of a line; None when its sum is wrong or it is none of the protocol's."""
    match = _SUM.fullmatch(line.removesuffix(b"\n").removesuffix(b"\r"))
    if match is None or checksum(match[1]) != match[2] or not match[1].isascii():
        return None
    kind, *fields = match[1].decode().split(" ")
    pairs = [field.partition("=") for field in fields]
    return Record(kind, {name: value for name, equals, value in pairs if equals})


def join(records: Sequence[Record]) -> tuple[Record, ...]:
    """Neighbours of one kind, `level` and `step` that share no other field are one record."""
    joined: list[Record] = []
    for record in records:
        if joined and _continues(joined[-1], record):
            joined[-1] = Record(record.kind, {**joined[-1].fields, **record.fields})
        else:
            joined.append(record)
    return tuple(joined)


def _continues(first: Record, second: Record) -> bool:
    key = ("level", "step")
    return (
        first.kind == second.kind
        and all(first.fields.get(name) == second.fields.get(name) for name in key)
        and first.fields.keys() & second.fields.keys() <= set(key)
    )


def of_kind(records: Sequence[Record], kind: str) -> list[Record]:
    return [record for record in records if record.kind == kind]


def only(records: Sequence[Record], kind: str) -> Record:
    """The one record of a kind. Raises DamagedError when there is none, or several."""
    found = of_kind(records, kind)
    if len(found) != 1:
        raise DamagedError(f"{len(found)} {kind!r} records came instead of one")
    return found[0]
