"""Live sound: sound cards, a clock in their place, the engine between them and a network; guided recording of pairs."""
