/* A guest that writes the numbers from 0 on to /dev/null, 8 digits and a newline each. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int count, char **arguments)
{
	int null = open("/dev/null", O_WRONLY);
	long numbers = atol(arguments[1]);
	char line[16];
	(void)count;
	for (long number = 0; number < numbers; number++) {
		sprintf(line, "%08ld\n", number);
		write(null, line, 9);
	}
	return 0;
}
