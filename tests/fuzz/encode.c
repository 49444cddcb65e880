/*
 * Feeds the encoder rings full of nonsense, under AddressSanitizer and UndefinedBehaviorSanitizer.
 * The tables come from a file that the test wrote; the test puts encode.c and its preamble in front.
 *
 *     fuzz TABLES ROUNDS SEED
 */
#include <assert.h>
#include <stdio.h>

static uint64_t state;

static uint64_t number(void)
{
	state ^= state << 13; /* xorshift: Marsaglia, 2003 */
	state ^= state >> 7;
	return state ^= state << 17;
}

static void *load(FILE *file, uint64_t *count, size_t size)
{
	assert(fread(count, sizeof(*count), 1, file) == 1);
	void *rows = malloc(*count * size + 1);
	assert(fread(rows, size, *count, file) == *count);
	return rows;
}

int main(int count, char **words)
{
	enum { SIZE = 1 << 13, ROOM = 1 << 14 };
	assert(count == 4);
	FILE *file = fopen(words[1], "rb");
	assert(file);
	uint64_t event_count, op_count, name_count, text_size;
	struct qmond_event *events = load(file, &event_count, sizeof(*events));
	struct qmond_op *ops = load(file, &op_count, sizeof(*ops));
	struct qmond_name *names = load(file, &name_count, sizeof(*names));
	char *texts = load(file, &text_size, 1);
	fclose(file);
	struct qmond_encoder *encoder =
		qmond_new(events, event_count, ops, op_count, names, name_count, texts, text_size, ROOM);
	assert(encoder);
	encoder->offset_ns = 1700000000000000000;
	state = strtoull(words[3], NULL, 10) * 2 + 1;
	uint64_t lines = 0;
	for (long round = strtol(words[2], NULL, 10); round > 0; round--) {
		/* the window alone in its allocation, so that a byte beyond it is found */
		uint64_t size = number() % 4 ? SIZE : number() % SIZE;
		unsigned char *data = malloc(size);
		uint64_t origin = number() % 1000 * 8, consumed = origin + number() % 100 * 8, produced = consumed;
		struct qmond_ring ring = { &consumed, &produced, data, origin, size };
		for (size_t at = 0; at < size; at++)
			data[at] = number();
		while (produced - consumed < SIZE / 2) {
			struct qmon_record record;
			for (size_t at = 0; at < sizeof(record); at += 8) {
				uint64_t noise = number();
				memcpy((char *)&record + at, &noise, 8);
			}
			record.event = number() % (event_count + 2);
			record.pid = number() % 50;
			record.flags |= number() % 8 ? FLAG_COUNTED : 0;
			uint32_t length = number() % 16 ? sizeof(record) + number() % 300 : (uint32_t)number() % 2000;
			uint32_t header = number() % 64 ? length : (uint32_t)number();
			for (uint32_t at = 0; at < 8 + length; at++) {
				unsigned char byte = at < 4	      ? ((unsigned char *)&header)[at]
						     : at < 8	      ? 0
						     : at < 8 + sizeof(record) ? ((unsigned char *)&record)[at - 8]
						     : number() % 4   ? "ab\"\\\n\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80"[number() % 14]
								      : number();
				if (produced - origin + at < size)
					data[produced - origin + at] = byte;
			}
			produced += (length + 8 + 7) & ~7u;
		}
		for (int turn = 0; turn < 1000; turn++) {
			int result = qmond_encode(encoder, &ring);
			assert(encoder->used <= ROOM);
			if (result == QMOND_BEYOND) {
				break; /* there is no more than this */
			} else if (result == QMOND_PROCESS) {
				uint32_t pid;
				memcpy(&pid, encoder->record + 8, 4);
				char text[64];
				memset(text, 'x', sizeof(text));
				assert(qmond_enter(encoder, pid, text, number() % 30, text, number() % 64));
			} else if (result == QMOND_EMPTY && number() % 8) {
				break; /* the batch goes on with the next ring */
			} else if (result == QMOND_FULL || result == QMOND_EMPTY) {
				bool never = !encoder->line_count; /* the line is longer than this batch can be */
				uint32_t pids[] = { 3, 17, 40 }, chosen, tally[ROOM / 64], counts[ROOM / 64];
				uint64_t by_event[EVENTS_MAX];
				char *out = malloc(encoder->used + 1);
				qmond_select(encoder, number(), number() % 2 ? pids : NULL, 3, out, &chosen);
				qmond_tally(encoder, tally, counts);
				qmond_count(encoder, by_event);
				free(out);
				lines += encoder->line_count;
				qmond_clear(encoder);
				if (result == QMOND_EMPTY || never)
					break;
			} else if (number() % 4 == 0) {
				qmond_forget(encoder, number() % 50);
			}
		}
		free(data);
	}
	qmond_free(encoder);
	free(events);
	free(ops);
	free(names);
	free(texts);
	printf("%llu\n", (unsigned long long)lines);
	return 0;
}
