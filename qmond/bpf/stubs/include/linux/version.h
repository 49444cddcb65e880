/* BCC asks only whether BPF_F_CURRENT_CPU is there: any number from 4.8 up will do. */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 8, 0)
