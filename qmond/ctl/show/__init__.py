"""What qmonctl shows to people: text, columns, screens."""
