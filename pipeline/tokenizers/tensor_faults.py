"""What is wrong with weights that a class of another package does not take whole."""

from collections.abc import Collection

from pipeline.formatting import counted


def other_tensors(fault: str, keys: Collection[object], name: str) -> str:
    """Return why weights are not those of a class of another package.

    Args:
        fault: what the class says of their tensors, such as `missing_keys`.
        keys: names of these tensors, one or more.
        name: name of the class.
    """
    found = counted(len(keys), fault.removesuffix("s").replace("_", " "))
    text = f"not weights of {name}: {found}, first {min(map(str, keys))}"
    return f"{text}; copy them again, or give those of {name}"
