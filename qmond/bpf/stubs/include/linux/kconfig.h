/* BCC includes this file first of all; nothing else of a kernel's tree is needed. */
#ifndef QMON_STUB_KCONFIG_H
#define QMON_STUB_KCONFIG_H
#define CONFIG_BPF_SYSCALL 1
#include <linux/types.h>
#include <asm/ptrace.h>
#endif
