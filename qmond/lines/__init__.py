"""Records of the kernel side become the log's lines, in C, and secrets in them are masked."""
