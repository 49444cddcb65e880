/* A process with a page of its memory on a file system of its own, whose server answers everything
   but a read. Root mounts it, as fusermount3 does for everybody, and all else is nobody's. Prints a
   line when the page is in place, and waits for its input's end. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/fuse.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NOBODY = 65534, PAGE = 4096, FILE_NODE = 2 };

static void reply(int fd, const struct fuse_in_header *to, int error, void *data, size_t size)
{
	struct fuse_out_header head = {sizeof(head) + size, error, to->unique};
	struct iovec parts[] = {{&head, sizeof(head)}, {data, size}};
	if (writev(fd, parts, size ? 2 : 1) < 0)
		_exit(1);
}

static struct fuse_attr attributes(uint64_t node)
{
	struct fuse_attr found = {.ino = node, .nlink = 1, .blksize = PAGE, .mode = S_IFDIR | 0755};
	if (node == FILE_NODE) {
		found.mode = S_IFREG | 0755;
		found.size = 16 * PAGE;
	}
	return found;
}

static void serve(int fd)
{
	static char request[1 << 17];
	const struct fuse_in_header *head = (void *)request;
	while (read(fd, request, sizeof(request)) > 0) {
		if (head->opcode == FUSE_INIT) {
			struct fuse_init_out told = {
				.major = 7, .minor = 31, .max_write = PAGE, .max_readahead = PAGE};
			reply(fd, head, 0, &told, sizeof(told));
		} else if (head->opcode == FUSE_LOOKUP) {
			struct fuse_entry_out told = {.nodeid = FILE_NODE, .entry_valid = 1000};
			told.attr = attributes(FILE_NODE);
			reply(fd, head, 0, &told, sizeof(told));
		} else if (head->opcode == FUSE_GETATTR) {
			struct fuse_attr_out told = {.attr = attributes(head->nodeid)};
			reply(fd, head, 0, &told, sizeof(told));
		} else if (head->opcode == FUSE_OPEN) {
			struct fuse_open_out told = {0};
			reply(fd, head, 0, &told, sizeof(told));
		} else if (head->opcode != FUSE_READ && head->opcode != FUSE_FORGET &&
			   head->opcode != FUSE_BATCH_FORGET && head->opcode != FUSE_INTERRUPT) {
			reply(fd, head, -38, NULL, 0);
		}
	}
}

static void must(int done, const char *what)
{
	if (!done) {
		perror(what);
		_exit(1);
	}
}

int main(int count, char **words)
{
	char options[200], path[300], byte;
	const char *folder = count > 1 ? words[1] : "";
	if (getenv("PADDING") == NULL) { /* what is on the stack's last page is not needed then */
		static char padding[5 * PAGE];
		memset(padding, 'x', sizeof(padding) - 1);
		setenv("PADDING", padding, 1);
		execv("/proc/self/exe", words);
	}
	must(unshare(CLONE_NEWNS) == 0, "unshare");
	must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0, "private");
	int fd = open("/dev/fuse", O_RDWR);
	must(fd >= 0, "/dev/fuse");
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=%d,group_id=%d", fd, NOBODY,
		 NOBODY);
	must(mount("mute", folder, "fuse", MS_NOSUID | MS_NODEV, options) == 0, "mount");
	must(setgid(NOBODY) == 0 && setuid(NOBODY) == 0, "setuid");
	prctl(PR_SET_DUMPABLE, 1);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (fork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		prctl(PR_SET_NAME, "server");
		serve(fd);
		_exit(0);
	}
	close(fd);
	snprintf(path, sizeof(path), "%s/file", folder);
	int file = open(path, O_RDONLY);
	must(file >= 0, path);
	void *page = (void *)(getauxval(AT_EXECFN) & ~(PAGE - 1ul));
	must(mmap(page, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, file, 0) == page, "mmap");
	puts("mapped");
	fflush(stdout);
	return read(0, &byte, 1) < 0;
}
