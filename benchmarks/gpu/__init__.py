"""Speed, correctness and memory on one accelerator: `python -m benchmarks.gpu`."""
