/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The kernel side of qmond. It decides which processes are watched, and writes a record of each of
 * their events to a ring buffer. BCC compiles it. The structs and the numbers EVENT_, HANDLER_ and
 * FLAG_ are in a generated header in front of this file. The numbers OFFSET_ are from the running
 * kernel's BTF.
 */
#define always __attribute__((always_inline)) inline

#define CLONE_THREAD 0x00010000
#define EEXIST 17
#define SIGNAL_GROUP_EXIT 0x00000004
#define PATH_SIZE 4096
#define NAME_SIZE 256
#define SECOND 1000000000ULL
#define PARTS_AT_ONCE 64 /* parts of a vector in one run of the program, before it calls itself */
#define STEPS_AT_ONCE 512 /* the same for messages and their parts */
#define LATE_SLOTS 4096
#define LATE_MAX 4096
#define ROWS_MAX 8192
#define CGROUP_DEPTH 16
#define CGROUP_SIZE (CGROUP_DEPTH * NAME_SIZE)
#define CWD_STEPS 48 /* names and mounts */
#define CWD_SIZE 1024
#define RING_SIZE ((u64)RING_PAGES * PAGE_SIZE)
#define GREED 8 /* a tree may hold so many times the free space of the ring */
#define USER_GREED 32 /* the same for all trees of a user together */
#define USERS 4096
#define VECTOR_MAX 1024 /* UIO_MAXIOV: the most messages in one call */
#define SIGINFO_PID 12 /* offset of siginfo_t.si_pid in bytes: asm-generic/siginfo.h */

/*
 * The kernel's helpers by names of our own: where BCC meets a call by the usual name, it reads the
 * whole of /proc/kallsyms to see whether the kernel has them, which takes a second. Since 5.5 all do.
 */
static long (*read_user)(void *to, u32 size, const void *from) = (void *)BPF_FUNC_probe_read_user;
static long (*read_user_str)(void *to, u32 size, const void *from) =
	(void *)BPF_FUNC_probe_read_user_str;

struct task_struct;
struct linux_binprm;

/*
 * Two bytes for each possible process ID: 0 if it is not watched. Otherwise an ORIGIN_ number, and
 * from bit TREE_SHIFT on the number of its process tree. The daemon maps this array, and writes to
 * it, too.
 */
BPF_F_TABLE("array", u32, u64, tracked, PID_LIMIT / 4, BPF_F_MMAPABLE);
BPF_ARRAY(settings, struct qmon_settings, 1);
BPF_ARRAY(calls, struct qmon_call, CALL_LIMIT);
BPF_PROG_ARRAY(handlers, HANDLER_COUNT);
BPF_PERCPU_ARRAY(counters, struct qmon_counter, EVENT_COUNT);
BPF_PERCPU_HASH(statistics, struct qmon_statistic_key, struct qmon_statistic, ROWS_MAX);
/* sums of processes without a row there, for this interval and the last: by its lowest bit */
BPF_PERCPU_ARRAY(others, struct qmon_statistic, 2);
/* token buckets by process and event, for events with a limit */
BPF_HASH(buckets, struct qmon_bucket_key, struct qmon_bucket, 16384);
/*
 * What a process tree uses of shared resources, and what all trees of a user use together, because a
 * user can start any number of trees. The number of a tree is random, so that nobody can choose that
 * of another tree. Trees with the same number share. The same holds for users. Root is user 0, and has
 * no limit as a user.
 */
struct share {
	u64 half; /* number of the half of the ring that is being filled */
	u64 bytes[2]; /* bytes in it: of ordinary records, of starts and ends of processes */
	u64 before[2]; /* bytes in the half before */
	u64 earlier[2]; /* bytes in the half before that */
	u64 late; /* entries in `late` */
	u64 spent; /* as in a bucket, for processes of the tree without a bucket of their own */
	u32 generation; /* interval of the statistics, and the rows used in it */
	u32 rows;
	u64 user; /* of a tree: the number of its user, as seen last */
};
BPF_ARRAY(trees, struct share, TREES);
BPF_ARRAY(users, struct share, USERS);
/* by task: a call whose memory could not be read at the entry; it is read again at the exit */
struct entry {
	u64 since;
	u32 event;
	u32 call;
	u32 tree; /* tree and user to which the entry is counted */
	u32 user;
};
BPF_HASH(late, u64, struct entry, LATE_MAX); /* by task, because an exec can change the tid */
/* number of entries by some bits of the task: if it is 0, as mostly, no lookup is needed */
BPF_ARRAY(late_counts, u32, LATE_SLOTS);
/* by tid: the call that creates a process now; entries of failed calls stay behind */
BPF_TABLE("lru_hash", u32, u32, forking, 1024);
/* processes whose EXIT was sent, because the last two threads can end at the same moment */
struct identity {
	u64 start;
	u64 pid;
};
BPF_TABLE("lru_hash", struct identity, u32, ended, 1024);
/* processes with allocation probes: allocations in the second from `since` on */
BPF_HASH(probed, u32, struct qmon_hits, PROBED_MAX);
/* processes whose probes must be removed at once, without waiting behind the events */
BPF_RINGBUF_OUTPUT(urgent, URGENT_PAGES);
BPF_RINGBUF_OUTPUT(events, RING_PAGES);

/* struct iovec */
struct part {
	const void *base;
	u64 size;
};

/* struct mmsghdr, which begins with a struct msghdr */
struct message {
	u64 name[2];
	const struct part *parts;
	u64 count;
	u64 control[3];
	u64 result;
};

/*
 * The state of a walk through a vector. It is kept in memory, not in registers: the verifier then
 * does not tell the paths through a step of the loop apart. Otherwise it would exceed its limit.
 */
struct walk {
	const struct message *messages;
	u64 count; /* messages left */
	const struct part *parts;
	u64 left; /* parts left */
	u64 total; /* the most bytes to count */
	u64 sum; /* bytes counted so far */
	u64 most; /* the most bytes to copy */
	u64 n; /* bytes copied so far */
	u32 flags;
	u32 going; /* begun, and not finished */
};

/*
 * Space to build one record in. The programs that use it run in process context with preemption
 * disabled, so it is never taken. If a kernel allows preemption here, the second program gives up, and
 * counts its event as lost.
 */
struct room {
	u64 taken; /* the thread that uses it, or 0 */
	u64 since; /* time of the entry of a call that is read again, or 0 */
	struct walk walk;
	struct qmon_record record;
	char data[2 * CAPTURE_MAX];
};
/* A walk from a directory up to the root of a process: a struct mount and a struct dentry each. */
struct climb {
	const void *mount; /* where it is */
	const void *dentry;
	const void *root_mount;
	const void *root;
};
struct image_room {
	u64 taken;
	struct climb climb;
	u64 used; /* bytes of `data` */
	u64 names_size; /* of a cgroup or a path: the names from the innermost on, each with a slash after it */
	char names[CGROUP_SIZE + NAME_SIZE];
	struct qmon_image image;
	char data[NAME_SIZE + PATH_SIZE + CGROUP_SIZE + 1 + CWD_SIZE + 1 + ARGV_MAX];
};
BPF_ARRAY(rooms, struct room, CPU_COUNT); /* by CPU: a value of a per-CPU map may have only 32 KiB */
BPF_PERCPU_ARRAY(image_rooms, struct image_room, 1);

