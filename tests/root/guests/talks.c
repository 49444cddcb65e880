/*
 * A guest that talks to itself over UDP and TCP Fast Open, and calls neither connect nor accept:
 *
 *     talks
 *
 * It binds three sockets, sends by sendto, sendmsg and sendto with MSG_FASTOPEN, and receives by
 * recvfrom, once. Then it asks for a path that is longer than any can be.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

static struct sockaddr_in here(int s)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	socklen_t size = sizeof(address);
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	bind(s, (void *)&address, size);
	getsockname(s, (void *)&address, &size);
	return address;
}

int main(void)
{
	static char name[6000];
	char data[9];
	int receiver = socket(AF_INET, SOCK_DGRAM, 0), sender = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in address = here(receiver);
	sendto(sender, "one", 3, 0, (void *)&address, sizeof(address));
	struct iovec part = { "two", 3 };
	struct msghdr message = { &address, sizeof(address), &part, 1 };
	sendmsg(sender, &message, 0);
	recvfrom(receiver, data, sizeof(data), 0, NULL, NULL);
	int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
	address = here(listener);
	listen(listener, 1);
	sendto(client, "three", 5, MSG_FASTOPEN, (void *)&address, sizeof(address));
	struct sockaddr_un local = { .sun_family = AF_UNIX, .sun_path = "\0talks" };
	bind(socket(AF_UNIX, SOCK_DGRAM, 0), (void *)&local, sizeof(sa_family_t) + 6);
	memset(name, '/', sizeof(name) - 1);
	open(name, O_RDONLY);
	return 0;
}
