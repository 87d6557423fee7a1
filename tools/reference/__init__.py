"""The pages of `docs/reference` that are written from the code.

    python -m tools.reference

`tests/tools/reference` refuses pages that differ from what the code says.
"""
