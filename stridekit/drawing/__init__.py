"""How numbers look: in words, in tables of text, in figures. It knows numbers, not results."""
