/*
 * Reads shared memory full of nonsense, or of frames with a few bytes changed, under AddressSanitizer
 * and UndefinedBehaviorSanitizer; the test puts encoder.c, broadcast.c and their preamble in front.
 *
 *     fuzz ROUNDS SEED
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

static uint64_t taken, selected;

/* Takes what there is, a few times, with the frame alone in its allocation. */
static void take(const struct qmond_share *share, uint64_t size, uint64_t cursor)
{
	for (int times = 0; times < 20; times++) {
		unsigned char *to = malloc(size / SHARE_PART);
		int found = qmond_share_take(share, size, &cursor, to);
		if (found == SHARE_FRAME) {
			struct qmond_frame frame;
			memcpy(&frame, to, sizeof(frame));
			char *out = malloc(frame.text);
			uint32_t pids[] = { 1, 2, 5 };
			uint64_t chosen, all = qmond_frame_select(to, UINT64_MAX, NULL, 0, out, &chosen);
			assert(all == frame.text && chosen == frame.lines);
			selected += qmond_frame_select(to, number(), pids, 3, out, &chosen);
			taken++;
			free(out);
		}
		free(to);
		if (found != SHARE_FRAME)
			return;
	}
}

int main(int count, char **words)
{
	enum { SIZE = 4096 };
	assert(count == 3);
	state = strtoull(words[2], NULL, 10) * 2 + 1;
	for (long round = strtol(words[1], NULL, 10); round > 0; round--) {
		struct qmond_share *share = malloc(SHARE_DATA + SIZE);
		unsigned char *data = (unsigned char *)share + SHARE_DATA;
		memset(share, 0, SHARE_DATA);
		for (int at = 0; at < SIZE; at++)
			data[at] = number();
		uint64_t begin = number() % 3 ? number() % 100000 * 8 : number() & ~7ull, first = begin;
		share->head = share->reserved = begin;
		for (int batch = number() % 12; batch > 0; batch--) {
			struct qmond_line lines[20] = { 0 };
			char text[2000];
			uint32_t used = 0, rows = 1 + number() % 20;
			for (uint32_t row = 0; row < rows; row++) {
				lines[row].offset = used;
				lines[row].event = number() % 64;
				lines[row].pid = number() % 6;
				uint32_t length = number() % 90;
				memset(text + used, 'x', length);
				used += length;
				text[used++] = '\n';
			}
			struct qmond_place place = { 1, 2, 3 };
			if (number() % 4 == 0)
				first = share->head;
			qmond_share_put(share, SIZE, lines, rows, text, used, number(), &place, &place);
			qmond_share_tell(share, number(), &place);
		}
		for (int harm = number() % 2 ? number() % 8 : 0; harm > 0; harm--)
			data[number() % SIZE] = number();
		for (int harm = number() % 8 ? 0 : 8; harm > 0; harm--)
			((unsigned char *)share)[number() % sizeof(*share)] = number();
		struct qmond_state where;
		qmond_share_state(share, &where);
		take(share, SIZE, first);
		take(share, SIZE, number() % 2 ? where.head : number());
		free(share);
	}
	printf("%llu\n", (unsigned long long)taken);
	return 0;
}