/* ---- common parts -------------------------------------------------------------------------- */

static always struct qmon_settings *the_settings(void)
{
	int zero = 0;
	return settings.lookup(&zero);
}

static always bool wanted(u32 event)
{
	struct qmon_settings *s = the_settings();
	return s && s->mask >> event & 1;
}

/* The entry of a process in `tracked`; 0 if it is not watched. */
static always u16 watch_of(u32 pid)
{
	u32 word = pid / 4;
	u16 *pids = (u16 *)tracked.lookup(&word);
	return pids ? pids[pid % 4] : 0;
}

static always bool is_tracked(u32 pid)
{
	return watch_of(pid) != 0;
}

static always void track(u32 pid, u16 origin, u32 tree)
{
	u32 word = pid / 4;
	u16 *pids = (u16 *)tracked.lookup(&word);
	if (pids)
		pids[pid % 4] = origin ? origin | (tree % TREES) << TREE_SHIFT : 0;
}

static always u32 tree_of(u32 pid)
{
	return watch_of(pid) >> TREE_SHIFT;
}

static always struct share *the_tree(u32 pid)
{
	u32 key = tree_of(pid);
	return trees.lookup(&key);
}

/* The number of the current process' user: a hash, 0 for root. */
static always u32 user_now(void)
{
	u32 uid = bpf_get_current_uid_gid();
	return uid ? 1 + (u32)(uid * 2654435761U) % (USERS - 1) : 0;
}

static always u32 *late_count(u64 task)
{
	u32 slot = task * 0x9E3779B97F4A7C15ULL >> 52;
	return late_counts.lookup(&slot);
}

/* The entry of the current task, or NULL. */
static always struct entry *late_entry(void)
{
	u64 task = bpf_get_current_task();
	u32 *count = late_count(task);
	return count && *count ? late.lookup(&task) : NULL;
}

static always void end_late(const struct entry *entry)
{
	u64 task = bpf_get_current_task();
	u32 tree_key = entry->tree, user_key = entry->user;
	u32 *count = late_count(task);
	struct share *tree = trees.lookup(&tree_key), *user = users.lookup(&user_key);
	if (late.delete(&task) != 0 || !count || !tree || !user)
		return;
	__sync_fetch_and_add(count, -1);
	__sync_fetch_and_add(&tree->late, -1);
	__sync_fetch_and_add(&user->late, -1);
}

static always void count_seen(u32 event)
{
	int key = event;
	struct qmon_counter *counter = counters.lookup(&key);
	if (counter)
		counter->seen++;
}

static always void count_lost(u32 event)
{
	int key = event;
	struct qmon_counter *counter = counters.lookup(&key);
	if (counter)
		counter->lost++;
}

static always void count_suppressed(u32 event)
{
	int key = event;
	struct qmon_counter *counter = counters.lookup(&key);
	if (counter)
		counter->suppressed++;
}

static always u64 limit_of(const struct qmon_settings *s, u64 event)
{
	asm volatile("" : "+r"(event)); /* otherwise clang checks one copy, and uses another */
	return event < EVENT_COUNT ? s->limit[event] : 0;
}

/*
 * Whether the process may make one more event of a type. A bucket is a point in time: each event moves
 * it forward by 1/limit of a second, and it must not pass the present. It is at most a second behind
 * the present. If two CPUs come at the same moment, both may pass, and the next events pay for it.
 */
static always bool within_limit(u32 pid, u32 event)
{
	struct qmon_settings *s = the_settings();
	struct qmon_bucket_key key = {.pid = pid, .event = event};
	u64 limit = s ? limit_of(s, event) : 0;
	if (!limit)
		return true;
	u64 now = bpf_ktime_get_ns();
	struct qmon_bucket *bucket = buckets.lookup(&key), full = {.spent = now - SECOND};
	struct share *tree = NULL;
	u64 *spent;
	if (!bucket) {
		buckets.insert(&key, &full);
		bucket = buckets.lookup(&key);
	}
	if (bucket) {
		spent = &bucket->spent;
	} else { /* the map is full: new processes of this tree share one bucket */
		tree = the_tree(pid);
		if (!tree)
			return true;
		spent = &tree->spent;
		key.pid = OTHERS;
		bucket = buckets.lookup(&key);
	}
	if ((s64)(now - *spent) > (s64)SECOND)
		*spent = now - SECOND;
	if ((s64)(now - *spent) >= (s64)(SECOND / limit)) {
		__sync_fetch_and_add(spent, SECOND / limit);
		return true;
	}
	if (bucket)
		__sync_fetch_and_add(&bucket->suppressed, 1);
	return false;
}

/* Counts an event; returns whether it may be sent. */
static always bool admit(u32 pid, u32 event)
{
	count_seen(event);
	if (within_limit(pid, event))
		return true;
	count_suppressed(event);
	return false;
}

/*
 * Process trees share the ring by dynamic thresholds (Choudhury and Hahne, 1998). A tree may hold
 * GREED times the free space. So one greedy tree leaves a ninth of the ring free, two leave a
 * seventeenth, and a new tree always finds space. All trees of a user may hold USER_GREED times the
 * free space. So a user leaves space for others, whatever number of trees they start.
 *
 * Starts and ends of processes are counted separately: other events of the same tree do not push them
 * out. A sixteenth of the ring is reserved for them, and for trees with few of them in the ring: a storm
 * of forks pushes out neither these records nor other events of another tree.
 *
 * A tree holds at most what it wrote to the half that is being filled and to the two halves before.
 * Nothing is counted while less than a quarter of the ring is used.
 */
static always u64 taken_by(struct share *share, u32 life, u64 half)
{
	if ((s64)(half - share->half) > 0) { /* never back: another CPU may be ahead */
		bool next = share->half + 1 == half, after_next = share->half + 2 == half;
		for (int i = 0; i < 2; i++) {
			share->earlier[i] = next ? share->before[i] : after_next ? share->bytes[i] : 0;
			share->before[i] = next ? share->bytes[i] : 0;
			share->bytes[i] = 0;
		}
		share->half = half;
	}
	u64 lives = share->bytes[1] + share->before[1] + share->earlier[1];
	return life ? lives : lives + share->bytes[0] + share->before[0] + share->earlier[0];
}

