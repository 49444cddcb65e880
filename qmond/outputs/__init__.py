"""Where else events and figures go: journald and Prometheus."""
