/*
 * Drives every function of the encoder in any order, under AddressSanitizer and
 * UndefinedBehaviorSanitizer. What is done comes from bytes: a file of the corpus, one of them
 * changed at random, or random bytes. The tables come from a file that the test wrote; the test
 * puts encoder.c and its preamble in front.
 *
 *     fuzz TABLES SECONDS SEED CORPUS...
 *
 * It prints how many inputs and lines there were. On a finding the input stays in the file `last`.
 */
#include <assert.h>
#include <stdio.h>
#include <time.h>

enum { INPUT_MAX = 1 << 14, RING_SIZE = 1 << 14, BATCH_MAX = 1 << 15, PIDS = 40 };

struct input {
	const unsigned char *bytes;
	size_t size;
	size_t at;
};

struct tables {
	struct qmond_event *events;
	struct qmond_op *ops;
	struct qmond_name *names;
	char *texts;
	uint64_t event_count, op_count, name_count, text_size;
};

static uint64_t state;
static uint64_t lines;

static uint64_t chance(void)
{
	state ^= state << 13; /* xorshift: Marsaglia, 2003 */
	state ^= state >> 7;
	return state ^= state << 17;
}

/* ---- bytes of the input: beyond its end they are 0 ---------------------------------------------- */

static bool is_over(const struct input *input)
{
	return input->at >= input->size;
}

static uint64_t take(struct input *input, int bytes)
{
	uint64_t value = 0;
	while (bytes-- > 0)
		value = value << 8 | (is_over(input) ? 0 : input->bytes[input->at++]);
	return value;
}

static uint64_t below(struct input *input, uint64_t limit)
{
	return take(input, limit > 256 ? 4 : 1) % limit;
}

/* A text of its own, alone in its allocation, so that a byte beyond it is found. */
static char *text_of(struct input *input, size_t size)
{
	static const char *words[] = { "a", "\"", "\\", "\n", "\x7F", "\xC2\x9B", "\xE2\x80\xAE", "\xC3\xA9",
				       "\xF0\x9F\x98\x80", "\xE2\x82", "\xFF", "password=x" };
	char *text = malloc(size + !size);
	for (size_t at = 0; at < size;) {
		const char *word = words[below(input, sizeof(words) / sizeof(*words))];
		size_t length = strlen(word) < size - at ? strlen(word) : size - at;
		size_t times = below(input, 32) + 1;
		for (; times && at + length <= size; times--, at += length)
			memcpy(text + at, word, length);
	}
	return text;
}

/* Has a text begin as a socket address does, of a family and with a NUL that a record's numbers choose. */
static void begin_as_address(char *text, size_t size, uint64_t choice)
{
	static const uint16_t families[] = { AF_UNIX, AF_INET, AF_INET6, AF_NETLINK };
	if (size < sizeof(*families))
		return;
	memcpy(text, &families[choice % 4], sizeof(*families));
	if (choice / 4 % 4 && size > sizeof(*families))
		memset(text + 2 + choice / 16 % (size - 2), 0, 1);
	if (choice / 4 % 4 == 1)
		memset(text + 2, 0, size > 20 ? 18 : size - 2);
}

/* ---- what can be done --------------------------------------------------------------------------- */

