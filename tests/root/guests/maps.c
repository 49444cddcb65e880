/*
 * A guest that maps a file and, for each byte on its standard input, adds up what it sees there.
 *
 *     maps FILE
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int count, char **arguments)
{
	int file = open(arguments[1], O_RDONLY);
	struct stat status;
	char order;
	(void)count;
	fstat(file, &status);
	unsigned char *bytes = mmap(NULL, status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
	while (read(0, &order, 1) == 1) {
		unsigned long sum = 0;
		for (long i = 0; i < status.st_size; i++)
			sum = sum * 31 + bytes[i];
		printf("%lu\n", sum);
		fflush(stdout);
	}
	return 0;
}
