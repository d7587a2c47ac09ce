"""How much two versions of a network differ: in their outputs, and layer by layer."""
