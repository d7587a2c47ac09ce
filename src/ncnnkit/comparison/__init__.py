"""How far two versions of a network are apart: their outputs, and layer by layer."""
