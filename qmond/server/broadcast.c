/*
 * The lines of the core for the front, in memory that both have mapped: the core alone writes, and
 * never waits; the oldest is overwritten. Who reads copies a frame out and then looks whether it was
 * overwritten meanwhile. Positions count bytes from the beginning on, and never go back.
 *
 * The reader takes what it finds as if a stranger had written it: a size, a count or an offset is
 * held against what is there before it is used.
 */

struct qmond_place {
	uint64_t device, inode, offset;
};

struct qmond_state {
	uint64_t head, seq; /* where the next frame begins; the number of its first line */
	struct qmond_place end; /* of the log */
};

struct qmond_share {
	uint64_t reserved; /* the writer is at work up to here */
	uint64_t head; /* frames are whole up to here */
	uint64_t version; /* of the state; odd while it is written */
	struct qmond_state state;
};

struct qmond_frame {
	uint64_t size; /* of all of it: this, an entry for each line, the lines, up to 7 bytes */
	uint64_t first, lines, text;
	struct qmond_place before, after; /* where the log ended */
};

struct qmond_entry {
	uint32_t offset, event, pid, other;
};

enum { SHARE_NONE, SHARE_FRAME, SHARE_OVERRUN, SHARE_BROKEN };
enum { SHARE_DATA = 4096, SHARE_PART = 4, SHARE_TRIES = 10000 };

static uint64_t frame_size(uint64_t lines, uint64_t text)
{
	return (sizeof(struct qmond_frame) + lines * sizeof(struct qmond_entry) + text + 7) & ~(uint64_t)7;
}

static void share_write(unsigned char *data, uint64_t size, uint64_t at, const void *from, uint64_t count)
{
	uint64_t begin = at % size, first = size - begin < count ? size - begin : count;
	memcpy(data + begin, from, first);
	memcpy(data, (const unsigned char *)from + first, count - first);
}

static void share_read(void *to, const unsigned char *data, uint64_t size, uint64_t at, uint64_t count)
{
	uint64_t begin = at % size, first = size - begin < count ? size - begin : count;
	memcpy(to, data + begin, first);
	memcpy((unsigned char *)to + first, data, count - first);
}

/* ---- the core's end ------------------------------------------------------------------------ */

