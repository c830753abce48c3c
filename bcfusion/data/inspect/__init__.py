"""Looking at a corpus before a network is trained on it: what its files hold, and what is wrong with them."""