/* A ring with records of any kind, its window anywhere, its last header of any length. */
static void drain(struct qmond_encoder *encoder, struct input *input, const struct tables *tables)
{
	size_t size = below(input, 4) ? RING_SIZE : below(input, RING_SIZE);
	unsigned char *data = calloc(1, size + !size);
	uint64_t origin = take(input, below(input, 2) ? 8 : 1) & ~7ull;
	uint64_t consumed = origin + below(input, 8) * 8, produced = consumed;
	struct qmond_ring ring = { &consumed, &produced, data, origin, size };
	for (uint64_t left = below(input, 32); left && !is_over(input); left--) {
		struct qmon_record record = {
			.ts = take(input, 8), .pid = (uint32_t)below(input, PIDS), .tid = (uint32_t)take(input, 2),
			.event = (uint16_t)below(input, tables->event_count + 2), .call = (uint16_t)take(input, 1),
			.flags = (uint32_t)take(input, 1) | FLAG_COUNTED, .a = take(input, 8), .b = take(input, 8),
		};
		uint32_t length = (uint32_t)below(input, 64) == 0 ? (uint32_t)take(input, 4)
								  : (uint32_t)(sizeof(record) + below(input, 1500));
		if (record.call % 4 == 1 && length < 1600) /* about as long as an address is, and no gap behind it */
			length = (uint32_t)sizeof(record) + length % 20 * 8;
		uint32_t header = length | (below(input, 16) ? 0 : RING_DISCARD) | (below(input, 32) ? 0 : RING_BUSY);
		size_t text_size = length > sizeof(record) && length < RING_SIZE ? length - sizeof(record) : 0;
		char *text = text_of(input, text_size);
		if (record.call % 2)
			begin_as_address(text, text_size, record.a);
		uint64_t start = produced - origin;
		for (size_t at = 0; at < 8 + sizeof(record) + text_size && start + at < size; at++)
			data[start + at] = at < 4	? ((unsigned char *)&header)[at]
					   : at < 8	? 0
					   : at < 8 + sizeof(record) ? ((unsigned char *)&record)[at - 8]
								     : (unsigned char)text[at - 8 - sizeof(record)];
		free(text);
		produced += ((uint64_t)(length & ~(RING_BUSY | RING_DISCARD)) + 8 + 7) & ~7ull;
		if (produced - origin > 2 * RING_SIZE)
			break;
	}
	if (origin / 8 % 2 && produced - origin < size) { /* the last one ends where its allocation does */
		ring.size = produced - origin;
		ring.data = data = realloc(data, ring.size + !ring.size);
	}
	for (int turn = 0; turn < 200; turn++) {
		int result = qmond_encode(encoder, &ring);
		if (result == QMOND_PROCESS) {
			uint32_t pid;
			memcpy(&pid, encoder->record + 8, 4);
			uint32_t bin = (uint32_t)below(input, 40), suffix = (uint32_t)below(input, 300);
			char *one = text_of(input, bin), *other = text_of(input, suffix);
			assert(qmond_enter(encoder, pid, one, bin, other, suffix, below(input, 8) == 0));
			free(one);
			free(other);
		} else if (result != QMOND_RECORD && result != QMOND_UNFIT) {
			break;
		}
	}
	free(data);
}

static void replace(struct qmond_encoder *encoder, struct input *input)
{
	size_t room = 0, used = 0, kind = below(input, 4);
	char *text = malloc(4 * BATCH_MAX);
	for (uint32_t line = 0; line < encoder->line_count; line++) {
		size_t length = kind == 0 ? 1 : below(input, kind == 1 ? 100 : 4000);
		if (used + length + 1 > 4 * BATCH_MAX - 1)
			length = 0;
		memset(text + used, 'x', length);
		used += length;
		if (kind != 3 || below(input, 64))
			text[used++] = '\n';
		if (used > 4 * BATCH_MAX - 4096)
			break;
	}
	room = used; /* alone in its allocation */
	char *exact = malloc(room + !room);
	memcpy(exact, text, room);
	free(text);
	qmond_replace(encoder, exact, room);
	free(exact);
}

static void look(struct qmond_encoder *encoder, struct input *input)
{
	uint32_t pids[4], chosen, count = (uint32_t)below(input, 5);
	for (uint32_t at = 0; at < count; at++)
		pids[at] = at ? pids[at - 1] + (uint32_t)below(input, 9) : (uint32_t)below(input, 9);
	size_t room = below(input, 4) ? 3 * BATCH_MAX : below(input, 2000);
	char *out = malloc(room + !room);
	size_t size = qmond_select(encoder, take(input, 8), count ? pids : NULL, count, out, room, &chosen);
	assert(size <= room && chosen <= encoder->line_count);
	free(out);
	uint64_t counts[EVENTS_MAX], sum = 0;
	qmond_count(encoder, counts);
	for (int at = 0; at < EVENTS_MAX; at++)
		sum += counts[at];
	assert(sum == encoder->line_count);
	uint32_t *found = calloc(encoder->line_count + 1, sizeof(*found));
	uint32_t *each = calloc(encoder->line_count + 1, sizeof(*each));
	uint32_t processes = qmond_tally(encoder, found, each);
	for (sum = 0; processes; processes--)
		sum += each[processes - 1];
	assert(sum == encoder->line_count);
	free(found);
	free(each);
}

