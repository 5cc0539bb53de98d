"""From any source to checked and split data: `store` holds it, `checks` look at it, `splits` part it."""
