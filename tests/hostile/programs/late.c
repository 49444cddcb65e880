/*
 * So many threads, each in an openat whose path lies on a page of its own that is not there yet, of
 * a file; says `blocked` once all have begun, and ends with its input.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { APART = 1 << 17 };

static char *pages;
static atomic_int begun;

static void *opens(void *number)
{
	begun++;
	open(pages + (long)number * APART, O_RDONLY); /* a FIFO: it waits for a writer */
	return NULL;
}

int main(int count, char **words)
{
	long threads = count > 2 ? atol(words[1]) : 1;
	const char *path = words[2];
	char name[] = "lateXXXXXX";
	int file = mkstemp(name);
	unlink(name);
	if (ftruncate(file, threads * APART))
		return 1;
	for (long at = 0; at < threads; at++)
		if (pwrite(file, path, strlen(path) + 1, at * APART) < 0)
			return 1;
	pages = mmap(0, (size_t)threads * APART, PROT_READ, MAP_PRIVATE, file, 0);
	pthread_attr_t small;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 1 << 16);
	for (long at = 0; at < threads; at++) {
		pthread_t thread;
		if (pthread_create(&thread, &small, opens, (void *)at))
			return 1;
	}
	while (begun < threads)
		usleep(1000);
	usleep(200000);
	printf("blocked\n");
	fflush(stdout);
	getchar();
	_exit(0);
}
