/* SPDX-License-Identifier: MIT */
/*
 * The encoder of records to lines of JSON. It knows no event by name: it runs op codes, which
 * compiler.py makes from the table of events. struct qmon_record and the numbers OP_… and HOW_… are
 * in a generated header in front of this file.
 *
 * The text of each value is made here: numbers, times, escaped strings, base64, socket addresses.
 *
 * It reads nothing outside of a record, whatever the record has in it. It writes only by put…(). Each
 * of these functions has a writer, which knows the end of its buffer, and writes nothing without space.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define EVENTS_MAX 64
#define RING_HEADER 8
#define RING_BUSY 0x80000000u
#define RING_DISCARD 0x40000000u
#define SLACK 32 /* bytes after each constant text, so that it can be copied with a fixed size */
#define NUMBER_MAX 20 /* digits of a 64-bit number, without its sign */
#define MOMENT_MAX 27 /* a number, a point, six digits */
#define ADDRESS_TEXT_MAX (ADDRESS_MAX + NUMBER_MAX) /* hardly longer; a number at the end */
#define PROCESSES_MAX (8u << 20) /* bytes of processes' texts; beyond it, this cache is emptied */

/* the sizes below are sums and products of 32-bit numbers: they fit into 64 bits */
_Static_assert(sizeof(size_t) == 8, "a size has 64 bits");

/* A buffer of `room` bytes, of which `used` are in use. */
struct buffer {
	char *data;
	size_t used;
	size_t room;
};

/* A position in a buffer, and its end. Both are NULL after a write that did not fit. */
struct writer {
	char *to;
	char *end;
};

struct qmond_op {
	uint8_t kind;
	uint8_t at; /* of a number: its offset in the record, and its size in bytes */
	uint8_t size;
	uint8_t bit;
	uint32_t text; /* of a literal: its offset in the texts; of a name: its first row, the default */
	uint32_t length; /* of a literal: its bytes; of a name: its rows */
};

struct qmond_name {
	int64_t number;
	uint32_t text;
	uint32_t length;
};

struct qmond_event {
	uint32_t first_op;
	uint32_t ops;
	uint8_t how;
	uint8_t other_at; /* offset of the event's second process, if its size is not 0 */
	uint8_t other_size;
	bool has_text; /* whether its lines have a text that a guest chose; found from its op codes */
};

struct qmond_line {
	uint32_t offset;
	uint32_t event;
	uint32_t pid;
	uint32_t other;
	uint32_t raw; /* offset of the text that a guest chose, unescaped, and its size */
	uint32_t raw_size;
};

struct process {
	uint32_t pid;
	uint32_t bin;
	uint32_t suffix;
	bool withheld; /* whether its texts are left out */
	char *text; /* bin, then suffix; NULL if the slot is free */
};

struct qmond_encoder {
	struct qmond_event events[EVENTS_MAX];
	uint32_t event_count;
	struct qmond_op *ops;
	struct qmond_name *names;
	char *texts;

	struct process *processes; /* a hash table with open addressing; its size is a power of two */
	uint32_t process_room;
	uint32_t process_count;
	size_t process_bytes;

	struct buffer out;
	size_t batch; /* the most bytes of a batch; `out` has twice as many, for qmond_replace() */
	struct qmond_line *lines;
	uint32_t line_room;
	uint32_t line_count;
	struct buffer raw; /* the texts that guests chose, each with a newline after it */
	bool keep_raw;
	uint32_t *tally; /* a hash table for qmond_tally(): the index of a process, plus one */
	uint32_t tally_room; /* a power of two */

	uint64_t seq; /* number of the next line */
	uint64_t epoch_us; /* the zero of `ts`, in microseconds */
	int64_t offset_ns; /* CLOCK_REALTIME minus CLOCK_MONOTONIC */
	int64_t second; /* the second whose text is in `utc` */
	char utc[20];
	char address[ADDRESS_TEXT_MAX]; /* the text of a socket address, while its line is made */

	bool shown; /* the caller has handled the ring's next record, and it can be encoded now */
	const unsigned char *record; /* the record for the caller to handle */
	size_t record_size;
};

struct qmond_ring {
	uint64_t *consumed;
	const uint64_t *produced;
	const unsigned char *data; /* the mapped part of the ring, from the position `origin` on */
	uint64_t origin;
	uint64_t size; /* its size in bytes */
};

enum { QMOND_EMPTY, QMOND_FULL, QMOND_RECORD, QMOND_PROCESS, QMOND_BEYOND, QMOND_UNFIT };

/* ---- numbers and text ---------------------------------------------------------------------- */

static const struct writer nowhere = { NULL, NULL };

static struct writer writer_of(const struct buffer *buffer)
{
	return (struct writer){ buffer->data + buffer->used, buffer->data + buffer->room };
}

