/* Forks without waiting for anybody, for so many seconds; a child lives a tenth of a second. */
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **words)
{
	time_t end = time(NULL) + (count > 1 ? atoi(words[1]) : 1);
	signal(SIGCHLD, SIG_IGN);
	while (time(NULL) < end) {
		if (fork() == 0) {
			usleep(100000);
			_exit(0);
		}
		usleep(2000);
	}
	return 0;
}
