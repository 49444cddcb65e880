/*
 * Starts a program again and again, each time anew and not as a child of a watched one, with an
 * argument of so many bytes and then with none, for so many seconds.
 *
 *     trees SECONDS BYTES PROGRAM
 */
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **words)
{
	static char word[4096];
	if (count < 4)
		return 1;
	memset(word, 'x', (size_t)atoi(words[2]));
	time_t end = time(NULL) + atoi(words[1]);
	for (int turn = 0; time(NULL) < end; turn++) {
		char *argv[] = { words[3], turn % 2 ? "" : word, NULL };
		pid_t child = fork();
		if (child == 0) {
			execv(words[3], argv);
			_exit(1);
		}
		waitpid(child, NULL, 0);
	}
	return 0;
}
