"""The BPF programs (qmon.c), their loader, and access to their maps and ring buffer."""
