"""The Unix socket: its protocol, clients, their rights, filters and readers."""