static always bool is_fair(u64 share, u64 size, u64 used, u64 produced)
{
	u32 tree_key = share >> SHARE_TREE & (TREES - 1), user_key;
	u32 life = share & SHARE_LIFE ? 1 : 0;
	u64 half = produced / (RING_SIZE / 2), kept = RING_SIZE / 16 + size;
	u64 free = used < RING_SIZE ? RING_SIZE - used : 0, open = free > kept ? free - kept : 0;
	u64 least = life ? free / 4 : 0;
	struct share *tree = trees.lookup(&tree_key);
	if (!tree)
		return false;
	if (share & SHARE_OWN)
		tree->user = user_now();
	user_key = tree->user;
	struct share *user = users.lookup(&user_key);
	u64 of_tree = taken_by(tree, life, half), of_user = user ? taken_by(user, life, half) : 0;
	if (!user || (of_tree + size > open * GREED && of_tree >= least) ||
	    (user_key && of_user + size > open * USER_GREED && of_user >= least))
		return false;
	__sync_fetch_and_add(&tree->bytes[life], size);
	__sync_fetch_and_add(&user->bytes[life], size);
	return true;
}

/*
 * BCC has no ringbuf_query, and it passes the map only where it expands ringbuf_output, to
 * bpf_ringbuf_output(MAP, …). So a macro redirects that call to this function. `share` is 0, or the
 * result of share_of().
 */
static always long output_if_fair(u64 ring, void *data, u64 size, u64 share)
{
	u64 used = share & SHARED ? bpf_ringbuf_query((void *)ring, BPF_RB_AVAIL_DATA) : 0;
	if (used >= RING_SIZE / 4 &&
	    !is_fair(share, size, used, bpf_ringbuf_query((void *)ring, BPF_RB_PROD_POS)))
		return -1;
	return bpf_ringbuf_output((void *)ring, data, size, share & BPF_RB_FORCE_WAKEUP);
}
#define bpf_ringbuf_output output_if_fair

/* The share of the ring that a record is counted to: that of the process it is about. */
static always u64 share_of(u32 event, u32 pid)
{
	u64 share = SHARED | (LIVES >> event & 1 ? SHARE_LIFE : 0) | (u64)tree_of(pid) << SHARE_TREE;
	if (pid == bpf_get_current_pid_tgid() >> 32)
		share |= SHARE_OWN;
	return share;
}

/* Kernel structs are read by offset: their layouts are from BTF, not from headers. */
static always void *pointer_at(const void *base, u64 offset)
{
	void *pointer = NULL;
	bpf_probe_read_kernel(&pointer, sizeof(pointer), base + offset);
	return pointer;
}

static always u32 u32_at(const void *base, u64 offset)
{
	u32 value = 0;
	bpf_probe_read_kernel(&value, sizeof(value), base + offset);
	return value;
}

static always u64 u64_at(const void *base, u64 offset)
{
	u64 value = 0;
	bpf_probe_read_kernel(&value, sizeof(value), base + offset);
	return value;
}

static always void fill_head(void *record, u32 event, u32 call, u32 flags)
{
	struct qmon_head *head = record;
	u64 pid_tgid = bpf_get_current_pid_tgid();
	head->ts = bpf_ktime_get_ns();
	head->pid = pid_tgid >> 32;
	head->tid = (u32)pid_tgid;
	head->event = event;
	head->call = call;
	head->flags = flags;
}

/* Records for the process table are always sent, but counted only if the event is enabled. */
static always u32 state_flags(u32 event)
{
	if (!wanted(event))
		return 0;
	count_seen(event);
	return FLAG_COUNTED;
}

static always void send_shared(struct qmon_record *record, u64 share)
{
	if (events.ringbuf_output(record, sizeof(*record), share) != 0 && record->flags & FLAG_COUNTED)
		count_lost(record->event);
}

static always void send_record(struct qmon_record *record)
{
	send_shared(record, share_of(record->event, record->pid));
}

/* A length within bounds that the verifier can see. A negative length is an error of a helper. */
static always u64 bounded(long n, long most)
{
	asm volatile("" : "+r"(n)); /* otherwise clang drops comparisons that the verifier needs */
	if (n < 0)
		return 0;
	return n > most ? most : n;
}

/* ---- memory of the watched process --------------------------------------------------------- */

/* Copies n bytes; if a page is absent, those before the next page. Returns the number copied. */
static always u64 copy_user(void *to, const void *from, u64 n, u32 *flags)
{
	n = bounded(n, CAPTURE_MAX);
	if (read_user(to, n, from) == 0)
		return n;
	*flags |= FLAG_FAULT;
	u64 before = -(u64)from & (PAGE_SIZE - 1);
	return before < n && read_user(to, before, from) == 0 ? before : 0;
}

static always u64 copy_path(void *to, const void *from, u32 *flags)
{
	u64 n = bounded(read_user_str(to, PATH_SIZE, from), PATH_SIZE);
	char next = 0; /* what stands where the copy was made to end */
	if (n == PATH_SIZE && (read_user(&next, 1, from + PATH_SIZE - 1) != 0 || next))
		*flags |= FLAG_TRUNCATED;
	if (n)
		return n - 1;
	*flags |= FLAG_FAULT;
	return 0;
}

#define step() asm volatile("" ::: "memory")

/* Copies the content of the next parts of a vector. */
static always void gather(char *to, struct walk *walk)
{
	for (u32 i = 0; i < PARTS_AT_ONCE; i++) {
		struct part part = {};
		step();
		if (!walk->left || walk->sum >= walk->total) {
			walk->going = 0;
			return;
		}
		if (read_user(&part, sizeof(part), walk->parts) != 0) {
			walk->flags |= FLAG_FAULT;
			walk->going = 0;
			return;
		}
		u64 wanted = walk->total - walk->sum, n = walk->n;
		if (wanted > part.size)
			wanted = part.size;
		if (n == walk->sum && n < walk->most) { /* all bytes so far were copied */
			u64 size = walk->most - n;
			if (size > wanted)
				size = wanted;
			if (size)
				walk->n = n + copy_user(to + bounded(n, CAPTURE_MAX), part.base, size, &walk->flags);
		}
		walk->sum += wanted;
		walk->parts++;
		walk->left--;
	}
}

/* Adds up the sizes of the next parts of messages, in bytes. */
static always void add_up(struct walk *walk)
{
	for (u32 i = 0; i < STEPS_AT_ONCE; i++) {
		u64 vector[2] = {};
		step();
		if (walk->left) {
			if (read_user(vector, sizeof(vector), walk->parts) != 0)
				walk->flags |= FLAG_FAULT;
			walk->sum += vector[1];
			walk->parts++;
			walk->left--;
		} else if (walk->count) {
			if (read_user(vector, sizeof(vector), &walk->messages->parts) != 0)
				walk->flags |= FLAG_FAULT;
			walk->parts = (const void *)vector[0];
			walk->left = vector[1];
			walk->messages++;
			walk->count--;
		} else {
			walk->going = 0;
			return;
		}
		if (walk->flags) {
			walk->going = 0;
			return;
		}
	}
}

