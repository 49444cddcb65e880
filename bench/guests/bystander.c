/*
 * A native program that has nothing to do with qemu: prints what a getppid, a write of 16 bytes
 * to /dev/null, and a malloc with its free cost it, in nanoseconds; each the best of 15 rounds.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 15, CALLS = 100000 };

static int null;

static void call(void) { syscall(SYS_getppid); }
static void put(void) { (void)!write(null, "0123456789abcdef", 16); }
static void allocate(void)
{
	void *volatile p = malloc(64);
	free(p);
}

static double best(void (*work)(void))
{
	double least = 1e18;
	for (int round = 0; round < ROUNDS; round++) {
		struct timespec from, to;
		clock_gettime(CLOCK_MONOTONIC, &from);
		for (int i = 0; i < CALLS; i++)
			work();
		clock_gettime(CLOCK_MONOTONIC, &to);
		double spent = (to.tv_sec - from.tv_sec) * 1e9 + (to.tv_nsec - from.tv_nsec);
		if (spent < least)
			least = spent;
	}
	return least / CALLS;
}

int main(void)
{
	null = open("/dev/null", O_WRONLY);
	printf("%.1f %.1f %.1f\n", best(call), best(put), best(allocate));
	return 0;
}
