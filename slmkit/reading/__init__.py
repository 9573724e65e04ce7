"""Reads tables as they stand: CSV, TSV, JSONL, Parquet and Excel, and finds texts and labels among their columns.

A further format is a module here; `slmkit/data.py` makes checked rows of what comes out.
"""
