"""What is known of processes: procfs, control groups, the table of watched processes."""
