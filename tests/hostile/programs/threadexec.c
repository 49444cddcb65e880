/*
 * So many children, each of which executes a program from a second thread, by a path on a page that
 * is not there yet: the kernel gives that thread the first one's ID before it tells of the exec.
 *
 *     threadexec CHILDREN PATH
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static char *path;

static void *executes(void *nothing)
{
	char *argv[] = { "true", NULL };
	execve(path, argv, NULL);
	return nothing;
}

int main(int count, char **words)
{
	char name[] = "pathXXXXXX";
	int file = mkstemp(name);
	unlink(name);
	if (count < 3 || write(file, words[2], strlen(words[2]) + 1) < 0)
		return 1;
	for (int children = atoi(words[1]); children > 0; children--) {
		int status = 1;
		pid_t child = fork();
		if (child == 0) {
			pthread_t thread;
			path = mmap(0, 4096, PROT_READ, MAP_PRIVATE, file, 0);
			pthread_create(&thread, NULL, executes, NULL);
			pthread_join(thread, NULL);
			_exit(1);
		}
		waitpid(child, &status, 0);
		if (status)
			return 1;
	}
	return 0;
}