/* ---- system calls -------------------------------------------------------------------------- */

/* The registers of a call, and its row in the table of calls. */
struct entered {
	struct pt_regs regs;
	struct qmon_call call;
};

/*
 * Whether a call is made by 32-bit code. It has other numbers and registers, and is not recorded. On
 * x86-64, a 64-bit process can make such calls, too, by int 0x80 or in a code segment of its own. The
 * kernel marks them before it traces (arch/x86/entry/common.c). Calls of x32 have a bit in their number
 * that no row of the table has.
 */
static always bool is_compat(const void *regs)
{
#if defined(__x86_64__)
	u32 status;
	/* a plain load from a pointer that the verifier knows; BCC would turn it into a helper call */
	asm volatile("%0 = *(u32 *)(%1 + %2)"
		     : "=r"(status)
		     : "r"(bpf_get_current_task_btf()), "i"(OFFSET_TASK_STATUS));
	return status & 2; /* TS_COMPAT */
#else
	return u64_at(regs, __builtin_offsetof(struct pt_regs, pstate)) & 0x10; /* PSR_MODE32_BIT */
#endif
}

static always u64 argument(const struct pt_regs *regs, u32 position)
{
#if defined(__x86_64__)
	switch (position) {
	case 0: return regs->di;
	case 1: return regs->si;
	case 2: return regs->dx;
	case 3: return regs->r10;
	case 4: return regs->r8;
	case 5: return regs->r9;
	}
#else
	switch (position) {
	case 0: return regs->orig_x0; /* at the exit, x0 has the result */
	case 1: return regs->regs[1];
	case 2: return regs->regs[2];
	case 3: return regs->regs[3];
	case 4: return regs->regs[4];
	case 5: return regs->regs[5];
	}
#endif
	return 0;
}

#if defined(__x86_64__)
#define CALL_NUMBER orig_ax
#else
#define CALL_NUMBER syscallno
#endif

static always int call_number(const void *regs)
{
	return u32_at(regs, __builtin_offsetof(struct pt_regs, CALL_NUMBER));
}

/* Reads the registers of a call and its row in the table; returns whether its event is enabled. */
static always bool understand(struct entered *entered, const void *regs)
{
	if (bpf_probe_read_kernel(&entered->regs, sizeof(entered->regs), regs) != 0)
		return false;
	int key = entered->regs.CALL_NUMBER;
	struct qmon_call *call = calls.lookup(&key);
	if (!call || !wanted(call->event))
		return false;
	entered->call = *call;
	return true;
}

/* The room of this CPU if this thread has taken it: for a tail call, or to read a call again. */
static always struct room *own_room(void)
{
	int cpu = bpf_get_smp_processor_id();
	struct room *room = rooms.lookup(&cpu);
	return room && room->taken == (u32)bpf_get_current_pid_tgid() ? room : NULL;
}

static always struct room *take_room(void)
{
	int cpu = bpf_get_smp_processor_id();
	u32 tid = bpf_get_current_pid_tgid();
	struct room *room = rooms.lookup(&cpu);
	if (!room || (room->taken && room->taken != tid))
		return NULL;
	room->taken = tid;
	return room;
}

static always void give_back(struct room *room)
{
	room->since = 0;
	room->walk.going = 0;
	room->taken = 0;
}

/* Releases the room, if it is taken, when there is no record to send. */
static always void give_up(void)
{
	struct room *room = own_room();
	if (room)
		give_back(room);
}

/* As understand(), for programs that may have taken the room: it is released if that fails. */
static always bool go_on(struct entered *entered, const void *regs)
{
	if (understand(entered, regs))
		return true;
	give_up();
	return false;
}

/* Sends the record in the room, with n bytes of data, and releases the room. */
static always void send_room(struct room *room, u64 n)
{
	u64 size = sizeof(room->record) + bounded(n, CAPTURE_MAX);
	u64 share = share_of(room->record.event, room->record.pid);
	if (events.ringbuf_output(&room->record, size, share) != 0)
		count_lost(room->record.event);
	give_back(room);
}

/*
 * At the entry of a call, memory may be absent that the kernel is about to fetch. Then nothing is sent:
 * the handler runs again at the exit, with the time that is noted here. Returns whether it is put off.
 */
static always bool put_off(const struct entered *entered, u64 since, u32 flags)
{
	if (since || !(flags & FLAG_FAULT) || entered->call.exit != HANDLER_LATE)
		return false;
	u64 task = bpf_get_current_task();
	struct entry entry = {
		.since = bpf_ktime_get_ns(),
		.event = entered->call.event,
		.call = entered->call.call,
		.tree = tree_of(bpf_get_current_pid_tgid() >> 32),
		.user = user_now(),
	};
	struct entry *left = late_entry(); /* of an unwatched process that had the same task_struct */
	if (left)
		end_late(left);
	u32 *count = late_count(task);
	struct share *tree = trees.lookup(&entry.tree), *user = users.lookup(&entry.user);
	if (!count || !tree || !user || tree->late >= LATE_MAX / 32 ||
	    (user->late >= LATE_MAX / 4 && entry.user) || late.insert(&task, &entry) != 0)
		return false;
	__sync_fetch_and_add(count, 1);
	__sync_fetch_and_add(&tree->late, 1);
	__sync_fetch_and_add(&user->late, 1);
	return true;
}

/* Completes and sends the record in the room, with n bytes of data, or puts it off to the exit. */
static always void finish(const struct entered *entered, struct room *room, u64 n, u32 flags, u64 a, u64 b)
{
	u32 event = entered->call.event;
	u64 since = room->since;
	if (put_off(entered, since, flags)) {
		give_back(room);
		return;
	}
	fill_head(&room->record, event, entered->call.call, flags | FLAG_COUNTED);
	if (!admit(room->record.pid, event)) {
		give_back(room);
		return;
	}
	if (since)
		room->record.ts = since;
	room->record.a = a;
	room->record.b = b;
	send_room(room, n);
}

static always void lose(u32 event)
{
	count_seen(event);
	count_lost(event);
}

enum content { CONTENT_PATH, CONTENT_BYTES, CONTENT_ADDRESS };

/* Sends an event with `size` bytes of data at `from`; for a path, `size` is ignored. */
static always void send_content(const struct entered *entered, enum content content, const void *from,
				u64 size, u64 a, u64 b)
{
	struct qmon_settings *s = the_settings();
	struct room *room = take_room();
	u32 flags = 0;
	u64 n;
	if (!s || !room) {
		lose(entered->call.event);
		return;
	}
	if (content == CONTENT_PATH) {
		n = copy_path(room->data, from, &flags);
	} else {
		u64 most = content == CONTENT_BYTES ? s->capture : ADDRESS_MAX;
		n = size > most ? most : size;
		if (n)
			n = copy_user(room->data, from, n, &flags);
		if (n < size)
			flags |= FLAG_TRUNCATED;
	}
	finish(entered, room, n, flags, a, b);
}

