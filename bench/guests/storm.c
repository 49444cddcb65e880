/* A guest that writes 16 bytes to /dev/null, as often as it is told and as fast as it can. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

int main(int count, char **arguments)
{
	int null = open("/dev/null", O_WRONLY);
	(void)count;
	for (long left = atol(arguments[1]); left > 0; left--)
		write(null, "0123456789abcdef", 16);
	return 0;
}