/* Adds what was written to the buffer. Returns false, and changes nothing, if it did not fit. */
static bool keep(struct buffer *buffer, struct writer at)
{
	if (!at.to)
		return false;
	buffer->used = (size_t)(at.to - buffer->data);
	return true;
}

static inline bool fits(struct writer at, size_t bytes)
{
	return (size_t)(at.end - at.to) >= bytes && at.to;
}

static inline struct writer put(struct writer at, const char *text, size_t length)
{
	if (!fits(at, length))
		return nowhere;
	memcpy(at.to, text, length);
	at.to += length;
	return at;
}

static inline struct writer put_char(struct writer at, char c)
{
	if (!fits(at, 1))
		return nowhere;
	*at.to++ = c;
	return at;
}

/* As put(), for a constant text, which is mostly short, and has SLACK bytes after it. */
static inline struct writer put_own(struct writer at, const char *text, size_t length)
{
	if (length > SLACK || !fits(at, SLACK))
		return put(at, text, length);
	memcpy(at.to, text, SLACK);
	at.to += length;
	return at;
}

/* These write without a check, and return the end; the caller has checked the space. */

static const char pairs[] = "0001020304050607080910111213141516171819202122232425262728293031323334353637383940"
			    "4142434445464748495051525354555657585960616263646566676869707172737475767778798081"
			    "828384858687888990919293949596979899";

static char *digits_to(char *to, uint64_t value, int count)
{
	for (int at = count; at >= 2; at -= 2, value /= 100)
		memcpy(to + at - 2, pairs + value % 100 * 2, 2);
	if (count % 2)
		*to = (char)('0' + value % 10);
	return to + count;
}

static char *number_to(char *to, uint64_t value)
{
	int count = 1;
	for (uint64_t rest = value; rest >= 10; rest /= 100)
		count += rest >= 100 ? 2 : 1;
	return digits_to(to, value, count);
}

static struct writer put_unsigned(struct writer at, uint64_t value)
{
	if (!fits(at, NUMBER_MAX))
		return nowhere;
	at.to = number_to(at.to, value);
	return at;
}

static struct writer put_signed(struct writer at, int64_t value)
{
	if (value < 0)
		at = put_char(at, '-');
	return put_unsigned(at, value < 0 ? -(uint64_t)value : (uint64_t)value);
}

/* Writes a decimal number: the units, a point, and `count` digits of the fraction. */
static struct writer put_fixed(struct writer at, uint64_t value, uint64_t unit, int count)
{
	if (!fits(at, MOMENT_MAX))
		return nowhere;
	at.to = number_to(at.to, value / unit);
	*at.to++ = '.';
	at.to = digits_to(at.to, value % unit, count);
	return at;
}

static struct writer put_digits(struct writer at, uint64_t value, int count)
{
	if (!fits(at, (size_t)count))
		return nowhere;
	at.to = digits_to(at.to, value, count);
	return at;
}

/* Whether eight characters need no escape in JSON: 0x20 to 0x7E without `"` and `\`. */
static bool plain(uint64_t eight)
{
	const uint64_t ones = ~0ull / 255, highs = ones << 7;
	uint64_t quote = eight ^ ones * '"', slash = eight ^ ones * '\\', del = eight ^ ones * 0x7F;
	/* the high bit of a byte is set if the byte was less than what was subtracted */
	return !((eight | (eight - ones * ' ') | (quote - ones) | (slash - ones) | (del - ones)) & highs);
}

/* The length of the UTF-8 character that begins here; 0 if it is not valid, -1 if it is cut off. */
static int utf8(const unsigned char *text, size_t length)
{
	unsigned char first = text[0], least = 0x80, most = 0xBF;
	int size;
	if (first < 0x80)
		return 1;
	if (first < 0xC2 || first > 0xF4)
		return 0;
	size = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
	if (first == 0xE0)
		least = 0xA0; /* otherwise it is an overlong form */
	if (first == 0xED)
		most = 0x9F; /* surrogates */
	if (first == 0xF0)
		least = 0x90;
	if (first == 0xF4)
		most = 0x8F;
	for (int at = 1; at < size; at++) {
		if ((size_t)at >= length)
			return -1;
		if (text[at] < least || text[at] > most)
			return 0;
		least = 0x80;
		most = 0xBF;
	}
	return size;
}

/* Whether a terminal may act on a character of two or three bytes: C1 controls, bidirectional
 * controls, line and paragraph separators. */
static bool is_active(const unsigned char *c, int size)
{
	if (size == 2)
		return (c[0] == 0xC2 && c[1] < 0xA0) || (c[0] == 0xD8 && c[1] == 0x9C);
	if (size != 3 || c[0] != 0xE2)
		return false;
	if (c[1] == 0x80)
		return c[2] == 0x8E || c[2] == 0x8F || (c[2] >= 0xA8 && c[2] <= 0xAE);
	return c[1] == 0x81 && c[2] >= 0xA6 && c[2] <= 0xA9;
}