/*
 * Sends an event for a vector of `count` parts, with at most `total` bytes, or for `count` messages. The
 * program calls itself until it has read all of them, about 30 times at most.
 */
static always void send_vector(struct bpf_raw_tracepoint_args *ctx, const struct entered *entered,
			       u32 itself, const void *from, u64 count, u64 total)
{
	bool content = itself != HANDLER_MESSAGES;
	struct qmon_settings *s = the_settings();
	struct room *room = take_room();
	if (!s || !room) {
		lose(entered->call.event);
		return;
	}
	struct walk *walk = &room->walk;
	if (!walk->going) {
		__builtin_memset(walk, 0, sizeof(*walk));
		walk->going = 1;
		walk->total = total;
		walk->most = s->capture;
		if (content) {
			walk->parts = from;
			walk->left = count;
		} else {
			walk->messages = from;
			walk->count = count;
		}
	}
	if (content)
		gather(room->data, walk);
	else
		add_up(walk);
	if (walk->going) {
		handlers.call(ctx, itself);
		walk->flags |= FLAG_FAULT; /* the limit of tail calls is reached */
		walk->going = 0;
	}
	u32 flags = walk->flags;
	if (!content) {
		finish(entered, room, 0, flags, walk->sum, 0);
	} else if (walk->sum || flags) {
		u64 size = itself == HANDLER_READV ? total : walk->sum;
		if (walk->n < size)
			flags |= FLAG_TRUNCATED;
		finish(entered, room, walk->n, flags, argument(&entered->regs, 0), size);
	} else {
		give_back(room);
	}
}

static always void send_integers(const struct entered *entered, u64 a, u64 b)
{
	struct qmon_record record = {};
	fill_head(&record, entered->call.event, entered->call.call, FLAG_COUNTED);
	record.a = a;
	record.b = b;
	if (admit(record.pid, entered->call.event))
		send_record(&record);
}

/* The handlers: tail calls from sys_enter and sys_exit, for tracked processes only. */

int on_path(struct bpf_raw_tracepoint_args *ctx)
{
	struct entered entered;
	if (go_on(&entered, (void *)ctx->args[0]))
		send_content(&entered, CONTENT_PATH,
			     (const void *)argument(&entered.regs, entered.call.arg_a), 0, 0, 0);
	return 0;
}

int on_write(struct bpf_raw_tracepoint_args *ctx)
{
	struct entered entered;
	if (!go_on(&entered, (void *)ctx->args[0]))
		return 0;
	u64 size = argument(&entered.regs, 2);
	if (size)
		send_content(&entered, CONTENT_BYTES, (const void *)argument(&entered.regs, 1), size,
			     argument(&entered.regs, 0), size);
	else
		give_up();
	return 0;
}

int on_read(struct bpf_raw_tracepoint_args *ctx)
{
	struct entered entered;
	long result = ctx->args[1];
	if (result > 0 && understand(&entered, (void *)ctx->args[0]))
		send_content(&entered, CONTENT_BYTES, (const void *)argument(&entered.regs, 1), result,
			     argument(&entered.regs, 0), result);
	return 0;
}

int on_writev(struct bpf_raw_tracepoint_args *ctx)
{
	struct entered entered;
	if (go_on(&entered, (void *)ctx->args[0]))
		send_vector(ctx, &entered, HANDLER_WRITEV, (const void *)argument(&entered.regs, 1),
			    argument(&entered.regs, 2), -1ULL);
	return 0;
}

int on_readv(struct bpf_raw_tracepoint_args *ctx)
{
	struct entered entered;
	long result = ctx->args[1];
	if (result > 0 && go_on(&entered, (void *)ctx->args[0]))
		send_vector(ctx, &entered, HANDLER_READV, (const void *)argument(&entered.regs, 1),
			    argument(&entered.regs, 2), result);
	return 0;
}

/* sendmsg and recvmsg have one message; in the other calls, an argument has their number */
int on_messages(struct bpf_raw_tracepoint_args *ctx)
{
	struct entered entered;
	if (!go_on(&entered, (void *)ctx->args[0]))
		return 0;
	u64 count = entered.call.arg_a < 6 ? (u32)argument(&entered.regs, entered.call.arg_a) : 1;
	if (count > VECTOR_MAX)
		count = VECTOR_MAX;
	send_vector(ctx, &entered, HANDLER_MESSAGES, (const void *)argument(&entered.regs, 1), count, 0);
	return 0;
}

int on_address(struct bpf_raw_tracepoint_args *ctx)
{
	struct entered entered;
	if (go_on(&entered, (void *)ctx->args[0]))
		send_content(&entered, CONTENT_ADDRESS,
			     (const void *)argument(&entered.regs, entered.call.arg_a),
			     (u32)argument(&entered.regs, entered.call.arg_b), argument(&entered.regs, 0), 0);
	return 0;
}

int on_integers(struct bpf_raw_tracepoint_args *ctx)
{
	struct entered entered;
	if (understand(&entered, (void *)ctx->args[0]))
		send_integers(&entered, argument(&entered.regs, entered.call.arg_a),
			      argument(&entered.regs, entered.call.arg_b));
	return 0;
}

/* Sends the first argument and the result of a call that did not fail. */
int on_result(struct bpf_raw_tracepoint_args *ctx)
{
	struct entered entered;
	long result = ctx->args[1];
	if (result >= 0 && understand(&entered, (void *)ctx->args[0]))
		send_integers(&entered, argument(&entered.regs, 0), result);
	return 0;
}

int on_wait(struct bpf_raw_tracepoint_args *ctx)
{
	struct entered entered;
	long result = ctx->args[1];
	if (result > 0 && understand(&entered, (void *)ctx->args[0]))
		send_integers(&entered, result, 0);
	return 0;
}

int on_waitid(struct bpf_raw_tracepoint_args *ctx)
{
	struct entered entered;
	u32 child = 0;
	if (ctx->args[1] != 0 || !understand(&entered, (void *)ctx->args[0]))
		return 0;
	void *info = (void *)argument(&entered.regs, 2);
	read_user(&child, sizeof(child), info + SIGINFO_PID);
	if (child)
		send_integers(&entered, child, 0);
	return 0;
}

/* Runs the handler of the entry again if it was put off; the room is already taken for it. */
int on_late(struct bpf_raw_tracepoint_args *ctx)
{
	int key = call_number((void *)ctx->args[0]);
	struct entry *entry = late_entry();
	struct qmon_call *call = calls.lookup(&key);
	struct room *room = entry && call ? take_room() : NULL;
	if (!entry || !call)
		return 0;
	if (!room) {
		lose(entry->event);
		end_late(entry);
		return 0;
	}
	room->since = entry->since;
	end_late(entry);
	handlers.call(ctx, call->enter);
	give_back(room); /* the tail call failed */
	return 0;
}

