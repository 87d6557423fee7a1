"""Whether all nodes see the same output.

The driver writes the settings of its run into the output before any work. A node that does not see
this file has another folder under the same name, and what it writes is lost for the dataset.
"""

from pipeline.dataset.records import UnitRecord
from pipeline.errors import ConfigError
from pipeline.job.nodes import ask_other_nodes
from pipeline.storage.files import on_local_disk
from pipeline.storage.store import Store


def require_shared(store: Store, proof: str) -> None:
    """Let each node look for a file that the driver wrote.

    Args:
        store: the output.
        proof: path of the file in the output.

    Raises:
        ConfigError: a node that can take work does not see the file.
    """
    answers = ask_other_nodes(store.exists, proof)
    if blind := sorted(node for node, sees in answers.items() if not sees):
        raise ConfigError(
            f"output.uri = {store.uri}: not the same folder on all nodes: node {', '.join(blind)}"
            f" does not see {proof}, which the driver wrote; mount one shared file system there on"
            " every node, or set an object store such as s3://bucket/corpus"
        )


_seen: set[tuple[str, str]] = set()


def sees_once(store: Store, proof: str) -> bool:
    """Return whether this process sees a file; a file that was seen is not looked for again."""
    if (store.uri, proof) not in _seen:
        if not store.exists(proof):
            return False
        _seen.add((store.uri, proof))
    return True


def missing_part(store: Store, record: UnitRecord) -> str | None:
    """Return what is wrong with the first file of a record that this process does not see whole.

    Files in object stores are not looked for: the writer has confirmed each of them.
    """
    if not on_local_disk(store.filesystem()):
        return None
    for part in (*record.parts, *filter(None, [record.quarantine])):
        try:
            found = store.size(part.path)
        except FileNotFoundError:
            return f"{part.path} was written, but the driver does not see it; share the output"
        if found != part.bytes:
            return (
                f"{part.path} was written with {part.bytes} bytes, but the driver sees {found};"
                " share the output"
            )
    return None
