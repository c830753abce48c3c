"""Parts of scripts/soak.py: what the kernel tells of processes, what is judged, and the three loads."""
