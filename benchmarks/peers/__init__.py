"""What others do with the same model, each run as a process of its own: `python -m edgesafe.benchmarks.peers.<name> MODEL FOLDER`."""