static char *escape_to(char *to, uint32_t code)
{
	static const char hex[] = "0123456789abcdef";
	memcpy(to, "\\u", 2);
	for (int at = 0; at < 4; at++)
		to[2 + at] = hex[code >> (12 - 4 * at) & 15];
	return to + 6;
}

/*
 * Writes a JSON string. Each byte that is not UTF-8 becomes U+FFFD, and `exact` becomes false. An
 * incomplete character at the end of truncated content is left out.
 */
static struct writer put_text(struct writer into, const unsigned char *text, size_t length, bool truncated, bool *exact)
{
	static const char shorts[] = "btn\0fr"; /* from \x08 on */
	char *to = into.to;
	*exact = true;
	if (!fits(into, 6 * length + 2)) /* a byte becomes at most six */
		return nowhere;
	*to++ = '"';
	for (size_t at = 0; at < length;) {
		uint64_t eight;
		if (length - at >= sizeof(eight)) {
			memcpy(&eight, text + at, sizeof(eight));
			if (plain(eight)) {
				memcpy(to, &eight, sizeof(eight));
				to += sizeof(eight);
				at += sizeof(eight);
				continue;
			}
		}
		unsigned char c = text[at];
		if (c >= 0x20 && c < 0x7F) {
			if (c == '"' || c == '\\')
				*to++ = '\\';
			*to++ = (char)c;
			at++;
			continue;
		}
		if (c < 0x80) {
			if (c >= 8 && c < 14 && shorts[c - 8]) {
				*to++ = '\\';
				*to++ = shorts[c - 8];
			} else {
				to = escape_to(to, c);
			}
			at++;
			continue;
		}
		int size = utf8(text + at, length - at);
		if (size > 0 && is_active(text + at, size)) {
			uint32_t code = size == 2 ? (c & 0x1Fu) << 6 | (text[at + 1] & 0x3Fu)
						  : (c & 0x0Fu) << 12 | (text[at + 1] & 0x3Fu) << 6 |
							    (text[at + 2] & 0x3Fu);
			to = escape_to(to, code);
			at += (size_t)size;
		} else if (size > 0) {
			memcpy(to, text + at, (size_t)size);
			to += size;
			at += (size_t)size;
		} else if (size < 0 && truncated && *exact) {
			break;
		} else {
			memcpy(to, "\xEF\xBF\xBD", 3);
			to += 3;
			*exact = false;
			at++;
		}
	}
	*to++ = '"';
	return (struct writer){ to, into.end };
}

static struct writer put_base64(struct writer into, const unsigned char *data, size_t length)
{
	static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	char *to = into.to;
	if (!fits(into, (length + 2) / 3 * 4 + 2))
		return nowhere;
	*to++ = '"';
	for (size_t at = 0; at < length; at += 3) {
		size_t left = length - at;
		uint32_t bits = (uint32_t)data[at] << 16 | (left > 1 ? (uint32_t)data[at + 1] << 8 : 0) |
				(left > 2 ? data[at + 2] : 0);
		*to++ = set[bits >> 18];
		*to++ = set[bits >> 12 & 63];
		*to++ = left > 1 ? set[bits >> 6 & 63] : '=';
		*to++ = left > 2 ? set[bits & 63] : '=';
	}
	*to++ = '"';
	return (struct writer){ to, into.end };
}

static struct writer put_group(struct writer at, uint32_t value)
{
	static const char hex[] = "0123456789abcdef";
	int shift = value > 0xFFF ? 12 : value > 0xFF ? 8 : value > 0xF ? 4 : 0;
	for (; shift >= 0; shift -= 4)
		at = put_char(at, hex[value >> shift & 15]);
	return at;
}

static uint32_t big_endian(const unsigned char *two)
{
	return (uint32_t)two[0] << 8 | two[1];
}

/* As in RFC 5952, but an IPv4-mapped address is written in hexadecimal, too. */
static struct writer put_ipv6(struct writer to, const unsigned char *address)
{
	int first = 8, most = 1; /* the longest run of zeros, and the first of them, becomes `::` */
	for (int at = 0; at < 8; at++) {
		int run = 0;
		while (at + run < 8 && !big_endian(address + 2 * (at + run)))
			run++;
		if (run > most) {
			first = at;
			most = run;
		}
	}
	for (int at = 0; at < 8; at++) {
		if (at == first) {
			to = put(to, "::", 2);
			at += most - 1;
			continue;
		}
		if (at && at != first + most)
			to = put_char(to, ':');
		to = put_group(to, big_endian(address + 2 * at));
	}
	return to;
}

