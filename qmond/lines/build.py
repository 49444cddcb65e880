"""Builds the extension module qmond._encode from encoder.c and broadcast.c, for setup.py (cffi)."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parents[1]
SOURCES = ("lines/encoder.c", "server/broadcast.c")
sys.path.insert(0, str(HERE.parent))

from qmond.events.records import ADDRESS_MAX, RECORD, Flag  # noqa: E402
from qmond.lines.opcodes import How, Op  # noqa: E402 - it is not installed yet

__all__ = ["ffibuilder", "preamble"]

WARNINGS = ["-O2", "-Wall", "-Wextra", "-Wno-unused-parameter"]
HARDENING = [
    "-U_FORTIFY_SOURCE",
    "-D_FORTIFY_SOURCE=3",
    "-fstack-protector-strong",
    "-fstack-clash-protection",
    *(["-fcf-protection"] if platform.machine() == "x86_64" else []),
]
"""Flags that turn a memory error in C into an abort, so that it cannot be exploited."""
_TYPES = {"u16": "uint16_t", "u32": "uint32_t", "s32": "int32_t", "u64": "uint64_t"}


def preamble() -> str:
    """Return the C source that precedes encoder.c: constants and the layout of a record."""
    defines = {f"OP_{op.name}": op.value for op in Op} | {f"HOW_{how.name}": how for how in How}
    defines |= {f"FLAG_{name}": bit for name, bit in vars(Flag).items() if name.isupper()}
    defines["ADDRESS_MAX"] = ADDRESS_MAX
    members = "".join(f"\t{_TYPES[ctype]} {member};\n" for member, ctype in RECORD)
    return "\n".join(
        [
            "#include <stdint.h>",
            *(f"#define {name} {int(value)}" for name, value in defines.items()),
            f"struct qmon_record {{\n{members}}};\n",
        ]
    )


ffibuilder = FFI()
ffibuilder.cdef(
    """
    struct qmond_op { uint8_t kind, at, size, bit; uint32_t text, length; };
    struct qmond_name { int64_t number; uint32_t text, length; };
    struct qmond_event { uint32_t first_op, ops; uint8_t how, other_at, other_size; ...; };
    struct qmond_ring {
        uint64_t *consumed; const uint64_t *produced;
        const unsigned char *data; uint64_t origin, size;
    };
    struct qmond_line { uint32_t offset, event, pid, other, raw, raw_size; };
    struct buffer { char *data; size_t used; ...; };
    struct qmond_encoder {
        struct buffer out; struct qmond_line *lines; uint32_t line_count;
        struct buffer raw; bool keep_raw;
        uint64_t seq, epoch_us; int64_t offset_ns;
        const unsigned char *record; size_t record_size; ...;
    };
    enum { QMOND_EMPTY, QMOND_FULL, QMOND_RECORD, QMOND_PROCESS, QMOND_BEYOND, QMOND_UNFIT };
    struct qmond_encoder *qmond_new(
        const struct qmond_event *, uint32_t, const struct qmond_op *, size_t,
        const struct qmond_name *, size_t, const char *, size_t, size_t);
    void qmond_free(struct qmond_encoder *);
    bool qmond_enter(
        struct qmond_encoder *, uint32_t, const char *, uint32_t, const char *, uint32_t, bool);
    void qmond_forget(struct qmond_encoder *, uint32_t);
    void qmond_withhold(struct qmond_encoder *, uint32_t, bool);
    bool qmond_append(
        struct qmond_encoder *, const char *, size_t, uint32_t, uint32_t, uint32_t);
    int qmond_encode(struct qmond_encoder *, struct qmond_ring *);
    void qmond_clear(struct qmond_encoder *);
    bool qmond_replace(struct qmond_encoder *, const char *, size_t);
    void qmond_count(const struct qmond_encoder *, uint64_t *);
    uint32_t qmond_tally(struct qmond_encoder *, uint32_t *, uint32_t *);
    size_t qmond_select(
        const struct qmond_encoder *, uint64_t, const uint32_t *, size_t, char *, size_t,
        uint32_t *);
    """
)
ffibuilder.cdef(
    """
    struct qmond_place { uint64_t device, inode, offset; };
    struct qmond_state { uint64_t head, seq; struct qmond_place end; };
    struct qmond_share { uint64_t reserved, head, version; struct qmond_state state; };
    struct qmond_frame {
        uint64_t size, first, lines, text; struct qmond_place before, after;
    };
    struct qmond_entry { uint32_t offset, event, pid, other; };
    enum { SHARE_NONE, SHARE_FRAME, SHARE_OVERRUN, SHARE_BROKEN };
    enum { SHARE_DATA, SHARE_PART, ... };
    void qmond_share_tell(struct qmond_share *, uint64_t, const struct qmond_place *);
    uint64_t qmond_share_put(
        struct qmond_share *, uint64_t, const struct qmond_line *, uint64_t, const char *, uint64_t,
        uint64_t, const struct qmond_place *, const struct qmond_place *);
    bool qmond_share_state(const struct qmond_share *, struct qmond_state *);
    int qmond_share_take(
        const struct qmond_share *, uint64_t, uint64_t *, unsigned char *);
    uint64_t qmond_frame_select(
        const unsigned char *, uint64_t, const uint32_t *, uint64_t, char *, uint64_t *);
    """
)
ffibuilder.set_source(
    "qmond._encode",
    preamble()
    + "".join(
        f'#line 1 "{name}"\n{(HERE / name).read_text(encoding="utf-8")}\n' for name in SOURCES
    ),
    extra_compile_args=[*WARNINGS, *HARDENING],
    extra_link_args=["-Wl,-z,relro,-z,now"],
)