/* Notes the call for the record of task_newtask. */
int on_fork(struct bpf_raw_tracepoint_args *ctx)
{
	struct entered entered;
	u32 tid = bpf_get_current_pid_tgid();
	if (understand(&entered, (void *)ctx->args[0])) {
		u32 call = entered.call.call;
		forking.update(&tid, &call);
	}
	return 0;
}

static always u32 rows_of(struct share *share, u32 generation)
{
	if (share->generation != generation) {
		share->generation = generation;
		share->rows = 0;
	}
	return share->rows;
}

/* Whether a process may have one more row: no tree and no user may have all rows. */
static always bool may_have_row(u32 pid, u32 generation)
{
	u32 user_key = user_now();
	struct share *tree = the_tree(pid), *user = users.lookup(&user_key);
	if (!tree || !user || rows_of(tree, generation) >= ROWS_MAX / 8 ||
	    (rows_of(user, generation) >= ROWS_MAX / 2 && user_key))
		return false;
	__sync_fetch_and_add(&tree->rows, 1);
	__sync_fetch_and_add(&user->rows, 1);
	return true;
}

/* The row of the process in the statistics of this interval, or the shared row if all are used. */
static always struct qmon_statistic *the_statistic(void)
{
	struct qmon_settings *s = the_settings();
	struct qmon_statistic_key key = {};
	struct qmon_statistic *row, none = {};
	if (!s)
		return NULL;
	key.generation = s->generation;
	key.pid = bpf_get_current_pid_tgid() >> 32;
	row = statistics.lookup(&key);
	if (row)
		return row;
	if (may_have_row(key.pid, key.generation))
		statistics.insert(&key, &none);
	row = statistics.lookup(&key);
	if (row)
		return row;
	int last = key.generation & 1;
	return others.lookup(&last);
}

int on_mmap(struct bpf_raw_tracepoint_args *ctx)
{
	struct entered entered;
	if (!understand(&entered, (void *)ctx->args[0]))
		return 0;
	u64 pages = (argument(&entered.regs, 1) + PAGE_SIZE - 1) / PAGE_SIZE;
	struct qmon_statistic *row = the_statistic();
	if (row) {
		row->mmaps++;
		if (pages > row->max_pages)
			row->max_pages = pages;
	}
	return 0;
}

/* TP_PROTO(struct pt_regs *regs, long id) */
RAW_TRACEPOINT_PROBE(sys_enter)
{
	if (!is_tracked(bpf_get_current_pid_tgid() >> 32))
		return 0;
	int key = ctx->args[1];
	struct qmon_call *call = calls.lookup(&key);
	if (call && call->enter && !is_compat((void *)ctx->args[0]))
		handlers.call(ctx, call->enter);
	return 0;
}

/* TP_PROTO(struct pt_regs *regs, long ret) */
RAW_TRACEPOINT_PROBE(sys_exit)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	if (!is_tracked(pid_tgid >> 32))
		return 0;
	int key = call_number((void *)ctx->args[0]);
	struct qmon_call *call = calls.lookup(&key);
	if (!call || !call->exit || (call->exit == HANDLER_LATE && !late_entry()))
		return 0;
	if (is_compat((void *)ctx->args[0]))
		return 0;
	handlers.call(ctx, call->exit);
	return 0;
}

/* ---- processes ----------------------------------------------------------------------------- */

struct name {
	u64 words[PATTERN_WORDS];
};

/*
 * 0 where the name begins with one of so many patterns. It is made by arithmetic alone: BPF can
 * compare only by a jump, and the verifier would follow both ways at each of 64 jumps.
 */
static always u64 differs_from(const struct name *name, const struct qmon_pattern *patterns, u64 n)
{
	u64 differs_from_all = 1;
	for (u64 i = 0; i < PATTERN_MAX; i++) {
		u64 differs = ~(i - n) >> 63; /* 1 from the n-th on: these are not set */
		for (int word = 0; word < PATTERN_WORDS; word++)
			differs |= (name->words[word] & patterns[i].mask[word]) ^ patterns[i].text[word];
		u64 negative = -differs;
		asm volatile("" : "+r"(negative)); /* or clang makes a comparison of it */
		differs_from_all &= (differs | negative) >> 63;
	}
	return differs_from_all;
}

static always bool matches(const struct qmon_settings *s, const struct name *name)
{
	return !differs_from(name, s->prefix, s->prefixes) &&
	       differs_from(name, s->exclude, s->excludes);
}

/* The ancestors of the process, the parent first, up to PARENTS_MAX. */
static always void fill_parents(struct qmon_image *image, void *task)
{
	for (int i = 0; i < PARENTS_MAX; i++) {
		task = pointer_at(task, OFFSET_TASK_REAL_PARENT);
		struct qmon_parent *parent = &image->parents[i];
		parent->pid = u32_at(task, OFFSET_TASK_TGID);
		bpf_probe_read_kernel(parent->comm, sizeof(parent->comm), task + OFFSET_TASK_COMM);
	}
}

/* Sends an execve whose path could not be read at the entry, with the kernel's copy of the path. */
static always void send_late_exec(void *bprm, u32 tid)
{
	struct entry *entry = late_entry();
	struct room *room = entry ? take_room() : NULL;
	if (!entry)
		return;
	count_seen(entry->event);
	if (room) {
		fill_head(&room->record, entry->event, entry->call, FLAG_COUNTED);
		room->record.ts = entry->since;
		room->record.tid = tid;
		void *path = pointer_at(bprm, OFFSET_BPRM_FILENAME);
		u64 n = bounded(bpf_probe_read_kernel_str(room->data, PATH_SIZE, path), PATH_SIZE);
		send_room(room, n ? n - 1 : 0);
	} else {
		count_lost(entry->event);
	}
	end_late(entry);
}

/*
 * Copies the cgroup (v2) of a process: the names from its own up to below the root, each with a slash
 * after it. If there are more than CGROUP_DEPTH names, the last slash is missing. The text and its
 * length are kept in memory: the verifier then does not tell the paths through a step apart.
 */
