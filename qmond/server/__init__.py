"""The Unix socket: its protocol, clients, their rights and readers; what core and front say."""
