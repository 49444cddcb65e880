"""The op codes of lines: compiler.py makes them, encoder.c runs them."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["How", "Op"]


class Op(IntEnum):
    """One step of a line; a number comes from a slot of the record."""

    LITERAL = 0
    MOMENT = 1  # the record's ts, in seconds with 6 decimals
    UTC = 2  # the same as wall time, without its Z
    SEQ = 3
    UNSIGNED = 4
    SIGNED = 5
    OTHER = 6  # a literal and a process ID, where it is not the record's own process
    BIT = 7
    TICKS = 8  # nanoseconds, in seconds with 2 decimals
    NAME = 9  # the name of a number, or one for all other numbers
    FLAG = 10  # a literal, where a flag is set
    TEXT = 11  # the data as a JSON string, without a character that was cut at the end
    ADDRESS = 12  # likewise of a socket address' text, which replaces the data
    EXACT = 13  # a key and the data in base64, if TEXT or ADDRESS was not exact
    BIN = 14  # the file name of the process
    SUFFIX = 15  # the last keys of the process: arch, guest


class How(IntEnum):
    """How a record is handled."""

    ENCODE = 0  # a line, by its op codes
    FOLLOW = 1  # the process table first, then a line by its op codes
    HANDLE = 2  # by Python: the process table, and the line if there is one
