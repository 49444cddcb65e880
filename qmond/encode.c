/* SPDX-License-Identifier: MIT */
/*
 * Records to lines of JSON, as fast as they come. It knows no event: what a line is made of it is
 * told as op codes, compiled from the table by encode.py. In front of this file stand, generated,
 * struct qmon_record and the numbers OP_… and HOW_….
 *
 * It reads nothing outside a record, whatever the record says, and writes nothing outside the
 * buffer: before a record is begun, there is room for the longest line that can come of it.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EVENTS_MAX 64
#define RING_HEADER 8
#define RING_BUSY 0x80000000u
#define RING_DISCARD 0x40000000u
#define SLACK 32 /* bytes of room behind the texts and the buffer, for copies of a fixed size */

struct qmond_op {
	uint8_t kind;
	uint8_t at; /* where in the record the number is, and its size in bytes */
	uint8_t size;
	uint8_t bit;
	uint32_t text; /* of a literal: where in the texts; of a name: its first row, the default */
	uint32_t length; /* of a literal: bytes; of a name: rows */
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
	uint8_t other_at; /* the second process of the event, if its size is not 0 */
	uint8_t other_size;
	/* counted here: what a line can have beyond its literals */
	uint8_t texts;
	uint8_t exacts;
	uint8_t bins;
	uint8_t suffixes;
	uint32_t fixed;
};

struct qmond_line {
	uint32_t offset;
	uint32_t event;
	uint32_t pid;
	uint32_t other;
	uint32_t raw; /* where the text is that a guest chose, as it was, and its size */
	uint32_t raw_size;
};

struct process {
	uint32_t pid;
	uint32_t bin;
	uint32_t suffix;
	char *text; /* both, one after the other; NULL where the slot is free */
};

struct qmond_encoder {
	struct qmond_event events[EVENTS_MAX];
	uint32_t event_count;
	struct qmond_op *ops;
	struct qmond_name *names;
	char *texts;

	struct process *processes; /* open addressing; a power of two */
	uint32_t process_room;
	uint32_t process_count;

	char *out;
	size_t room;
	size_t used;
	struct qmond_line *lines;
	uint32_t line_room;
	uint32_t line_count;
	char *raw; /* the texts that guests chose, each with a newline behind it */
	size_t raw_used;
	bool keep_raw;

	uint64_t seq; /* of the next line */
	uint64_t epoch_us; /* what ts counts from */
	int64_t offset_ns; /* from the monotonic to the wall clock */
	int64_t second; /* that `utc` is the text of */
	char utc[20];

	bool shown; /* the ring's next record has been the caller's, and is to be encoded now */
	const unsigned char *record; /* the one that the caller is asked about */
	size_t record_size;
};

struct qmond_ring {
	uint64_t *consumed;
	const uint64_t *produced;
	const unsigned char *data; /* what is in the ring from the position `origin` on */
	uint64_t origin;
	uint64_t size; /* of that, in bytes */
};

enum { QMOND_EMPTY, QMOND_FULL, QMOND_RECORD, QMOND_PROCESS, QMOND_BEYOND };

/* ---- numbers and text ---------------------------------------------------------------------- */

static char *put_unsigned(char *to, uint64_t value)
{
	static const char pairs[] = "0001020304050607080910111213141516171819202122232425262728293031323334353637383940"
				    "4142434445464748495051525354555657585960616263646566676869707172737475767778798081"
				    "828384858687888990919293949596979899";
	char digits[20];
	int at = sizeof(digits);
	for (; value >= 100; value /= 100)
		memcpy(digits + (at -= 2), pairs + value % 100 * 2, 2);
	if (value >= 10)
		memcpy(digits + (at -= 2), pairs + value * 2, 2);
	else
		digits[--at] = '0' + value;
	memcpy(to, digits + at, sizeof(digits) - at);
	return to + sizeof(digits) - at;
}

static char *put_signed(char *to, int64_t value)
{
	if (value >= 0)
		return put_unsigned(to, value);
	*to++ = '-';
	return put_unsigned(to, -(uint64_t)value);
}

static char *put_digits(char *to, uint32_t value, int count)
{
	for (int at = count - 1; at >= 0; at--, value /= 10)
		to[at] = '0' + value % 10;
	return to + count;
}

static char *put(char *to, const char *text, size_t length)
{
	memcpy(to, text, length);
	return to + length;
}

