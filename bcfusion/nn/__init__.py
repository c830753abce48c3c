"""Building blocks of the networks: each is causal or not by one argument, and streams when it is causal."""
