/*
 * Threads that write vectors of a thousand parts to nowhere, for so many seconds; of 0 seconds, a
 * hundred vectors and no more.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 4, PARTS = 1000, TURNS = 100 };

static time_t seconds, end;
static int null;

static void *writes(void *nothing)
{
	static struct iovec parts[PARTS];
	for (int at = 0; at < PARTS; at++)
		parts[at] = (struct iovec){ "x", 1 };
	do
		for (int turn = 0; turn < TURNS; turn++)
			if (writev(null, parts, PARTS) != PARTS)
				_exit(1);
	while (time(NULL) < end);
	return nothing;
}

int main(int count, char **words)
{
	pthread_t threads[THREADS];
	null = open("/dev/null", O_WRONLY);
	seconds = count > 1 ? atoi(words[1]) : 0;
	end = time(NULL) + seconds;
	if (!seconds)
		return writes(NULL) != NULL;
	for (int at = 0; at < THREADS; at++)
		pthread_create(&threads[at], NULL, writes, NULL);
	for (int at = 0; at < THREADS; at++)
		pthread_join(threads[at], NULL);
	return 0;
}