/* Does what an input says, to an encoder of its own. */
static void run(const unsigned char *bytes, size_t size, const struct tables *tables)
{
	struct input input = { bytes, size, 0 };
	size_t batch = 64 + below(&input, BATCH_MAX - 64);
	struct qmond_encoder *encoder = qmond_new(tables->events, (uint32_t)tables->event_count, tables->ops,
						  tables->op_count, tables->names, tables->name_count, tables->texts,
						  tables->text_size, batch);
	assert(encoder);
	encoder->keep_raw = true;
	while (!is_over(&input)) {
		uint32_t pid = (uint32_t)below(&input, PIDS);
		switch (below(&input, 12)) {
		default: drain(encoder, &input, tables); break;
		case 0: lines += encoder->line_count; qmond_clear(encoder); break;
		case 1: replace(encoder, &input); break;
		case 2: look(encoder, &input); break;
		case 3: qmond_forget(encoder, pid); break;
		case 4: qmond_withhold(encoder, pid, below(&input, 2)); break;
		case 5: {
			size_t length = below(&input, below(&input, 8) ? 300 : 2 * BATCH_MAX);
			char *line = malloc(length + 1);
			memset(line, 'y', length);
			line[length] = '\n';
			qmond_append(encoder, line, length + 1, (uint32_t)below(&input, EVENTS_MAX + 2), pid, pid);
			free(line);
			break;
		}
		case 6:
			encoder->keep_raw = below(&input, 4);
			encoder->offset_ns = (int64_t)take(&input, 8);
			encoder->epoch_us = take(&input, 8);
			encoder->seq = take(&input, 8);
			break;
		}
	}
	lines += encoder->line_count;
	qmond_free(encoder);
}

/* ---- inputs --------------------------------------------------------------------------------- */

static void *load(FILE *file, uint64_t *count, size_t size)
{
	assert(fread(count, sizeof(*count), 1, file) == 1);
	void *rows = malloc(*count * size + 1);
	assert(fread(rows, size, *count, file) == *count);
	return rows;
}

static void note(const unsigned char *bytes, size_t size)
{
	FILE *file = fopen("last", "wb");
	assert(file && fwrite(bytes, 1, size, file) == size);
	fclose(file);
}

int main(int count, char **words)
{
	assert(count >= 4);
	struct tables tables;
	FILE *file = fopen(words[1], "rb");
	assert(file);
	tables.events = load(file, &tables.event_count, sizeof(*tables.events));
	tables.ops = load(file, &tables.op_count, sizeof(*tables.ops));
	tables.names = load(file, &tables.name_count, sizeof(*tables.names));
	tables.texts = load(file, &tables.text_size, 1);
	fclose(file);
	state = strtoull(words[3], NULL, 10) * 2 + 1;
	time_t end = time(NULL) + strtol(words[2], NULL, 10);
	uint64_t inputs = 0;
	static unsigned char bytes[INPUT_MAX];
	for (; inputs < (uint64_t)(count - 4) || time(NULL) < end; inputs++) {
		size_t size = 0;
		int at = inputs < (uint64_t)(count - 4) ? (int)inputs + 4
			 : count > 4 && chance() % 2	? (int)(chance() % (uint64_t)(count - 4)) + 4
							: 0;
		if (at) {
			file = fopen(words[at], "rb");
			assert(file);
			size = fread(bytes, 1, sizeof(bytes), file);
			fclose(file);
		} else {
			size = chance() % INPUT_MAX;
			for (size_t to = 0; to < size; to++)
				bytes[to] = (unsigned char)chance();
		}
		if (inputs >= (uint64_t)(count - 4))
			for (uint64_t changes = chance() % 20; size && changes; changes--)
				bytes[chance() % size] = (unsigned char)chance();
		note(bytes, size);
		run(bytes, size, &tables);
	}
	free(tables.events);
	free(tables.ops);
	free(tables.names);
	free(tables.texts);
	remove("last");
	printf("%llu %llu\n", (unsigned long long)inputs, (unsigned long long)lines);
	return 0;
}
