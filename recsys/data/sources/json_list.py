"""A JSON list of objects, streamed as JSON lines: memory holds one element at a time."""

import codecs
import json
import re
from collections.abc import Iterator

from recsys.errors import DataError

__all__ = ["as_lines"]

_BLANKS = re.compile(r"[ \t\r\n]*")
_BYTES = ("utf-8", "surrogateescape")  # invalid UTF-8 passes through; the reader of the line refuses it
_SENT = 1 << 20  # characters of lines yielded at once


def as_lines(path: str, chunks: Iterator[bytes], longest: int) -> Iterator[bytes]:
    """The same bytes, or, if they hold one JSON list, a line for each of its elements.

    Args:
        path: Path of the file, for messages.
        chunks: Its bytes in order.
        longest: Most bytes of an element.

    Raises:
        DataError: If it begins as a list and does not continue as one, or begins with `longest` bytes of blanks.
    """
    first = b""
    for chunk in chunks:
        first += chunk
        if chunk.strip():
            break
        if len(first) > longest:
            raise DataError(f"{path}: expected a table, got nothing but blanks for {longest:,} bytes: write it again")
    if not first.lstrip().startswith(b"["):
        yield from filter(None, [first])
        yield from chunks
        return
    yield from _elements(path, first.lstrip()[1:], chunks, longest)


def _elements(path: str, first: bytes, chunks: Iterator[bytes], longest: int) -> Iterator[bytes]:
    decoder, scan = codecs.getincrementaldecoder(_BYTES[0])(_BYTES[1]), json.JSONDecoder().raw_decode
    text, number, lines, size, ended = decoder.decode(first), 0, list[str](), 0, False
    place = 0
    while True:
        place = _skip(text, place)
        try:
            if place < len(text) and text[place] == "]":
                break
            end = scan(text, place)[1]
            after = _skip(text, end)
            if after == len(text) and not ended:
                raise ValueError("cut")  # a number may continue in the next chunk
            if text[after : after + 1] not in (",", "]"):
                raise _wrong(path, number, text[after : after + 40], "a comma or ] after it")
        except RecursionError as error:
            raise _wrong(path, number, text[place : place + 40], "an object that is not nested as deep") from error
        except ValueError as error:
            more = next(chunks, b"")
            if ended or len(text) - place > longest:
                raise _wrong(path, number, text[place : place + 40], "a JSON object that ends") from error
            ended = not more
            text, place = text[place:] + decoder.decode(more, ended), 0
            continue
        number += 1
        line = " ".join(text[place:end].split("\n")).replace("\r", " ") + "\n"
        lines.append(line)
        size += len(line)
        place = after + (text[after] == ",")
        if size > _SENT:
            yield "".join(lines).encode(*_BYTES)
            lines, size = [], 0
    if (rest := text[place + 1 :].encode(*_BYTES) + b"".join(chunks)).strip():
        raise DataError(f"{path}: expected one JSON list, got {rest.strip()[:40]!r} after it: write one object a line")
    if not number:
        raise DataError(f"{path}: expected a JSON list of objects, got an empty one: check source.path")
    yield "".join(lines).encode(*_BYTES)


def _skip(text: str, place: int) -> int:
    blanks = _BLANKS.match(text, place)
    return blanks.end() if blanks else place


def _wrong(path: str, number: int, got: str, expected: str) -> DataError:
    return DataError(f"{path}, row {number + 1} of a JSON list: expected {expected}, got {got!r}: mend it")
