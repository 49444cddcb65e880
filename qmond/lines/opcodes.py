"""The op codes that a line of JSON is made by: what compiler.py compiles and encoder.c runs."""

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
    BIT = 6
    TICKS = 7  # nanoseconds, in seconds with 2 decimals
    NAME = 8  # the text that stands for a number, or one for all others
    FLAG = 9  # a literal, where a flag is set
    TEXT = 10  # the data as a JSON string, but for a character that the end cut in two
    ADDRESS = 11  # the same of a socket address' text, which is the data from here on
    EXACT = 12  # a key and the data in base64, where TEXT or ADDRESS could not tell them exactly
    BIN = 13  # of the process
    SUFFIX = 14  # of the process


class How(IntEnum):
    """What becomes of a record."""

    ENCODE = 0  # a line, by its op codes
    FOLLOW = 1  # the process table first, then a line by its op codes
    TELL = 2  # Python does with it what there is to do
