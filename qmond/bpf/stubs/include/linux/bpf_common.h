/* Opcode macros that BCC's headers ask for and no program uses. */
#ifndef QMON_STUB_BPF_COMMON_H
#define QMON_STUB_BPF_COMMON_H
#define BPF_CLASS(code) ((code) & 0x07)
#define BPF_MAXINSNS 4096
#endif