/* The text of a struct sockaddr: `192.0.2.7:80`, `[2001:db8::1]:443`, `unix:/run/x.sock`, `family:16`. */
static struct writer put_address(struct writer to, const unsigned char *data, size_t size)
{
	uint16_t family;
	if (size < sizeof(family))
		return put(to, "family:none", 11);
	memcpy(&family, data, sizeof(family));
	if (family == AF_INET && size >= 8) {
		for (int at = 4; at < 8; at++)
			to = put_char(put_unsigned(to, data[at]), at < 7 ? '.' : ':');
		return put_unsigned(to, big_endian(data + 2));
	}
	if (family == AF_INET6 && size >= 24) {
		to = put(put_ipv6(put_char(to, '['), data + 8), "]:", 2);
		return put_unsigned(to, big_endian(data + 2));
	}
	if (family != AF_UNIX)
		return put_unsigned(put(to, "family:", 7), family);
	const char *path = (const char *)data + sizeof(family);
	size_t length = size - sizeof(family);
	to = put(to, "unix:", 5);
	if (length && !*path) /* an abstract one: NULs are part of it */
		return put(put_char(to, '@'), path + 1, length - 1);
	return put(to, path, strnlen(path, length));
}

/* Writes seconds since 1970 as "2026-11-23T08:34:52.". */
static void set_utc(struct qmond_encoder *encoder, int64_t second)
{
	int64_t days = second / 86400, rest = second % 86400;
	if (rest < 0) {
		rest += 86400;
		days--;
	}
	/* eras of 400 years from 0000-03-01: Howard Hinnant, chrono-compatible low-level date algorithms */
	days += 719468;
	int64_t era = (days >= 0 ? days : days - 146096) / 146097;
	uint32_t day = (uint32_t)(days - era * 146097);
	uint32_t of_era = (day - day / 1460 + day / 36524 - day / 146096) / 365;
	day -= 365 * of_era + of_era / 4 - of_era / 100;
	uint32_t month = (5 * day + 2) / 153;
	day -= (153 * month + 2) / 5 - 1;
	month = month < 10 ? month + 3 : month - 9;
	int64_t year = of_era + era * 400 + (month <= 2);
	char *to = encoder->utc;
	to = digits_to(to, (uint64_t)year % 10000, 4);
	*to++ = '-';
	to = digits_to(to, month, 2);
	*to++ = '-';
	to = digits_to(to, day, 2);
	*to++ = 'T';
	to = digits_to(to, (uint64_t)rest / 3600, 2);
	*to++ = ':';
	to = digits_to(to, (uint64_t)rest / 60 % 60, 2);
	*to++ = ':';
	to = digits_to(to, (uint64_t)rest % 60, 2);
	*to = '.';
	encoder->second = second;
}

/* ---- processes ----------------------------------------------------------------------------- */

void qmond_forget(struct qmond_encoder *encoder, uint32_t pid);

static struct process *slot_of(const struct qmond_encoder *encoder, uint32_t pid)
{
	uint32_t at = pid * 2654435761u;
	for (;; at++) {
		struct process *slot = &encoder->processes[at & (encoder->process_room - 1)];
		if (!slot->text || slot->pid == pid)
			return slot;
	}
}

static bool grow(struct qmond_encoder *encoder)
{
	struct process *before = encoder->processes;
	uint32_t room = encoder->process_room;
	struct process *after = room < 1u << 30 ? calloc((size_t)room * 2, sizeof(*after)) : NULL;
	if (!after)
		return false;
	encoder->processes = after;
	encoder->process_room = room * 2;
	for (uint32_t at = 0; at < room; at++)
		if (before[at].text)
			*slot_of(encoder, before[at].pid) = before[at];
	free(before);
	return true;
}

static void forget_all(struct qmond_encoder *encoder)
{
	for (uint32_t at = 0; at < encoder->process_room; at++) {
		free(encoder->processes[at].text);
		encoder->processes[at].text = NULL;
	}
	encoder->process_count = 0;
	encoder->process_bytes = 0;
}

static size_t bytes_of(const struct process *process)
{
	return (size_t)process->bin + process->suffix + SLACK;
}

/*
 * Enters the constant parts of the lines of a process. Returns false if there is no memory. If the
 * texts of all processes are too large together, all others are forgotten, and asked for again.
 */
bool qmond_enter(struct qmond_encoder *encoder, uint32_t pid, const char *bin, uint32_t bin_length,
		 const char *suffix, uint32_t suffix_length, bool withheld)
{
	struct process entered = { pid, bin_length, suffix_length, withheld, NULL };
	if (encoder->process_bytes + bytes_of(&entered) > PROCESSES_MAX)
		forget_all(encoder);
	if (encoder->process_count >= encoder->process_room / 2 && !grow(encoder))
		return false;
	entered.text = calloc(1, bytes_of(&entered));
	if (!entered.text)
		return false;
	struct writer at = { entered.text, entered.text + bin_length + suffix_length };
	put(put(at, bin, bin_length), suffix, suffix_length);
	qmond_forget(encoder, pid);
	*slot_of(encoder, pid) = entered;
	encoder->process_count++;
	encoder->process_bytes += bytes_of(&entered);
	return true;
}

