"""Settings of a job, and how they are loaded."""

from pipeline.config.job import JobConfig
from pipeline.config.loading import Fault, load
from pipeline.config.source import VideoSource

__all__ = ["Fault", "JobConfig", "VideoSource", "load"]