/* The same for one of our own texts, mostly a short one: there is SLACK behind it, and behind `to`. */
static char *put_own(char *to, const char *text, size_t length)
{
	memcpy(to, text, SLACK);
	if (length > SLACK)
		memcpy(to + SLACK, text + SLACK, length - SLACK);
	return to + length;
}

/* Whether each of eight characters stands in JSON as it is: 0x20 to 0x7F without `"` and `\`. */
static bool plain(uint64_t eight)
{
	const uint64_t ones = ~0ull / 255, highs = ones << 7;
	uint64_t quote = eight ^ ones * '"', slash = eight ^ ones * '\\';
	/* a byte's high bit is set where the byte was less than what was taken away */
	return !((eight | (eight - ones * ' ') | (quote - ones) | (slash - ones)) & highs);
}

/* How many bytes the character is that begins here: 0 where it is none, -1 where it is cut off. */
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
		least = 0xA0; /* or it would be longer than it needs to be */
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

/* A JSON string; each byte that is no UTF-8 becomes U+FFFD, and `exact` false. */
static char *put_text(char *to, const unsigned char *text, size_t length, bool truncated, bool *exact)
{
	static const char hex[] = "0123456789abcdef", shorts[] = "btn\0fr"; /* from \x08 on */
	*exact = true;
	*to++ = '"';
	for (size_t at = 0; at < length;) {
		uint64_t eight;
		if (length - at >= sizeof(eight)) {
			memcpy(&eight, text + at, sizeof(eight));
			if (plain(eight)) {
				to = put(to, (const char *)&eight, sizeof(eight));
				at += sizeof(eight);
				continue;
			}
		}
		unsigned char c = text[at];
		if (c >= 0x20 && c < 0x80) {
			if (c == '"' || c == '\\')
				*to++ = '\\';
			*to++ = c;
			at++;
			continue;
		}
		if (c < 0x20) {
			*to++ = '\\';
			if (c >= 8 && c < 14 && shorts[c - 8]) {
				*to++ = shorts[c - 8];
			} else {
				to = put(to, "u00", 3);
				*to++ = hex[c >> 4];
				*to++ = hex[c & 15];
			}
			at++;
			continue;
		}
		int size = utf8(text + at, length - at);
		if (size > 0) {
			to = put(to, (const char *)text + at, size);
			at += size;
		} else if (size < 0 && truncated && *exact) {
			break; /* a character that the end of the capture cut in two */
		} else {
			to = put(to, "\xEF\xBF\xBD", 3);
			*exact = false;
			at++;
		}
	}
	*to++ = '"';
	return to;
}

static char *put_base64(char *to, const unsigned char *data, size_t length)
{
	static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	for (size_t at = 0; at < length; at += 3) {
		size_t left = length - at;
		uint32_t bits = data[at] << 16 | (left > 1 ? data[at + 1] << 8 : 0) | (left > 2 ? data[at + 2] : 0);
		*to++ = set[bits >> 18];
		*to++ = set[bits >> 12 & 63];
		*to++ = left > 1 ? set[bits >> 6 & 63] : '=';
		*to++ = left > 2 ? set[bits & 63] : '=';
	}
	return to;
}

/* "2026-11-23T08:34:52." of seconds since 1970, by the civil calendar. */
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
	uint32_t day = days - era * 146097;
	uint32_t year = (day - day / 1460 + day / 36524 - day / 146096) / 365;
	day -= 365 * year + year / 4 - year / 100;
	uint32_t month = (5 * day + 2) / 153;
	day -= (153 * month + 2) / 5 - 1;
	month = month < 10 ? month + 3 : month - 9;
	year += era * 400 + (month <= 2);
	char *to = encoder->utc;
	to = put_digits(to, year, 4);
	*to++ = '-';
	to = put_digits(to, month, 2);
	*to++ = '-';
	to = put_digits(to, day, 2);
	*to++ = 'T';
	to = put_digits(to, rest / 3600, 2);
	*to++ = ':';
	to = put_digits(to, rest / 60 % 60, 2);
	*to++ = ':';
	to = put_digits(to, rest % 60, 2);
	*to = '.';
	encoder->second = second;
}

/* ---- processes ----------------------------------------------------------------------------- */

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
	struct process *after = calloc(room * 2, sizeof(*after));
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

