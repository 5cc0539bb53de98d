"""From any source to checked and split data: `store` holds it, `checks` look at it, `splitting` parts it."""
