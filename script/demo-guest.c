/* The demo's guest: a made-up sensor that reads a file, runs a helper, and phones home. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
	char secret[256];
	int file = open("/etc/hostname", O_RDONLY);
	ssize_t size = read(file, secret, sizeof(secret));
	close(file);

	if (fork() == 0) {
		execl("/bin/echo", "echo", "a program of the host, run by the guest", (char *)NULL);
		_exit(1);
	}
	wait(NULL);

	struct sockaddr_in home = { .sin_family = AF_INET, .sin_port = htons(4444) };
	home.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int line = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(line, (struct sockaddr *)&home, sizeof(home)) < 0 && size > 0)
		write(STDOUT_FILENO, secret, size);
	return 0;
}