/* Enters a process' constant parts of a line; false where there is no memory. */
bool qmond_enter(struct qmond_encoder *encoder, uint32_t pid, const char *bin, uint32_t bin_length,
		 const char *suffix, uint32_t suffix_length)
{
	if (encoder->process_count * 2 >= encoder->process_room && !grow(encoder))
		return false;
	char *text = malloc((size_t)bin_length + suffix_length + SLACK);
	if (!text)
		return false;
	struct process *slot = slot_of(encoder, pid);
	if (slot->text)
		free(slot->text);
	else
		encoder->process_count++;
	put(put(text, bin, bin_length), suffix, suffix_length);
	*slot = (struct process){ pid, bin_length, suffix_length, text };
	return true;
}

void qmond_forget(struct qmond_encoder *encoder, uint32_t pid)
{
	uint32_t mask = encoder->process_room - 1;
	struct process *slot = slot_of(encoder, pid);
	if (!slot->text)
		return;
	free(slot->text);
	slot->text = NULL;
	encoder->process_count--;
	/* whoever went past this slot on the way to its own is entered again */
	for (uint32_t at = slot - encoder->processes + 1; encoder->processes[at & mask].text; at++) {
		struct process moved = encoder->processes[at & mask];
		encoder->processes[at & mask].text = NULL;
		*slot_of(encoder, moved.pid) = moved;
	}
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
	uint32_t low = 1, high = count; /* the first row is for all that have none */
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

static size_t most_of(const struct qmond_event *event, const struct process *process, size_t size)
{
	return event->fixed + 6 * size * event->texts + 2 * size * event->exacts +
	       (size_t)process->bin * event->bins + (size_t)process->suffix * event->suffixes;
}

static char *put_line(struct qmond_encoder *encoder, char *to, const struct qmond_event *event,
		      const struct qmon_record *record, size_t size, const struct process *process)
{
	const unsigned char *data = (const unsigned char *)(record + 1);
	uint64_t us = record->ts / 1000;
	bool exact = true, truncated = record->flags & FLAG_TRUNCATED;
	for (uint32_t at = 0; at < event->ops; at++) {
		const struct qmond_op *op = &encoder->ops[event->first_op + at];
		switch (op->kind) {
		case OP_LITERAL:
			to = put_own(to, encoder->texts + op->text, op->length);
			break;
		case OP_MOMENT: {
			uint64_t since = us > encoder->epoch_us ? us - encoder->epoch_us : 0;
			to = put_unsigned(to, since / 1000000);
			*to++ = '.';
			to = put_digits(to, since % 1000000, 6);
			break;
		}
		case OP_UTC: {
			int64_t wall = record->ts + encoder->offset_ns, second = wall / 1000000000;
			if (wall < second * 1000000000)
				second--;
			if (second != encoder->second)
				set_utc(encoder, second);
			to = put(to, encoder->utc, sizeof(encoder->utc));
			to = put_digits(to, (wall - second * 1000000000) / 1000, 6);
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
		case OP_BIT:
			*to++ = '0' + (number_at(record, op->at, op->size) >> op->bit & 1);
			break;
		case OP_TICKS: {
			uint64_t ticks = number_at(record, op->at, op->size) / 10000000;
			to = put_unsigned(to, ticks / 100);
			*to++ = '.';
			to = put_digits(to, ticks % 100, 2);
			break;
		}
		case OP_NAME: {
			const struct qmond_name *rows = encoder->names + op->text;
			const struct qmond_name *name =
				name_of(rows, op->length, signed_at(record, op->at, op->size));
			to = put_own(to, encoder->texts + name->text, name->length);
			break;
		}
		case OP_FLAG:
			if (record->flags >> op->bit & 1)
				to = put_own(to, encoder->texts + op->text, op->length);
			break;
		case OP_TEXT: {
			bool any;
			to = put_text(to, data, size, false, &any);
			break;
		}
		case OP_CONTENT:
			to = put_text(to, data, size, truncated, &exact);
			break;
		case OP_EXACT:
			if (!exact) {
				to = put_own(to, encoder->texts + op->text, op->length);
				*to++ = '"';
				to = put_base64(to, data, size);
				*to++ = '"';
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

static void note_line(struct qmond_encoder *encoder, uint32_t event, uint32_t pid, uint32_t other)
{
	encoder->lines[encoder->line_count++] =
		(struct qmond_line){ (uint32_t)encoder->used, event, pid, other, (uint32_t)encoder->raw_used, 0 };
	encoder->seq++;
}

/* Keeps what a guest chose, for who looks for secrets in it; a line is longer than that. */
static void keep_raw(struct qmond_encoder *encoder, const char *data, size_t size)
{
	encoder->lines[encoder->line_count - 1].raw_size = size;
	char *to = put(encoder->raw + encoder->raw_used, data, size);
	*to++ = '\n';
	encoder->raw_used = to - encoder->raw;
}

/* Adds a line that somebody else made; false where there is no room. */
bool qmond_append(struct qmond_encoder *encoder, const char *line, size_t length, uint32_t event, uint32_t pid,
		  uint32_t other)
{
	if (encoder->line_count == encoder->line_room || encoder->room - encoder->used < length)
		return false;
	note_line(encoder, event, pid, other);
	put(encoder->out + encoder->used, line, length);
	encoder->used += length;
	return true;
}

/*
 * Moves records from the ring into the batch until the ring is empty or the batch is full. Where
 * it returns QMOND_RECORD, the caller has to do with `record`, and calls again: it is encoded
 * then if its event says so. QMOND_PROCESS asks for that of the record's process to be entered,
 * QMOND_BEYOND for `data` to begin further on.
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
			break; /* no record of the kernel's */
		if (ring->size - start < next - at) {
			result = QMOND_BEYOND;
			break;
		}
		if (discarded || length < sizeof(struct qmon_record))
			goto done;

		const unsigned char *bytes = ring->data + start + RING_HEADER;
		const struct qmon_record *record = (const void *)bytes;
		if (record->event >= encoder->event_count)
			goto done;
		const struct qmond_event *event = &encoder->events[record->event];
		encoder->record = bytes;
		encoder->record_size = length;
		if (event->how != HOW_ENCODE && !encoder->shown) {
			encoder->shown = true;
			result = QMOND_RECORD;
			break;
		}
		if (event->how == HOW_TELL || !(record->flags & FLAG_COUNTED))
			goto done;
		const struct process *process = slot_of(encoder, record->pid);
		if (!process->text) {
			result = QMOND_PROCESS;
			break;
		}
		size_t size = length - sizeof(*record);
		if (encoder->line_count == encoder->line_room ||
		    encoder->room - encoder->used < most_of(event, process, size)) {
			result = QMOND_FULL;
			break;
		}
		uint32_t other = event->other_size ? number_at(record, event->other_at, event->other_size) : record->pid;
		char *to = encoder->out + encoder->used;
		char *stop = put_line(encoder, to, event, record, size, process);
		note_line(encoder, record->event, record->pid, other);
		encoder->used += stop - to;
		if (encoder->keep_raw && event->texts && size)
			keep_raw(encoder, (const char *)(record + 1), size);
done:
		encoder->shown = false;
		at = next;
	}
	__atomic_store_n(ring->consumed, at, __ATOMIC_RELEASE);
	return result;
}

/* Begins a new batch. */
void qmond_clear(struct qmond_encoder *encoder)
{
	encoder->used = 0;
	encoder->line_count = 0;
	encoder->raw_used = 0;
}

/* Puts other lines in place of those of the batch, as many; false where there is no memory. */
bool qmond_replace(struct qmond_encoder *encoder, const char *lines, size_t size)
{
	if (size > encoder->room) {
		char *out = realloc(encoder->out, size + SLACK);
		if (!out)
			return false;
		encoder->out = out;
		encoder->room = size;
	}
	memcpy(encoder->out, lines, size);
	encoder->used = size;
	const char *line = encoder->out;
	for (uint32_t at = 0; at < encoder->line_count; at++) {
		encoder->lines[at].offset = line - encoder->out;
		const char *end = memchr(line, '\n', encoder->out + size - line);
		line = end ? end + 1 : encoder->out + size;
	}
	return true;
}

/* How many lines there are of each event; `counts` has EVENTS_MAX of them. */
void qmond_count(const struct qmond_encoder *encoder, uint64_t *counts)
{
	memset(counts, 0, EVENTS_MAX * sizeof(*counts));
	for (uint32_t at = 0; at < encoder->line_count; at++)
		counts[encoder->lines[at].event]++;
}

/* Finds how many lines there are of each process; both arrays have room for as many as lines. */
uint32_t qmond_tally(const struct qmond_encoder *encoder, uint32_t *pids, uint32_t *counts)
{
	uint32_t found = 0, which = 0;
	for (uint32_t at = 0; at < encoder->line_count; at++) {
		uint32_t pid = encoder->lines[at].pid;
		if (which >= found || pids[which] != pid)
			for (which = 0; which < found && pids[which] != pid; which++)
				;
		if (which == found) {
			pids[found] = pid;
			counts[found++] = 0;
		}
		counts[which]++;
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
 * Copies the lines whose event's bit is in the mask and, where `pids` is not NULL, one of
 * whose processes is among them, in ascending order. Returns how many bytes; `chosen` how many lines.
 */
size_t qmond_select(const struct qmond_encoder *encoder, uint64_t mask, const uint32_t *pids, size_t count, char *to,
		    uint32_t *chosen)
{
	char *begin = to;
	*chosen = 0;
	for (uint32_t at = 0; at < encoder->line_count; at++) {
		const struct qmond_line *line = &encoder->lines[at];
		if (!(mask >> line->event & 1))
			continue;
		if (pids && !is_among(pids, count, line->pid) && !is_among(pids, count, line->other))
			continue;
		size_t end = at + 1 < encoder->line_count ? encoder->lines[at + 1].offset : encoder->used;
		to = put(to, encoder->out + line->offset, end - line->offset);
		++*chosen;
	}
	return to - begin;
}

/* ---- life ---------------------------------------------------------------------------------- */

void qmond_free(struct qmond_encoder *encoder)
{
	if (!encoder)
		return;
	for (uint32_t at = 0; encoder->processes && at < encoder->process_room; at++)
		free(encoder->processes[at].text);
	free(encoder->processes);
	free(encoder->ops);
	free(encoder->names);
	free(encoder->texts);
	free(encoder->out);
	free(encoder->lines);
	free(encoder->raw);
	free(encoder);
}

static void *copy(const void *from, size_t size)
{
	void *to = calloc(1, size + SLACK);
	return to ? memcpy(to, from, size) : NULL;
}

/* Counts what a line of the event can have at most; false where an op code is none. */
static bool measure(struct qmond_encoder *encoder, struct qmond_event *event)
{
	event->fixed = 0;
	if (event->other_size && event->other_size != 4 && event->other_size != 8)
		return false;
	if (event->other_at + event->other_size > sizeof(struct qmon_record))
		return false;
	for (uint32_t at = 0; at < event->ops; at++) {
		const struct qmond_op *op = &encoder->ops[event->first_op + at];
		bool numeric = op->kind >= OP_UNSIGNED && op->kind <= OP_NAME;
		if (numeric && op->size != 2 && op->size != 4 && op->size != 8)
			return false;
		if (op->at + op->size > sizeof(struct qmon_record))
			return false;
		event->fixed += 32; /* the longest number or moment, or quotes */
		event->texts += op->kind == OP_TEXT || op->kind == OP_CONTENT;
		event->exacts += op->kind == OP_EXACT;
		event->bins += op->kind == OP_BIN;
		event->suffixes += op->kind == OP_SUFFIX;
		if (op->kind == OP_LITERAL || op->kind == OP_FLAG || op->kind == OP_EXACT)
			event->fixed += op->length;
		uint32_t longest = 0;
		for (uint32_t row = 0; op->kind == OP_NAME && row < op->length; row++)
			if (encoder->names[op->text + row].length > longest)
				longest = encoder->names[op->text + row].length;
		event->fixed += longest;
	}
	return true;
}

/* Returns NULL where there is no memory, or an op code is none. */
struct qmond_encoder *qmond_new(const struct qmond_event *events, uint32_t event_count, const struct qmond_op *ops,
				size_t op_count, const struct qmond_name *names, size_t name_count, const char *texts,
				size_t text_size, size_t room)
{
	struct qmond_encoder *encoder = calloc(1, sizeof(*encoder));
	if (!encoder || event_count > EVENTS_MAX)
		goto fail;
	memcpy(encoder->events, events, event_count * sizeof(*events));
	encoder->event_count = event_count;
	encoder->process_room = 64;
	encoder->room = room;
	encoder->line_room = room / 64;
	encoder->second = INT64_MIN;
	encoder->ops = copy(ops, op_count * sizeof(*ops));
	encoder->names = copy(names, name_count * sizeof(*names));
	encoder->texts = copy(texts, text_size);
	encoder->processes = calloc(encoder->process_room, sizeof(*encoder->processes));
	encoder->out = malloc(room + SLACK);
	encoder->lines = malloc(encoder->line_room * sizeof(*encoder->lines));
	encoder->raw = malloc(room);
	if (!encoder->ops || !encoder->names || !encoder->texts || !encoder->processes || !encoder->out ||
	    !encoder->lines || !encoder->raw)
		goto fail;
	for (uint32_t at = 0; at < event_count; at++)
		if (!measure(encoder, &encoder->events[at]))
			goto fail;
	return encoder;
fail:
	qmond_free(encoder);
	return NULL;
}
