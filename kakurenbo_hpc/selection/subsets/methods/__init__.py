"""One module per scoring method; its file name is the name in `kakurenbo score`."""
