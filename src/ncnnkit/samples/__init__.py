"""The inputs of a network: images, how they are prepared, and their labels."""
