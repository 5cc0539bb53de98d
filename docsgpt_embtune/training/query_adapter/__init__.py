"""What is put before a model whose weights stay as they are: a map of the questions' vectors, and keywords."""
