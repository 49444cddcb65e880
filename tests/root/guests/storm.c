/*
 * A guest that writes to /dev/null, as often as it is told and as fast as it can, 16 bytes or as
 * many as it is told, 4096 at most.
 *
 *     storm TIMES [SIZE]
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int count, char **arguments)
{
	static char data[4096];
	int null = open("/dev/null", O_WRONLY);
	int size = count > 2 ? atoi(arguments[2]) : 16;
	memset(data, '.', sizeof(data));
	for (long left = atol(arguments[1]); left > 0; left--)
		write(null, data, size);
	return 0;
}
