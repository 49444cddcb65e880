"""Which process a process ID is: procfs, control groups, the table of watched processes."""