void qmond_forget(struct qmond_encoder *encoder, uint32_t pid)
{
	uint32_t mask = encoder->process_room - 1;
	struct process *slot = slot_of(encoder, pid);
	if (!slot->text)
		return;
	encoder->process_bytes -= bytes_of(slot);
	encoder->process_count--;
	free(slot->text);
	slot->text = NULL;
	/* the entries after this slot may belong into it: they are entered again */
	for (uint32_t at = (uint32_t)(slot - encoder->processes) + 1; encoder->processes[at & mask].text; at++) {
		struct process moved = encoder->processes[at & mask];
		encoder->processes[at & mask].text = NULL;
		*slot_of(encoder, moved.pid) = moved;
	}
}

/* Sets whether texts of a process are left out from here on. Does nothing if it is not entered. */
void qmond_withhold(struct qmond_encoder *encoder, uint32_t pid, bool withheld)
{
	struct process *slot = slot_of(encoder, pid);
	if (slot->text)
		slot->withheld = withheld;
}

/* ---- lines --------------------------------------------------------------------------------- */

static uint64_t number_at(const struct qmon_record *record, uint8_t at, uint8_t size)
{
	const unsigned char *from = (const unsigned char *)record + at;
	uint16_t two;
	uint32_t four;
	uint64_t eight;
	switch (size) {
	case 2: memcpy(&two, from, 2); return two;
	case 4: memcpy(&four, from, 4); return four;
	default: memcpy(&eight, from, 8); return eight;
	}
}

static int64_t signed_at(const struct qmon_record *record, uint8_t at, uint8_t size)
{
	uint64_t value = number_at(record, at, size);
	return size == 4 ? (int32_t)value : size == 2 ? (int16_t)value : (int64_t)value;
}

static const struct qmond_name *name_of(const struct qmond_name *rows, uint32_t count, int64_t number)
{
	uint32_t low = 1, high = count; /* the first row is the default */
	while (low < high) {
		uint32_t middle = (low + high) / 2;
		if (rows[middle].number == number)
			return &rows[middle];
		if (rows[middle].number < number)
			low = middle + 1;
		else
			high = middle;
	}
	return &rows[0];
}

/* Makes the text of a socket address, which stays until the next one's; returns its length. */
static size_t make_address(struct qmond_encoder *encoder, const unsigned char *data, size_t size)
{
	struct buffer text = { encoder->address, 0, sizeof(encoder->address) };
	keep(&text, put_address(writer_of(&text), data, size < ADDRESS_MAX ? size : ADDRESS_MAX));
	return text.used;
}

static struct writer put_line(struct writer to, struct qmond_encoder *encoder, const struct qmond_event *event,
			      const struct qmon_record *record, const unsigned char *data, size_t size,
			      const struct process *process)
{
	uint64_t us = record->ts / 1000;
	uint32_t flags = (record->flags & ~(uint32_t)FLAG_WITHHELD) | (process->withheld ? FLAG_WITHHELD : 0);
	bool exact = true;
	for (uint32_t at = 0; at < event->ops; at++) {
		const struct qmond_op *op = &encoder->ops[event->first_op + at];
		switch (op->kind) {
		case OP_LITERAL:
			to = put_own(to, encoder->texts + op->text, op->length);
			break;
		case OP_MOMENT:
			to = put_fixed(to, us > encoder->epoch_us ? us - encoder->epoch_us : 0, 1000000, 6);
			break;
		case OP_UTC: {
			int64_t wall = (int64_t)(record->ts + (uint64_t)encoder->offset_ns);
			int64_t second = wall / 1000000000;
			if (wall < second * 1000000000)
				second--;
			if (second != encoder->second)
				set_utc(encoder, second);
			to = put(to, encoder->utc, sizeof(encoder->utc));
			to = put_digits(to, (uint64_t)(wall - second * 1000000000) / 1000, 6);
			break;
		}
		case OP_SEQ:
			to = put_unsigned(to, encoder->seq);
			break;
		case OP_UNSIGNED:
			to = put_unsigned(to, number_at(record, op->at, op->size));
			break;
		case OP_SIGNED:
			to = put_signed(to, signed_at(record, op->at, op->size));
			break;
		case OP_OTHER:
			if (number_at(record, op->at, op->size) != record->pid) {
				to = put_own(to, encoder->texts + op->text, op->length);
				to = put_unsigned(to, number_at(record, op->at, op->size));
			}
			break;
		case OP_BIT:
			to = put_char(to, (char)('0' + (number_at(record, op->at, op->size) >> (op->bit & 63) & 1)));
			break;
		case OP_TICKS:
			to = put_fixed(to, number_at(record, op->at, op->size) / 10000000, 100, 2);
			break;
		case OP_NAME: {
			const struct qmond_name *rows = encoder->names + op->text;
			const struct qmond_name *name =
				name_of(rows, op->length, signed_at(record, op->at, op->size));
			to = put_own(to, encoder->texts + name->text, name->length);
			break;
		}
		case OP_FLAG:
			if (flags >> (op->bit & 31) & 1)
				to = put_own(to, encoder->texts + op->text, op->length);
			break;
		case OP_TEXT:
			to = flags & FLAG_WITHHELD ? put(to, "\"\"", 2)
						   : put_text(to, data, size, flags & FLAG_TRUNCATED, &exact);
			break;
		case OP_ADDRESS:
			size = make_address(encoder, data, size);
			data = (const unsigned char *)encoder->address;
			to = put_text(to, data, size, false, &exact);
			break;
		case OP_EXACT:
			if (!exact) {
				to = put_own(to, encoder->texts + op->text, op->length);
				to = put_base64(to, data, size);
			}
			break;
		case OP_BIN:
			to = put_own(to, process->text, process->bin);
			break;
		case OP_SUFFIX:
			to = put_own(to, process->text + process->bin, process->suffix);
			break;
		}
	}
	return to;
}

