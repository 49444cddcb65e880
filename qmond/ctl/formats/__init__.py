"""What qmonctl writes for other programs: tracks, Chrome, Perfetto, CSV, SQL."""
