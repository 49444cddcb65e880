/*
 * The calls that take vectors, each with more than one part, and some at their limits.
 *
 *     vectors FILE                 does them; FILE is written and read
 *     vectors exec PROGRAM ARG…    becomes another program
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PART(text) { (void *)(text), sizeof(text) - 1 }
#define MANY 1024

static void files(const char *path)
{
	int file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	struct iovec three[] = { PART("first\n"), PART(""), PART("\xff second\0 part") }, many[MANY];
	writev(file, three, 3);
	pwritev(file, three, 3, 5);
	pwritev2(file, three, 3, 9, 0);
	writev(file, three + 1, 1); /* n > 0 was not asked for: no event */
	for (int i = 0; i < MANY; i++)
		many[i] = (struct iovec){ "0123456789abcdef" + i % 16, 1 };
	writev(file, many, MANY);

	static char a[7], b[9], rest[4096];
	struct iovec into[] = { { a, sizeof(a) }, { NULL, 0 }, { b, sizeof(b) }, { rest, sizeof(rest) } };
	lseek(file, 0, SEEK_SET);
	readv(file, into, 3);
	preadv(file, into, 4, 3);
	preadv2(file, into, 4, 1040, 0); /* fewer bytes than there is room for */
	preadv(file, into, 4, 1 << 20);	 /* and none: no event */
	for (int i = 0; i < MANY; i++)
		many[i] = (struct iovec){ rest + i, 1 };
	preadv(file, many, MANY, 0);

	/* pages of a file that nobody has touched yet: the kernel fetches them during the call */
	char *fresh = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE, file, 0);
	struct iovec absent[] = { PART("<"), { fresh, 1000 }, PART(">") };
	writev(file, absent, 3);
}

static void messages(void)
{
	int ends[2];
	char room[64];
	socketpair(AF_UNIX, SOCK_DGRAM, 0, ends);
	struct iovec two[] = { PART("hello"), PART(" world") }, into[] = { { room, 7 }, { room + 7, 50 } };
	struct msghdr out = { .msg_iov = two, .msg_iovlen = 2 }, in = { .msg_iov = into, .msg_iovlen = 2 };
	struct mmsghdr outs[3] = { { out }, { out }, { out } }, ins[2] = { { in }, { in } };
	outs[1].msg_hdr.msg_iovlen = 1;
	outs[2].msg_hdr.msg_iovlen = 0;
	ins[1].msg_hdr.msg_iovlen = 1;
	sendmsg(ends[0], &out, 0);
	recvmsg(ends[1], &in, 0);
	sendmmsg(ends[0], outs, 3, 0);
	recvmmsg(ends[1], ins, 2, MSG_DONTWAIT, NULL);

	static struct iovec parts[8][100];
	static struct mmsghdr large[8];
	for (int i = 0; i < 8; i++) {
		for (int j = 0; j < 100; j++)
			parts[i][j] = two[j % 2];
		large[i].msg_hdr = (struct msghdr){ .msg_iov = parts[i], .msg_iovlen = 100 };
	}
	sendmmsg(ends[0], large, 8, 0);
}

int main(int count, char **arguments)
{
	if (count > 2 && strcmp(arguments[1], "exec") == 0)
		return execv(arguments[2], arguments + 2);
	files(arguments[1]);
	messages();
	char parameters[120] = { 0 };
	syscall(425, 4, parameters); /* io_uring_setup; qemu-user refuses it */
	return 7;
}