static void note_line(struct qmond_encoder *encoder, size_t begin, uint32_t event, uint32_t pid, uint32_t other)
{
	encoder->lines[encoder->line_count++] = (struct qmond_line){
		(uint32_t)begin, event, pid, other, (uint32_t)encoder->raw.used, 0,
	};
	encoder->seq++;
}

/* Adds a line that the caller made. Returns false if there is no space. */
bool qmond_append(struct qmond_encoder *encoder, const char *line, size_t length, uint32_t event, uint32_t pid,
		  uint32_t other)
{
	size_t begin = encoder->out.used;
	if (encoder->line_count == encoder->line_room || event >= EVENTS_MAX)
		return false;
	if (!keep(&encoder->out, put(writer_of(&encoder->out), line, length)))
		return false;
	note_line(encoder, begin, event, pid, other);
	return true;
}

/* Adds the line of a record, and keeps the text that a guest chose, for redaction. Returns false, and
 * changes nothing, if there is no space. */
static bool add_line(struct qmond_encoder *encoder, const struct qmond_event *event,
		     const struct qmon_record *record, const unsigned char *data, size_t size,
		     const struct process *process)
{
	size_t begin = encoder->out.used, raw_begin = encoder->raw.used;
	bool keeps = encoder->keep_raw && event->has_text && size && !process->withheld;
	uint32_t other = record->pid;
	if (encoder->line_count == encoder->line_room)
		return false;
	if (event->other_size)
		other = (uint32_t)number_at(record, event->other_at, event->other_size);
	if (keeps && !keep(&encoder->raw, put_char(put(writer_of(&encoder->raw), (const char *)data, size), '\n')))
		return false;
	if (!keep(&encoder->out, put_line(writer_of(&encoder->out), encoder, event, record, data, size, process))) {
		encoder->raw.used = raw_begin;
		return false;
	}
	note_line(encoder, begin, record->event, record->pid, other);
	encoder->lines[encoder->line_count - 1].raw = (uint32_t)raw_begin;
	encoder->lines[encoder->line_count - 1].raw_size = keeps ? (uint32_t)size : 0;
	return true;
}

/*
 * Moves records from the ring into the batch, until the ring is empty (QMOND_EMPTY) or the batch is
 * full (QMOND_FULL). Other results ask the caller to do something, and to call again:
 * QMOND_RECORD: handle `record`; then it is encoded, if its event is to be.
 * QMOND_PROCESS: enter the process of `record`.
 * QMOND_BEYOND: map the ring further on.
 * QMOND_UNFIT: the line of `record` is too long for any batch, and was left out.
 */
