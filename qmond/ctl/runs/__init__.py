"""`qmonctl record`: a command's run, watched from its start to its end."""
