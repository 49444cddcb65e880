/*
 * Executes a file that is not there, with a name of so many bytes, again and again.
 *
 *     execfail SECONDS BYTES
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **words)
{
	static char path[6000];
	char *argv[] = { path, NULL };
	time_t end = time(NULL) + (count > 1 ? atoi(words[1]) : 1);
	memset(path, 'A', count > 2 ? (size_t)atoi(words[2]) : sizeof(path) - 1);
	while (time(NULL) < end)
		for (int turn = 0; turn < 1000; turn++)
			execve(path, argv, NULL);
	return 0;
}
