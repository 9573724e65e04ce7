"""The parts of the torch backend: GGUF conversion, loading and quantising, scoring, writing text, training.

Three settings of torch's libraries must stand before torch is loaded; a value already in the environment is kept.

- OpenMP's threads wait for each other by spinning. Long spinning made two LoRA trainings side by side on two cores run
  at 54 tokens/s each instead of 600; with 5,000 turns a quiet machine keeps nearly all of its speed.
- oneDNN, and torch above it, keep 1,024 compiled kernels each, one for every shape of a batch. With few of them a LoRA
  training of SmolLM2-135M peaked at 1.1 GB instead of 1.6, at the same speed.
"""

import logging
import os

os.environ.setdefault("GOMP_SPINCOUNT", "5000")
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
os.environ.setdefault("LRU_CACHE_CAPACITY", "16")
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(
    logging.ERROR
)  # it warns of a hub kernel slmkit does not use
