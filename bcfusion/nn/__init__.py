"""Building blocks of the networks: each is causal or not by one argument, and streams if it is causal."""
