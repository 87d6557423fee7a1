"""How the weights in the package were made; see `docs/models.md`."""
