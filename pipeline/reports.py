"""What a run leaves about itself in the output: `reports/<run>/config.yaml` and `summary.json`."""

import json

from omegaconf import OmegaConf

from pipeline.config import JobConfig
from pipeline.storage import Store
from pipeline.summary import Summary


def write_config(store: Store, run: str, config: JobConfig) -> None:
    """Write the settings of a run as YAML that can be run again, credentials left out."""
    text = OmegaConf.to_yaml(OmegaConf.create(config.public()))
    store.write(f"reports/{run}/config.yaml", text.encode())


def write_summary(store: Store, summary: Summary) -> None:
    """Write the outcome of a run."""
    text = json.dumps(summary.to_dict(), indent=1, ensure_ascii=False)
    store.write(f"reports/{summary.run}/summary.json", text.encode())
