/*
 * A guest whose every action is known: it makes each event that a guest can make, with arguments
 * that the test chose or that it reports itself, in one last write, as `name=value` lines.
 *
 *     actions DIRECTORY PORT
 *
 * DIRECTORY holds `in`, which is read; PORT is a closed one of the loopback addresses.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char report[4096];

static void say(const char *format, ...)
{
	size_t used = strlen(report);
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(report + used, sizeof(report) - used, format, arguments);
	va_end(arguments);
}

static void on_signal(int number)
{
	(void)number;
}

/* What makes a careless tracer's JSON break, and a careful one's prove itself. */
static const char hard[] = "line\nquote\" back\\slash\tNUL\0after \x01\x1b[31m\x7f \xff\xc3(\xe2\x82 end \xe2\x82\xac";

static void files(const char *directory)
{
	char path[512], data[64];
	snprintf(path, sizeof(path), "%s/in", directory);
	int in = open(path, O_RDONLY);
	ssize_t n = read(in, data, sizeof(data));
	say("in=%d\nread=%zd\n", in, n);
	snprintf(path, sizeof(path), "%s/out", directory);
	int out = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	say("out=%d\n", out);
	write(out, hard, sizeof(hard) - 1);
	static char large[1000]; /* 3 bytes a character: 256 cuts the last one of a capture in two */
	for (int i = 0; i + 3 <= 999; i += 3)
		memcpy(large + i, "\xe2\x82\xac", 3);
	write(out, large, 999);
	pwrite(out, "positioned", 10, 3);
	write(out, "", 0); /* n > 0 was not asked for: no event */
	readlink("/proc/self/cwd", data, sizeof(data));
	open("/no/such/\xff" "file", O_RDONLY);
	say("dup=%d\n", dup2(out, 50));
}

static void sockets(int port)
{
	struct sockaddr_in four = { .sin_family = AF_INET, .sin_port = htons(port) };
	four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int s = socket(AF_INET, SOCK_STREAM, 0);
	say("four=%d\n", s);
	four.sin_port = 0;
	bind(s, (void *)&four, sizeof(four));
	four.sin_port = htons(port);
	connect(s, (void *)&four, sizeof(four));
	struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	six.sin6_addr = in6addr_loopback;
	s = socket(AF_INET6, SOCK_STREAM, 0);
	say("six=%d\n", s);
	six.sin6_port = 0;
	bind(s, (void *)&six, sizeof(six));
	six.sin6_port = htons(port);
	connect(s, (void *)&six, sizeof(six));
	struct sockaddr_un local = { .sun_family = AF_UNIX, .sun_path = "/no/such.sock" };
	s = socket(AF_UNIX, SOCK_STREAM, 0);
	say("local=%d\n", s);
	connect(s, (void *)&local, sizeof(local));
	memcpy(local.sun_path, "/no/such\xff", 10);
	bind(s, (void *)&local, sizeof(local));
	memcpy(local.sun_path, "\0abstract", 9);
	bind(s, (void *)&local, offsetof(struct sockaddr_un, sun_path) + 9);
	connect(s, (void *)&local, offsetof(struct sockaddr_un, sun_path) + 9);
	int pair[2];
	char data[99];
	socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
	sendto(pair[0], "hello", 5, 0, NULL, 0);
	recvfrom(pair[1], data, sizeof(data), 0, NULL, NULL);
}

static void memory(void)
{
	size_t size = 77 * 4096;
	char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(at, 1, size);
	mprotect(at, 4096, PROT_NONE);
	mprotect(at, 4096, PROT_READ);
	mprotect(at, 4096, PROT_READ | PROT_WRITE);
	madvise(at, 4096, MADV_DONTNEED);
}

static void processes(void)
{
	pid_t exec = fork();
	if (exec == 0) {
		execl("/bin/echo", "echo", "from a native program", (char *)NULL);
		_exit(99);
	}
	waitpid(exec, NULL, 0);
	pid_t other = fork();
	if (other == 0) {
		setuid(12345);
		_exit(3);
	}
	waitpid(other, NULL, 0);
	say("exec=%d\nother=%d\n", exec, other);
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	say("pid=%d\n", getpid());
	signal(SIGUSR1, on_signal);
	files(argv[1]);
	sockets(atoi(argv[2]));
	memory();
	processes();
	kill(getpid(), SIGUSR1);
	usleep(10000); /* gives the processor away */
	write(1, report, strlen(report));
	return 7;
}
