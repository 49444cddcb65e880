/*
 * A guest that reads its standard input a byte at a time and acts on each: `t` makes 20 threads and
 * waits for them, `f` a child that ends at once, `e` a native program of the host; `x` becomes the
 * program that its arguments are. It answers `.`.
 */
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

static void *nothing(void *argument)
{
	return argument;
}

int main(int count, char **arguments)
{
	char order;
	while (read(0, &order, 1) == 1) {
		if (order == 't')
			for (int i = 0; i < 20; i++) {
				pthread_t thread;
				pthread_create(&thread, NULL, nothing, NULL);
				pthread_join(thread, NULL);
			}
		if (order == 'f') {
			if (fork() == 0)
				_exit(5);
			wait(NULL);
		}
		if (order == 'e') {
			if (fork() == 0)
				execl("/bin/true", "true", (char *)0);
			wait(NULL);
		}
		if (order == 'x' && count > 1)
			execv(arguments[1], arguments + 1);
		write(1, ".", 1);
	}
	return 0;
}
