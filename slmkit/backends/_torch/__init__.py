"""The parts of the torch backend: GGUF conversion, loading and quantising, scoring, writing text, training."""

import logging

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(
    logging.ERROR
)  # it warns of a hub kernel slmkit does not use
