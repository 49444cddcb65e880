/* The registers at a system call, which are kernel ABI: arch/{x86,arm64}/include/asm/ptrace.h. */
#ifndef QMON_STUB_PTRACE_H
#define QMON_STUB_PTRACE_H
#if defined(__x86_64__)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di;
	unsigned long orig_ax, ip, cs, flags, sp, ss;
};
#elif defined(__aarch64__)
struct pt_regs {
	u64 regs[31], sp, pc, pstate;
	u64 orig_x0;
	s32 syscallno;
};
#endif
#endif
