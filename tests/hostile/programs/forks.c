/* Forks children that map a page and end, one after the other, for so many seconds; prints how many. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **words)
{
	long made = 0;
	time_t end = time(NULL) + (count > 1 ? atoi(words[1]) : 1);
	for (; time(NULL) < end; made++) {
		pid_t child = fork();
		if (child == 0) {
			mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			_exit(0);
		}
		waitpid(child, NULL, 0);
	}
	printf("%ld\n", made);
	return 0;
}
