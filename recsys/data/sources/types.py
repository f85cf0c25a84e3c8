"""The few column types that preparation uses, and the conversion of others to these."""

import re

import pyarrow as pa

__all__ = ["BIG", "CODED", "EXACT", "TYPES", "plain", "why"]

EXACT = 2**53  # whole numbers up to here are exact as doubles
BIG = r"^\s*-?\d{16,}\s*$"  # whole numbers that a double may not represent exactly

TYPES = {
    "string": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us"),
}


CODED = pa.dictionary(pa.int32(), pa.string())  # text of which each distinct value is stored once


def plain(kind: pa.DataType) -> pa.DataType:
    """The type that a column of any Arrow type is read as.

    Dictionaries become their values; large and fixed-size lists become lists; bytes and times of day become
    strings; decimals become doubles; dates become timestamps. A column without values becomes strings.
    """
    t = pa.types
    if t.is_dictionary(kind) or t.is_run_end_encoded(kind):
        return plain(kind.value_type)
    if t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind):
        return pa.list_(plain(kind.value_type))
    texts = (t.is_large_string, t.is_string_view, t.is_binary, t.is_large_binary, t.is_fixed_size_binary, t.is_time)
    if t.is_null(kind) or any(is_text(kind) for is_text in (*texts, t.is_binary_view)):
        return pa.string()
    if t.is_decimal(kind):
        return pa.float64()
    if t.is_float16(kind):
        return pa.float32()
    if t.is_date(kind):
        return pa.timestamp("us")
    if t.is_timestamp(kind) and kind.unit != "ns":  # nanoseconds stay, so that no digits are lost
        return pa.timestamp("us", kind.tz)
    return kind


def why(name: str, cell: bytes, wanted: pa.DataType) -> str:
    """What is wrong with a cell that does not convert, and how to mend it."""
    start = f", column {name!r}: expected "
    try:
        text = cell.decode()
    except UnicodeDecodeError as error:
        return f"{start}UTF-8, got byte 0x{cell[error.start]:02x} in {cell[:40]!r}: save the file as UTF-8"
    if re.fullmatch(BIG, text) and wanted != pa.timestamp("us"):
        most = "±2^63" if wanted == pa.int64() else "±2^53 (a column of doubles)"
        return f"{start}a whole number within {most}, got {text[:40]}: set source.types: {{{name}: string}}"
    kind = next((k for k, t in TYPES.items() if t == wanted), str(wanted))
    mend = "float" if kind == "int" and re.fullmatch(r"\s*-?\d*\.?\d*(e[+-]?\d+)?\s*", text, re.I) else "string"
    return f"{start}{kind}, got {text[:40]!r}: mend the cell, or set source.types: {{{name}: {mend}}}"
