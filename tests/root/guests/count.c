/*
 * A guest that writes the numbers from 0 on to /dev/null, 8 digits and a newline each.
 *
 *     count NUMBERS        as many, as fast as it can
 *     count SOME PAUSE     some, then PAUSE milliseconds none, and so on until its input ends;
 *                          one more, the last, is for its output
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static long number;

static void tell(int file)
{
	char line[16];
	sprintf(line, "%08ld\n", number++);
	write(file, line, 9);
}

int main(int count, char **arguments)
{
	int null = open("/dev/null", O_WRONLY);
	struct pollfd input = { .fd = 0, .events = POLLIN };
	do
		for (long left = atol(arguments[1]); left > 0; left--)
			tell(null);
	while (count > 2 && poll(&input, 1, atoi(arguments[2])) == 0);
	if (count > 2)
		tell(1);
	return 0;
}