int qmond_encode(struct qmond_encoder *encoder, struct qmond_ring *ring)
{
	uint64_t at = *ring->consumed;
	uint64_t end = __atomic_load_n(ring->produced, __ATOMIC_ACQUIRE);
	int result = QMOND_EMPTY;
	while (at < end) {
		uint64_t start = at - ring->origin;
		if (start > ring->size || ring->size - start < RING_HEADER) {
			result = QMOND_BEYOND;
			break;
		}
		uint32_t length = __atomic_load_n((const uint32_t *)(ring->data + start), __ATOMIC_ACQUIRE);
		if (length & RING_BUSY)
			break;
		bool discarded = length & RING_DISCARD;
		length &= ~RING_DISCARD;
		uint64_t next = at + (((uint64_t)length + RING_HEADER + 7) & ~7ull);
		if (next > end)
			break; /* not a record of the kernel's */
		if (ring->size - start < next - at) {
			result = QMOND_BEYOND;
			break;
		}
		if (discarded || length < sizeof(struct qmon_record))
			goto done;

		const unsigned char *bytes = ring->data + start + RING_HEADER;
		struct qmon_record record;
		memcpy(&record, bytes, sizeof(record));
		if (record.event >= encoder->event_count)
			goto done;
		const struct qmond_event *event = &encoder->events[record.event];
		encoder->record = bytes;
		encoder->record_size = length;
		if (event->how != HOW_ENCODE && !encoder->shown) {
			encoder->shown = true;
			result = QMOND_RECORD;
			break;
		}
		if (event->how == HOW_HANDLE || !(record.flags & FLAG_COUNTED))
			goto done;
		const struct process *process = slot_of(encoder, record.pid);
		if (!process->text) {
			result = QMOND_PROCESS;
			break;
		}
		if (!add_line(encoder, event, &record, bytes + sizeof(record), length - sizeof(record), process)) {
			result = encoder->line_count ? QMOND_FULL : QMOND_UNFIT;
			if (result == QMOND_FULL)
				break;
		}
done:
		encoder->shown = false;
		at = next;
		if (result == QMOND_UNFIT)
			break;
	}
	__atomic_store_n(ring->consumed, at, __ATOMIC_RELEASE);
	return result;
}

/* Begins a new batch. */
void qmond_clear(struct qmond_encoder *encoder)
{
	encoder->out.used = 0;
	encoder->out.room = encoder->batch;
	encoder->line_count = 0;
	encoder->raw.used = 0;
}

/* Replaces the lines of the batch. Returns false if their number differs, or they are too long. */
bool qmond_replace(struct qmond_encoder *encoder, const char *lines, size_t size)
{
	size_t at = 0;
	for (uint32_t line = 0; line < encoder->line_count; line++) {
		const char *end = at < size ? memchr(lines + at, '\n', size - at) : NULL;
		if (!end)
			return false;
		at = (size_t)(end - lines) + 1;
	}
	if (at != size || size > 2 * encoder->batch)
		return false;
	encoder->out.room = 2 * encoder->batch; /* the allocated size */
	encoder->out.used = 0;
	keep(&encoder->out, put(writer_of(&encoder->out), lines, size));
	at = 0;
	for (uint32_t line = 0; line < encoder->line_count; line++) {
		encoder->lines[line].offset = (uint32_t)at;
		at = (size_t)((const char *)memchr(lines + at, '\n', size - at) - lines) + 1;
	}
	return true;
}

/* Counts the lines of each event; `counts` has EVENTS_MAX elements. */
void qmond_count(const struct qmond_encoder *encoder, uint64_t *counts)
{
	memset(counts, 0, EVENTS_MAX * sizeof(*counts));
	for (uint32_t at = 0; at < encoder->line_count; at++)
		counts[encoder->lines[at].event]++;
}

/* Counts the lines of each process, and returns the number of processes. Both arrays have an element
 * for each line. */
uint32_t qmond_tally(struct qmond_encoder *encoder, uint32_t *pids, uint32_t *counts)
{
	uint32_t found = 0, mask = encoder->tally_room - 1;
	memset(encoder->tally, 0, encoder->tally_room * sizeof(*encoder->tally));
	for (uint32_t line = 0; line < encoder->line_count; line++) {
		uint32_t pid = encoder->lines[line].pid, at = pid * 2654435761u & mask;
		while (encoder->tally[at] && pids[encoder->tally[at] - 1] != pid)
			at = (at + 1) & mask;
		if (!encoder->tally[at]) {
			pids[found] = pid;
			counts[found] = 0;
			encoder->tally[at] = ++found;
		}
		counts[encoder->tally[at] - 1]++;
	}
	return found;
}

