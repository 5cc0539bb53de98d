"""Preparation of data: `store` holds them, `checks` finds faults, `fixes` repairs these, `splitting` makes splits."""
