/*
 * Lives that are hard to follow, each by its name:
 *
 *     bomb N        N children that live for a millisecond; prints each one's ID and exit code
 *     spawn PROGRAM by vfork, posix_spawn and system
 *     threads N K   N threads that each write their ID K times
 *     daemon        a double fork: the grandchild writes its ID when its parents are gone
 *     hold CODE     writes its ID, waits for the end of its input, and ends
 *     crash         ends by SIGSEGV; `abort` by SIGABRT
 *     headless      the first thread ends, another one reads orders, a byte each, and answers `.`:
 *                   `f` makes a child that ends at once, `p` wakes the threads of `pulse`
 *     pulse N       N threads that sleep 100 times at each `p`; the first one reads the orders
 */
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static int many, times;
static pthread_barrier_t begun, ended;

static void reap(int pid)
{
	int status;
	waitpid(pid, &status, 0);
	printf("%d %d\n", pid, WEXITSTATUS(status));
}

static void bomb(void)
{
	enum { AT_ONCE = 50 };
	int children[AT_ONCE];
	for (int i = 0; i < many; i++) {
		int *slot = &children[i % AT_ONCE];
		if (i >= AT_ONCE)
			reap(*slot);
		*slot = fork();
		if (*slot == 0) {
			usleep(1000);
			_exit(i % 100);
		}
	}
	for (int i = many; i < many + AT_ONCE; i++)
		reap(children[i % AT_ONCE]);
}

static void spawn(char *program)
{
	char *words[] = { program, "--version", NULL };
	pid_t child = vfork();
	if (child == 0)
		_exit(11);
	waitpid(child, NULL, 0);
	child = vfork();
	if (child == 0) {
		execv(program, words);
		_exit(12);
	}
	waitpid(child, NULL, 0);
	posix_spawn(&child, program, NULL, NULL, words, environ);
	waitpid(child, NULL, 0);
	system("exit 3");
}

static void *write_own_id(void *argument)
{
	char line[32];
	int length = sprintf(line, "%ld\n", syscall(SYS_gettid));
	for (int i = 0; i < times; i++)
		write(1, line, length);
	return argument;
}

static void *pulse(void *argument)
{
	for (;;) {
		pthread_barrier_wait(&begun);
		for (int i = 0; i < 100; i++)
			usleep(100);
		pthread_barrier_wait(&ended);
	}
	return argument;
}

static void *obey(void *argument)
{
	char order;
	while (read(0, &order, 1) == 1) {
		if (order == 'f') {
			if (fork() == 0)
				_exit(5);
			wait(NULL);
		}
		if (order == 'p') {
			pthread_barrier_wait(&begun);
			pthread_barrier_wait(&ended);
		}
		write(1, ".", 1);
	}
	exit(0);
	return argument;
}

static void daemonise(void)
{
	int gone[2];
	char byte;
	pipe(gone);
	if (fork() > 0)
		return;
	setsid();
	if (fork() > 0)
		_exit(0);
	close(gone[1]);
	read(gone[0], &byte, 1); /* until nobody else has its other end */
	printf("%d\n", getpid());
}

static int hold(void)
{
	char byte;
	dprintf(1, "%d\n", getpid());
	read(0, &byte, 1);
	return many;
}

static void start(void *(*work)(void *), int count)
{
	pthread_t threads[64];
	for (int i = 0; i < count; i++)
		pthread_create(&threads[i], NULL, work, NULL);
	if (work == pulse)
		return;
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
}

int main(int count, char **words)
{
	const char *scene = words[1];
	many = count > 2 ? atoi(words[2]) : 0;
	times = count > 3 ? atoi(words[3]) : 0;
	if (!strcmp(scene, "bomb"))
		bomb();
	if (!strcmp(scene, "spawn"))
		spawn(words[2]);
	if (!strcmp(scene, "threads"))
		start(write_own_id, many);
	if (!strcmp(scene, "daemon"))
		daemonise();
	if (!strcmp(scene, "hold"))
		return hold();
	if (!strcmp(scene, "crash"))
		*(volatile int *)0 = 0;
	if (!strcmp(scene, "abort"))
		abort();
	if (!strcmp(scene, "headless")) {
		pthread_t other;
		pthread_create(&other, NULL, obey, NULL);
		pthread_exit(NULL);
	}
	if (!strcmp(scene, "pulse")) {
		pthread_barrier_init(&begun, NULL, many + 1);
		pthread_barrier_init(&ended, NULL, many + 1);
		start(pulse, many);
		obey(NULL);
	}
	return 0;
}