static always void copy_cgroup(struct image_room *room, const void *task)
{
	void *set = pointer_at(task, OFFSET_TASK_CGROUPS);
	void *node = pointer_at(pointer_at(set, OFFSET_CSS_SET_DFL_CGRP), OFFSET_CGROUP_KN);
	room->names_size = 0;
	for (int i = 0; i <= CGROUP_DEPTH; i++) {
		step();
		void *parent = pointer_at(node, OFFSET_KERNFS_NODE_PARENT);
		u64 at = bounded(room->names_size, CGROUP_SIZE);
		if (!parent)
			return;
		if (i == CGROUP_DEPTH) {
			room->names_size = at - 1;
			return;
		}
		void *name = pointer_at(node, OFFSET_KERNFS_NODE_NAME);
		u64 n = bounded(bpf_probe_read_kernel_str(room->names + at, NAME_SIZE, name), NAME_SIZE);
		room->names_size = at + n;
		room->names[(at + n - 1) & (CGROUP_SIZE - 1)] = '/'; /* replaces the NUL */
		node = parent;
	}
}

/* Adds the name of the directory, and goes to its parent. Returns false if it has none, or was removed. */
static always bool climb_name(struct image_room *room, const void *dentry)
{
	const void *parent = pointer_at(dentry, OFFSET_DENTRY_PARENT);
	void *name = pointer_at(dentry, OFFSET_DENTRY_NAME);
	u64 at = room->names_size & (2 * CWD_SIZE - 1);
	u64 size = u32_at(dentry, OFFSET_DENTRY_NAME_SIZE);
	u64 end = at + size;
	long n = bpf_probe_read_kernel_str(room->names + at, NAME_SIZE, name);
	if (parent == dentry || !pointer_at(dentry, OFFSET_DENTRY_HASHED) || n < 2 || n != size + 1 || end >= CWD_SIZE)
		return false;
	room->names[end & (CWD_SIZE - 1)] = '/'; /* replaces the NUL */
	room->names_size = end + 1;
	room->climb.dentry = parent;
	return true;
}

/*
 * Copies the path of a process' current directory below its root, as copy_cgroup() does, and as
 * prepend_path() in fs/d_path.c finds it. If the path is not known, the last slash is missing.
 */
static always void copy_cwd(struct image_room *room, const void *task)
{
	struct climb *climb = &room->climb;
	const void *fs = pointer_at(task, OFFSET_TASK_FS);
	climb->mount = pointer_at(fs, OFFSET_FS_PWD_MOUNT) - OFFSET_MOUNT_VFSMOUNT;
	climb->dentry = pointer_at(fs, OFFSET_FS_PWD);
	climb->root_mount = pointer_at(fs, OFFSET_FS_ROOT_MOUNT) - OFFSET_MOUNT_VFSMOUNT;
	climb->root = pointer_at(fs, OFFSET_FS_ROOT);
	room->names_size = 0;
	for (int i = 0; i <= CWD_STEPS; i++) {
		step();
		const void *mount = climb->mount, *dentry = climb->dentry;
		if (!dentry)
			break;
		if (dentry == climb->root && mount == climb->root_mount)
			return;
		if (dentry == pointer_at(mount, OFFSET_MOUNT_ROOT)) {
			climb->dentry = pointer_at(mount, OFFSET_MOUNT_PLACE);
			climb->mount = pointer_at(mount, OFFSET_MOUNT_PARENT);
			if (climb->mount == mount)
				break;
		} else if (!climb_name(room, dentry)) {
			break;
		}
	}
	room->names[0] = '?';
	room->names_size = 1;
}

/* Adds the names in the room, `most` bytes at most, and a NUL to the data; before it are `used` at most. */
static always void add_names(struct image_room *room, u64 used, u64 most)
{
	step();
	u64 at = bounded(room->used, used), size = bounded(room->names_size, most);
	bpf_probe_read_kernel(room->data + at, size, room->names);
	at = bounded(at + size, used + most);
	room->data[at] = 0;
	room->used = at + 1;
}

/*
 * Sends what the process executes now: the name of the file (at most 255 bytes), the requested path (the
 * kernel's copy, shorter than PATH_SIZE), the cgroup, the current directory, and the arguments.
 */
static always void send_image(u32 event, const void *file_name, void *task, void *bprm, u32 flags)
{
	int zero = 0;
	struct image_room *room = image_rooms.lookup(&zero);
	if (!room || room->taken) {
		if (flags & FLAG_COUNTED)
			count_lost(event);
		return;
	}
	room->taken = 1;
	struct qmon_image *image = &room->image;
	fill_head(image, event, 0, flags);
	step();
	event = image->event; /* read from there, as the flags are, from here on: see copy_cgroup */
	void *path = pointer_at(bprm, OFFSET_BPRM_FILENAME);
	if (pointer_at(bprm, OFFSET_BPRM_INTERP) != path)
		image->flags |= FLAG_INTERPRETED;
	step();
	image->ppid = u32_at(pointer_at(task, OFFSET_TASK_REAL_PARENT), OFFSET_TASK_TGID);
	image->uid = bpf_get_current_uid_gid();
	image->start = u64_at(task, OFFSET_TASK_START_BOOTTIME);
	if (event == EVENT_TRACK_ADOPT)
		fill_parents(image, task);

	/* each text ends with NUL: name, path, cgroup, current directory, arguments */
	u64 at = bounded(bpf_probe_read_kernel_str(room->data, NAME_SIZE, file_name), NAME_SIZE);
	room->used = at + bounded(bpf_probe_read_kernel_str(room->data + at, PATH_SIZE, path), PATH_SIZE);
	copy_cgroup(room, task);
	add_names(room, NAME_SIZE + PATH_SIZE, CGROUP_SIZE);
	copy_cwd(room, task);
	add_names(room, NAME_SIZE + PATH_SIZE + CGROUP_SIZE + 1, CWD_SIZE);
	void *mm = pointer_at(task, OFFSET_TASK_MM);
	u64 from = u64_at(mm, OFFSET_MM_ARG_START);
	u64 size = u64_at(mm, OFFSET_MM_ARG_END) - from;
	if (size > ARGV_MAX) {
		size = ARGV_MAX;
		image->flags |= FLAG_TRUNCATED;
	}
	at = bounded(room->used, NAME_SIZE + PATH_SIZE + CGROUP_SIZE + 1 + CWD_SIZE + 1);
	size = bounded(size, ARGV_MAX);
	if (read_user(room->data + at, size, (void *)from) != 0) {
		image->flags |= FLAG_FAULT;
		size = 0;
	}
	size = sizeof(*image) + bounded(at + size, sizeof(room->data));
	if (events.ringbuf_output(image, size, share_of(event, image->pid)) != 0 && image->flags & FLAG_COUNTED)
		count_lost(event);
	room->taken = 0;
}

/*
 * TP_PROTO(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm). The thread had old_pid when
 * it called execve, and has the ID of its process now.
 */
