"""systemd's interfaces: messages to journald, and the descriptor store."""
