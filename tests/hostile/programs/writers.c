/*
 * Threads that each write a text again and again, a byte where none is given, for so many seconds.
 *
 *     writers SECONDS [TEXT]
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 4 };

static time_t end;
static int null;
static const char *text = ".";

static void *writes(void *nothing)
{
	while (time(NULL) < end)
		for (int turn = 0; turn < 1000; turn++)
			if (write(null, text, strlen(text)) < 0)
				_exit(1);
	return nothing;
}

int main(int count, char **words)
{
	pthread_t threads[THREADS];
	text = count > 2 ? words[2] : text;
	null = open("/dev/null", O_WRONLY);
	end = time(NULL) + (count > 1 ? atoi(words[1]) : 1);
	for (int at = 0; at < THREADS; at++)
		pthread_create(&threads[at], NULL, writes, NULL);
	for (int at = 0; at < THREADS; at++)
		pthread_join(threads[at], NULL);
	return 0;
}