/* Says where things stand now. */
void qmond_share_tell(struct qmond_share *share, uint64_t seq, const struct qmond_place *end)
{
	uint64_t version = share->version;
	__atomic_store_n(&share->version, version + 1, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	share->state = (struct qmond_state){ share->head, seq, *end };
	__atomic_store_n(&share->version, version + 2, __ATOMIC_RELEASE);
}

/*
 * Puts lines into the `size` bytes behind the first page, in frames of at most a quarter of that. A
 * line that is longer is left out: the numbers tell it. Returns how many lines were put.
 */
uint64_t qmond_share_put(struct qmond_share *share, uint64_t size, const struct qmond_line *lines, uint64_t count,
			 const char *text, uint64_t used, uint64_t first, const struct qmond_place *before,
			 const struct qmond_place *after)
{
	unsigned char *data = (unsigned char *)share + SHARE_DATA;
	uint64_t put = 0;
	for (uint64_t at = 0, next; at < count; at = next) {
		uint64_t begin = lines[at].offset, end = begin;
		for (next = at; next < count; next++) {
			uint64_t stop = next + 1 < count ? lines[next + 1].offset : used;
			if (frame_size(next + 1 - at, stop - begin) > size / SHARE_PART)
				break;
			end = stop;
		}
		if (next == at) {
			next++;
			continue;
		}
		struct qmond_frame frame = { frame_size(next - at, end - begin), first + at, next - at, end - begin,
					     *before, *after };
		uint64_t to = share->head;
		__atomic_store_n(&share->reserved, to + frame.size, __ATOMIC_RELAXED);
		__atomic_thread_fence(__ATOMIC_RELEASE);
		share_write(data, size, to, &frame, sizeof(frame));
		for (uint64_t row = at; row < next; row++) {
			uint32_t offset = (uint32_t)(lines[row].offset - begin); /* of a batch: below 2 MiB */
			struct qmond_entry entry = { offset, lines[row].event, lines[row].pid, lines[row].other };
			share_write(data, size, to + sizeof(frame) + (row - at) * sizeof(entry), &entry, sizeof(entry));
		}
		uint64_t behind = to + sizeof(frame) + frame.lines * sizeof(struct qmond_entry);
		share_write(data, size, behind, text + begin, frame.text);
		__atomic_store_n(&share->head, to + frame.size, __ATOMIC_RELEASE);
		put += frame.lines;
	}
	return put;
}

/* ---- the front's end ----------------------------------------------------------------------- */

/* Copies where things stand; false where the writer was always at it. */
bool qmond_share_state(const struct qmond_share *share, struct qmond_state *to)
{
	for (int tries = 0; tries < SHARE_TRIES; tries++) {
		uint64_t version = __atomic_load_n(&share->version, __ATOMIC_ACQUIRE);
		*to = share->state;
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (!(version & 1) && __atomic_load_n(&share->version, __ATOMIC_RELAXED) == version)
			return true;
	}
	return false;
}

/* Whether a frame of so many bytes is what it says. */
static bool frame_holds(const unsigned char *bytes, uint64_t size)
{
	struct qmond_frame frame;
	memcpy(&frame, bytes, sizeof(frame));
	uint64_t rest = size - sizeof(frame);
	if (frame.size != size || !frame.lines || frame.lines > rest / sizeof(struct qmond_entry))
		return false;
	rest -= frame.lines * sizeof(struct qmond_entry);
	if (frame.text > rest || rest - frame.text > 7 || frame.first > UINT64_MAX - frame.lines)
		return false;
	const unsigned char *text = bytes + size - rest;
	uint64_t end = 0;
	for (uint64_t at = 0; at < frame.lines; at++) {
		struct qmond_entry entry;
		memcpy(&entry, bytes + sizeof(frame) + at * sizeof(entry), sizeof(entry));
		if (entry.event >= 64 || entry.offset >= frame.text || (at ? entry.offset <= end : entry.offset != 0))
			return false;
		if (at && text[entry.offset - 1] != '\n')
			return false;
		end = entry.offset;
	}
	return text[frame.text - 1] == '\n';
}

/*
 * Copies the frame at `cursor` to `to`, which has room for a quarter of `size`, and moves the cursor
 * behind it. SHARE_OVERRUN: it is not there any more. SHARE_BROKEN: that is no frame.
 */
int qmond_share_take(const struct qmond_share *share, uint64_t size, uint64_t *cursor, unsigned char *to)
{
	const unsigned char *data = (const unsigned char *)share + SHARE_DATA;
	uint64_t head = __atomic_load_n(&share->head, __ATOMIC_ACQUIRE), at = *cursor, length = 0;
	if (head == at)
		return SHARE_NONE;
	if (head < at)
		return SHARE_BROKEN;
	if (head - at > size)
		return SHARE_OVERRUN;
	share_read(&length, data, size, at, sizeof(length));
	bool fits = length >= sizeof(struct qmond_frame) && length <= head - at && length <= size / SHARE_PART;
	if (fits)
		share_read(to, data, size, at, length);
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (__atomic_load_n(&share->reserved, __ATOMIC_RELAXED) - at > size)
		return SHARE_OVERRUN;
	if (!fits || !frame_holds(to, length))
		return SHARE_BROKEN;
	*cursor = at + length;
	return SHARE_FRAME;
}

/*
 * Copies of a frame that was taken the lines whose event's bit is in the mask and, where `pids` is
 * not NULL, one of whose processes is among them, in ascending order. Returns how many bytes.
 */
uint64_t qmond_frame_select(const unsigned char *bytes, uint64_t mask, const uint32_t *pids, uint64_t count, char *to,
			    uint64_t *chosen)
{
	struct qmond_frame frame;
	memcpy(&frame, bytes, sizeof(frame));
	const struct qmond_entry *entries = (const struct qmond_entry *)(bytes + sizeof(frame));
	const char *text = (const char *)(entries + frame.lines);
	char *begin = to;
	*chosen = 0;
	for (uint64_t at = 0; at < frame.lines; at++) {
		const struct qmond_entry *entry = &entries[at];
		if (!(mask >> entry->event & 1))
			continue;
		if (pids && !is_among(pids, count, entry->pid) && !is_among(pids, count, entry->other))
			continue;
		uint64_t end = at + 1 < frame.lines ? entries[at + 1].offset : frame.text;
		memcpy(to, text + entry->offset, end - entry->offset);
		to += end - entry->offset;
		++*chosen;
	}
	return (uint64_t)(to - begin);
}
