/* A guest that writes 1,000 times a second for as many seconds as it is told. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

int main(int count, char **arguments)
{
	int null = open("/dev/null", O_WRONLY);
	(void)count;
	for (long left = atol(arguments[1]) * 1000; left > 0; left--) {
		write(null, "0123456789abcdef", 16);
		usleep(850);
	}
	return 0;
}
