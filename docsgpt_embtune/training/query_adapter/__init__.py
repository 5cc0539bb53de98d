"""What goes before a model that is not tuned: a map of the question's vector, and keywords beside a server's."""
