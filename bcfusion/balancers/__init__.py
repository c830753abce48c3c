"""Balancers: how the weighted losses become one gradient of the generator. One file per balancer."""
