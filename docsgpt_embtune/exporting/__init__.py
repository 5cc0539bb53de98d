"""From a tuned folder to one that answers fast: the graphs are written, and validation decides what serves."""
