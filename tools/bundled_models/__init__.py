"""How the weights in the package were made; see `docs/explanation/models.md`."""
