/* A guest that says that it runs, and waits for the end of its standard input. */
#include <unistd.h>

int main(void)
{
	char order;
	write(1, ".", 1);
	while (read(0, &order, 1) == 1)
		;
	return 0;
}
