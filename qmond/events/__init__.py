"""What an event is: the table of events and of system calls, record layouts, names, JSON Schema."""
