/* A guest that does a little of everything, as often as it is told: files, a socket, a child. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int count, char **arguments)
{
	static char data[4096];
	int ends[2];
	(void)count;
	socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
	for (long round = 0; round < atol(arguments[1]); round++) {
		for (int i = 0; i < 20; i++) {
			int file = open("/etc/passwd", O_RDONLY);
			while (read(file, data, sizeof(data)) > 0)
				;
			close(file);
			write(ends[0], data, 512);
			read(ends[1], data, 512);
		}
		if (fork() == 0)
			_exit(0);
		wait(NULL);
	}
	return 0;
}
