/*
 * A 64-bit process that makes 32-bit system calls: by int 0x80, and by 32-bit code that it reaches
 * through a code segment of the kernel's (0x23) and one of its own LDT (7). Their numbers mean other
 * calls in the 64-bit table: 59 is execve there, 257 openat, 20 writev. Then one of x32, which has a
 * bit more in its number. At last it opens a file by a 64-bit call. Prints what each returned.
 */
#define _GNU_SOURCE
#include <asm/ldt.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { STACK = 0x1ff0, SAVED = 0x800, CODE32 = 0x200, BACK = 0x400, TEXT = 0x900 };

static unsigned char *low; /* below 4 GiB, where 32-bit code reaches it */

/* int 0x80 with the 32-bit arguments b, c, d, and what a 64-bit look would take for di and si. */
static long int80(long number, long b, long c, long d, long di, const void *si)
{
	long result;
	register long rdi asm("rdi") = di;
	register const void *rsi asm("rsi") = si;
	asm volatile("int $0x80"
		     : "=a"(result)
		     : "a"(number), "b"(b), "c"(c), "d"(d), "r"(rdi), "r"(rsi)
		     : "memory", "r8", "r9", "r10", "r11");
	return result;
}

static unsigned char *put32(unsigned char *to, uint32_t value)
{
	memcpy(to, &value, 4);
	return to + 4;
}

/* Goes to 32-bit code by a far return to a segment, makes one call there, and comes back. */
static long far_call(int segment, uint32_t number, uint32_t b, uint32_t c, uint32_t d)
{
	uint32_t base = (uint32_t)(uintptr_t)low;
	unsigned char *to = low;
	memcpy(to, "\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57\x48\x89\x24\x25", 14); /* push …; mov %rsp,SAVED */
	to = put32(to + 14, base + SAVED);
	memcpy(to, "\x48\xc7\xc4", 3); /* mov $STACK,%rsp */
	to = put32(to + 3, base + STACK);
	*to++ = 0x6a; /* push $segment; push $CODE32; lretq */
	*to++ = (unsigned char)segment;
	*to++ = 0x68;
	to = put32(to, base + CODE32);
	memcpy(to, "\x48\xcb", 2);
	to = low + CODE32;
	*to++ = 0xb8; /* mov $number,%eax and so on; int $0x80; push $0x33; push $BACK; lret */
	to = put32(to, number);
	*to++ = 0xbb;
	to = put32(to, b);
	*to++ = 0xb9;
	to = put32(to, c);
	*to++ = 0xba;
	to = put32(to, d);
	memcpy(to, "\xcd\x80\x6a\x33\x68", 5);
	to = put32(to + 5, base + BACK);
	*to = 0xcb;
	to = low + BACK;
	memcpy(to, "\x48\x8b\x24\x25", 4); /* mov SAVED,%rsp; pop …; ret */
	to = put32(to + 4, base + SAVED);
	memcpy(to, "\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5d\x5b\xc3", 11);
	return (int)((long (*)(void))low)();
}

int main(void)
{
	low = mmap(0, 0x2000, 7, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	char *text = (char *)low + TEXT;
	uint32_t at = (uint32_t)(uintptr_t)text;
	strcpy(text, "by-int80");
	long made = int80(5, at, O_CREAT | O_WRONLY, 0644, 0, 0); /* open */
	strcpy(text, "forged");
	printf("int80 %d", made >= 0);
	printf(" %ld", int80(4, made, at, 6, 0, 0)); /* write */
	printf(" %d", int80(59, 0, 0, 0, at, 0) < 0); /* oldolduname */
	printf(" %d\n", int80(257, 0, 0, 0, AT_FDCWD, text) < 0); /* remap_file_pages */
	strcpy(text, "by-int80");
	printf("segment %d\n", far_call(0x23, 5, at, O_RDONLY, 0) >= 0);
	struct user_desc own = {
		.limit = 0xfffff, .seg_32bit = 1, .contents = MODIFY_LDT_CONTENTS_CODE, .limit_in_pages = 1, .useable = 1,
	};
	int has_own = syscall(SYS_modify_ldt, 1, &own, sizeof(own)) == 0;
	strcpy(text, "forged");
	printf("own %d %d\n", has_own, has_own && far_call(7, 20, 0, 0, 0) == getpid()); /* getpid */
	long x32 = syscall(0x40000000 + SYS_openat, AT_FDCWD, "by-x32", O_RDONLY);
	printf("x32 %d\n", x32 < 0);
	printf("plain %d\n", open("by-int80", O_RDONLY) >= 0);
	return 0;
}
