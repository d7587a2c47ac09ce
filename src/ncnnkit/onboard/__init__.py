"""Everything that runs on a board: Python 3.9, the standard library, numpy and ncnn; nothing else of ncnnkit."""