RAW_TRACEPOINT_PROBE(sched_process_exec)
{
	void *task = (void *)ctx->args[0], *bprm = (void *)ctx->args[2];
	u32 pid = bpf_get_current_pid_tgid() >> 32, event = EVENT_IMAGE;
	struct qmon_settings *s = the_settings();
	struct name name = {}, comm = {};
	if (!s)
		return 0;
	/* task->mm->exe_file; with binfmt_misc, this is the interpreter */
	void *file = pointer_at(bprm, OFFSET_BPRM_FILE);
	void *file_name = pointer_at(pointer_at(file, OFFSET_FILE_DENTRY), OFFSET_DENTRY_NAME);
	if (is_tracked(pid)) {
		if (probed.lookup(&pid)) /* the new program may map the probed file as code */
			urgent.ringbuf_output(&pid, sizeof(pid), BPF_RB_FORCE_WAKEUP);
		send_late_exec(bprm, ctx->args[1]);
	} else {
		bpf_probe_read_kernel_str(&name, sizeof(name), file_name);
		bpf_get_current_comm(&comm, sizeof(((struct qmon_parent *)0)->comm));
		if (!matches(s, &name) && !matches(s, &comm))
			return 0;
		track(pid, ORIGIN_EXEC, bpf_get_prandom_u32());
		event = EVENT_TRACK_ADOPT;
	}
	send_image(event, file_name, task, bprm, event == EVENT_TRACK_ADOPT ? state_flags(event) : 0);
	return 0;
}

/* TP_PROTO(struct task_struct *task, unsigned long clone_flags): in the parent, before the child runs */
RAW_TRACEPOINT_PROBE(task_newtask)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	u32 tid = pid_tgid;
	void *task = (void *)ctx->args[0];
	if (ctx->args[1] & CLONE_THREAD || !is_tracked(pid_tgid >> 32))
		return 0;
	u32 child = u32_at(task, OFFSET_TASK_TGID);
	u32 *call = forking.lookup(&tid);
	struct qmon_record record = {};
	track(child, ORIGIN_FORK, tree_of(pid_tgid >> 32));
	fill_head(&record, EVENT_TRACK_FORK, call ? *call : 0, state_flags(EVENT_TRACK_FORK));
	forking.delete(&tid);
	record.a = child;
	record.b = u64_at(task, OFFSET_TASK_START_BOOTTIME);
	send_record(&record);
	return 0;
}

/* A process ends with its last thread; its leader may have ended long before. */
RAW_TRACEPOINT_PROBE(sched_process_exit)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	u32 pid = pid_tgid >> 32, one = 1;
	struct entry *entry = late_entry();
	if (entry) { /* killed in the call: its memory is never read */
		lose(entry->event);
		end_late(entry);
	}
	if (!is_tracked(pid)) /* not watched, or EXIT was sent: the last two threads may both come here */
		return 0;
	void *task = (void *)bpf_get_current_task();
	void *signal = pointer_at(task, OFFSET_TASK_SIGNAL), *leader = pointer_at(task, OFFSET_TASK_GROUP_LEADER);
	struct identity identity = {.start = u64_at(leader, OFFSET_TASK_START_BOOTTIME), .pid = pid};
	if (u32_at(signal, OFFSET_SIGNAL_LIVE) != 0 || ended.insert(&identity, &one) == -EEXIST)
		return 0;
	u64 share = share_of(EVENT_EXIT, pid);
	track(pid, 0, 0);
	probed.delete(&pid);
	struct qmon_record record = {};
	fill_head(&record, EVENT_EXIT, 0, state_flags(EVENT_EXIT));
	/* as in wait_task_zombie(), kernel/exit.c */
	if (u32_at(signal, OFFSET_SIGNAL_FLAGS) & SIGNAL_GROUP_EXIT)
		record.a = u32_at(signal, OFFSET_SIGNAL_GROUP_EXIT_CODE);
	else
		record.a = u32_at(leader, OFFSET_TASK_EXIT_CODE);
	send_shared(&record, share);
	return 0;
}

/* ---- scheduling and signals ---------------------------------------------------------------- */

/* TP_PROTO(bool preempt, struct task_struct *prev, struct task_struct *next, …); prev is current */
RAW_TRACEPOINT_PROBE(sched_switch)
{
	if (!wanted(EVENT_SCHED_SWITCH))
		return 0;
	void *next = (void *)ctx->args[2];
	u64 prev = bpf_get_current_pid_tgid();
	u32 prev_pid = prev >> 32, next_pid = u32_at(next, OFFSET_TASK_TGID);
	bool from = is_tracked(prev_pid), to = is_tracked(next_pid);
	if (!from && !to)
		return 0;
	struct qmon_record record = {};
	fill_head(&record, EVENT_SCHED_SWITCH, 0, FLAG_COUNTED);
	record.pid = from ? prev_pid : next_pid;
	record.tid = to ? next_pid : prev_pid;
	record.a = (u32)prev;
	record.b = u32_at(next, OFFSET_TASK_PID);
	if (admit(record.pid, EVENT_SCHED_SWITCH))
		send_record(&record);
	return 0;
}

/* TP_PROTO(int sig, struct kernel_siginfo *info, struct task_struct *task, int group, int result) */
RAW_TRACEPOINT_PROBE(signal_generate)
{
	if (!wanted(EVENT_SIGNAL_GENERATE))
		return 0;
	void *task = (void *)ctx->args[2];
	u32 pid = u32_at(task, OFFSET_TASK_TGID);
	if (!is_tracked(pid))
		return 0;
	struct qmon_record record = {};
	fill_head(&record, EVENT_SIGNAL_GENERATE, 0, FLAG_COUNTED);
	record.pid = pid;
	record.tid = u32_at(task, OFFSET_TASK_PID);
	record.a = (u32)ctx->args[0];
	if (admit(pid, EVENT_SIGNAL_GENERATE))
		send_record(&record);
	return 0;
}

/* ---- allocation ---------------------------------------------------------------------------- */

/* Counts an allocation. Over the budget of a second, the daemon removes the probes for a while. */
static always void spend(u32 pid)
{
	struct qmon_settings *s = the_settings();
	struct qmon_hits *spent = probed.lookup(&pid), first = {.since = bpf_ktime_get_ns(), .count = 1};
	if (!s || !spent)
		return;
	if (first.since - spent->since > SECOND)
		*spent = first;
	else
		__sync_fetch_and_add(&spent->count, 1);
	if (spent->count < s->budget || spent->told)
		return;
	spent->told = 1;
	urgent.ringbuf_output(&pid, sizeof(pid), BPF_RB_FORCE_WAKEUP);
	struct qmon_record record = {};
	fill_head(&record, EVENT_OVER_BUDGET, 0, 0);
	send_record(&record);
}

/* The program of the allocation probes. The cookie is 1 for free, and 0 for the other functions. */
int on_allocation(struct pt_regs *ctx)
{
	struct qmon_statistic *row = the_statistic();
	spend(bpf_get_current_pid_tgid() >> 32);
	if (!row)
		return 0;
	if (bpf_get_attach_cookie(ctx))
		row->frees++;
	else
		row->allocs++;
	return 0;
}
