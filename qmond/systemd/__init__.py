"""What is said to systemd: journald's messages, and descriptors in its store."""