static bool is_among(const uint32_t *pids, size_t count, uint32_t pid)
{
	size_t low = 0, high = count;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (pids[middle] == pid)
			return true;
		if (pids[middle] < pid)
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

/*
 * Copies the lines whose event is in `mask`, and, if `pids` is not NULL, one of whose processes is in
 * that sorted array, as far as there is space. Returns the number of bytes; `chosen` is that of lines.
 */
size_t qmond_select(const struct qmond_encoder *encoder, uint64_t mask, const uint32_t *pids, size_t count, char *to,
		    size_t room, uint32_t *chosen)
{
	struct writer at_end = { to, to + room };
	*chosen = 0;
	for (uint32_t at = 0; at < encoder->line_count; at++) {
		const struct qmond_line *line = &encoder->lines[at];
		if (!(mask >> line->event & 1))
			continue;
		if (pids && !is_among(pids, count, line->pid) && !is_among(pids, count, line->other))
			continue;
		size_t end = at + 1 < encoder->line_count ? encoder->lines[at + 1].offset : encoder->out.used;
		struct writer after = put(at_end, encoder->out.data + line->offset, end - line->offset);
		if (!after.to)
			break;
		at_end = after;
		++*chosen;
	}
	return (size_t)(at_end.to - to);
}

/* ---- creation and destruction -------------------------------------------------------------- */

void qmond_free(struct qmond_encoder *encoder)
{
	if (!encoder)
		return;
	if (encoder->processes)
		forget_all(encoder);
	free(encoder->processes);
	free(encoder->ops);
	free(encoder->names);
	free(encoder->texts);
	free(encoder->out.data);
	free(encoder->lines);
	free(encoder->raw.data);
	free(encoder->tally);
	free(encoder);
}

/* Copies rows, with SLACK bytes after them. Returns NULL if there is no memory. */
static void *copy(const void *from, size_t count, size_t size)
{
	size_t bytes;
	if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX - SLACK)
		return NULL;
	char *to = calloc(1, bytes + SLACK);
	return to && bytes ? memcpy(to, from, bytes) : to;
}

/* Whether `count` rows from `first` on are within `all` rows. */
static bool are_within(uint64_t first, uint64_t count, uint64_t all)
{
	return first <= all && count <= all - first;
}

/* Whether an op code is valid, and refers to nothing outside of a record or the tables. */
static bool is_right(const struct qmond_encoder *encoder, const struct qmond_op *op, size_t name_count, size_t text_size)
{
	bool numeric = op->kind >= OP_UNSIGNED && op->kind <= OP_NAME;
	if (op->kind > OP_SUFFIX || op->at + op->size > sizeof(struct qmon_record))
		return false;
	if (numeric && op->size != 2 && op->size != 4 && op->size != 8)
		return false;
	if (op->kind != OP_NAME)
		return are_within(op->text, op->length, text_size);
	if (!op->length || !are_within(op->text, op->length, name_count))
		return false;
	for (uint32_t row = 0; row < op->length; row++) {
		const struct qmond_name *name = &encoder->names[op->text + row];
		if (!are_within(name->text, name->length, text_size))
			return false;
	}
	return true;
}

/* Returns NULL if there is no memory, or the tables are not valid; `batch` is in bytes. */
struct qmond_encoder *qmond_new(const struct qmond_event *events, uint32_t event_count, const struct qmond_op *ops,
				size_t op_count, const struct qmond_name *names, size_t name_count, const char *texts,
				size_t text_size, size_t batch)
{
	struct qmond_encoder *encoder = calloc(1, sizeof(*encoder));
	if (!encoder || event_count > EVENTS_MAX || batch < 64 || batch > UINT32_MAX / 4)
		goto fail;
	if (event_count)
		memcpy(encoder->events, events, event_count * sizeof(*events));
	encoder->event_count = event_count;
	encoder->process_room = 64;
	encoder->batch = batch;
	encoder->line_room = (uint32_t)(batch / 64);
	for (encoder->tally_room = 2; encoder->tally_room < 2 * encoder->line_room;)
		encoder->tally_room *= 2;
	encoder->second = INT64_MIN;
	encoder->ops = copy(ops, op_count, sizeof(*ops));
	encoder->names = copy(names, name_count, sizeof(*names));
	encoder->texts = copy(texts, text_size, 1);
	encoder->processes = calloc(encoder->process_room, sizeof(*encoder->processes));
	encoder->out = (struct buffer){ malloc(2 * batch), 0, batch };
	encoder->raw = (struct buffer){ malloc(batch), 0, batch };
	encoder->lines = calloc(encoder->line_room, sizeof(*encoder->lines));
	encoder->tally = calloc(encoder->tally_room, sizeof(*encoder->tally));
	if (!encoder->ops || !encoder->names || !encoder->texts || !encoder->processes || !encoder->out.data ||
	    !encoder->raw.data || !encoder->lines || !encoder->tally)
		goto fail;
	for (uint32_t at = 0; at < event_count; at++) {
		struct qmond_event *event = &encoder->events[at];
		if (event->other_size && event->other_size != 4 && event->other_size != 8)
			goto fail;
		if (event->other_at + event->other_size > sizeof(struct qmon_record))
			goto fail;
		if (!are_within(event->first_op, event->ops, op_count))
			goto fail;
		event->has_text = false;
		for (uint32_t op = event->first_op; op < event->first_op + event->ops; op++) {
			if (!is_right(encoder, &encoder->ops[op], name_count, text_size))
				goto fail;
			event->has_text |= encoder->ops[op].kind == OP_TEXT;
		}
	}
	return encoder;
fail:
	qmond_free(encoder);
	return NULL;
}
