"""Data that slmkit ships: corpora written for it, their cards, and recorded runs. Imported as `slmkit_data`."""
