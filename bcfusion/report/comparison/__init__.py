"""What runs wrote, read and put side by side: one table, clear differences, curves."""
