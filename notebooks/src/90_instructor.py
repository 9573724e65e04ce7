# %% [markdown]
# # For the teacher: a class of two hours
#
# **Aim.** You teach a room of people what a small language model buys them, on their own machines, without internet. Here is
# the plan, what to say, what to expect, what goes wrong, and a table of what everybody measured.
#
# | profile | what it does | time on 2 cores | memory |
# |---|---|---|---|
# | `tiny` | expected ranges from recorded runs, code words, the picture of a class with your own floor in it | seconds | under 1 GB |
# | `laptop` | the same, with a small encoder of your own beside the floor | half a minute | under 1 GB |
# | `gpu` | as `laptop` | not timed yet | under 1 GB of GPU memory, by `slmkit fit` |
#
# Nothing leaves this machine, and the students' results come to you as files that you collect yourself.

# %%
import os
from collections import Counter
from pathlib import Path

import pandas as pd

import slmkit
from slmkit import footprint, metrics, plots, workshop

PROFILE = os.environ.get("SLMKIT_PROFILE", "laptop")  # or write "tiny" or "gpu" here
print(footprint.headline(PROFILE))

# %% [markdown]
# ## A week before
#
# 1. **Fill a folder** where there is internet: `slmkit prefetch room`. It holds the models, the corpora, their licences and the
#    SHA-256 of every file, about 200 MB. Public sets come along with `--data sms_spam`. Copy it to a stick or a share;
#    `slmkit prefetch room --check` says whether the copy is whole.
# 2. **On each machine** install slmkit (`pip download -d wheels -c constraints.txt ".[bnb,notebooks]"` fills a folder with the
#    packages, `pip install --no-index --find-links wheels ...` reads it), copy the notebooks, and set
#    `SLMKIT_ASSETS=/where/the/room/is`.
# 3. **Ask for the code word:** `slmkit doctor --workshop` in the folder of the notebooks. It takes half a minute, tries all that
#    the class needs, and ends in two words. Have them sent to you.
#
# **The trap:** a machine that has read the sentence once has the model opened in its cache; the first time takes longer.
#
# ## Code words
#
# `amber-acorn` means that nothing is missing. Any other word says which checks failed. Write the words that you were told in
# place of these two.

# %%
TOLD = ["amber-acorn", "brisk-comet"]
for word, n in Counter(TOLD).most_common():
    print(f"{n} x {word}: {workshop.room.explain(word)}\n")

# %% [markdown]
# For the wall, the words of single faults. Several faults make other words; `slmkit doctor --decode WORD` knows all 256.

# %%
checks = list(workshop.room.LOOKS)
for name, (_, mend) in workshop.room.LOOKS.items():
    word = workshop.codewords.encode([name == other for other in checks])
    print(f"{word:<14}{name:<14}{mend}")

# %% [markdown]
# ## Two hours
#
# | minutes | what | where |
# |---|---|---|
# | 0 to 10 | code words; whoever has another one sits beside somebody with `amber-acorn` | `slmkit doctor --workshop` |
# | 10 to 25 | *What is a floor, and why does it stand in every table?* Read ten messages together first: what would you go by? | `00_start_here`, data |
# | 25 to 45 | everybody runs the study; while it runs, guess the order of the four methods and write it on the wall | `00_start_here` |
# | 45 to 60 | the picture: who costs more and gets less? Exercises 00.1 and 00.2 | `00_start_here` |
# | 60 to 70 | break; those whose study still runs let it run | |
# | 70 to 95 | one of two tables: what four bits save and cost, or what a missed fraud costs; its two exercises | `40_four_bits` or `30_fraud_text` |
# | 95 to 105 | whose data leak? Two people tell what the leak guard found in theirs, or in the example | `10_your_data` |
# | 105 to 110 | `slmkit export -o NAME.zip`, and the files come to you | a terminal |
# | 110 to 120 | the picture of the class, below; what would each of you use on Monday? | this notebook |
#
# With one hour: minutes 0 to 60. On slow machines set `SLMKIT_PROFILE=tiny` for all, and say that 40 rows cannot tell much: that
# is a lesson of its own.

# %% [markdown]
# ## What to say
#
# - **A floor first.** Counting words takes a second and no model. What does not beat it is not worth its megabytes, however new.
# - **An interval is part of the number.** 75 % of 40 rows is anything from about 60 to 86. Ask at every table: could it be luck?
# - **Pairs.** Two models on the same rows are compared on the rows where they differ, not by their intervals.
# - **A file is not memory, and fewer bits are not faster.** Let them find it in their own table before you say it.
# - **A leak is not a detail.** A copied row is answered from memory. The guard looks before the score, not after it.
# - **Who pays?** Accuracy counts a missed fraud and a false alarm alike. Nobody outside the room does.

# %% [markdown]
# ## What to expect
#
# Promise ranges, not digits: rows, seeds and machines differ. These runs were **recorded**, not measured here, and they learned
# from 300 messages. The last two columns are what as many rows as the notebooks test on would show of the same model, 95 times
# of a hundred. With fewer messages to learn from expect less, of LoRA most of all.

# %%
import slmkit_data

from slmkit.runs.configurations import machine_name, model_name

recorded = slmkit.read_runs(slmkit_data.path("runs"), recorded=True)
fraud = [run for run in recorded if run.task == "fraud_messages" and run.seed == 0]


def about(share: float, n: int) -> str:
    """The range that n rows show of a model that is right so often, rounded outwards to 5 points."""
    low, high = metrics.wilson(round(share * n), n)
    return f"{5 * (100 * low // 5):.0f} to {min(5 * (100 * high // 5 + 1), 100):.0f} %"


rows = [
    [run.method, model_name(run.model) or "-", run.bits or "-", f"{run.params.get('shots', '')}", run.n_test]
    + [about(run.accuracy, n) for n in (run.n_test, 120, 40)]
    for run in sorted(fraud, key=lambda run: -run.accuracy)
]
print("recorded on:", " and ".join(sorted({machine_name(run.machine) for run in fraud})))
names = ["method", "model", "bits", "shots", "rows tested", "accuracy", "120 rows (laptop)", "40 rows (tiny)"]
pd.DataFrame(rows, columns=names)

# %% [markdown]
# Exercises are judged by what each machine measured, so no key with figures exists. `workshop.solution("00.1")` shows one way
# to do each; the sources hold all of them (`notebooks/src`, between nbgrader's delimiters; `python -m tools.build_notebooks
# --nbgrader DIR` writes notebooks for nbgrader).

# %%
print(workshop.progress())

# %% [markdown]
# ## What the class measured
#
# Collect the files of `slmkit export` in a folder `exports` beside this notebook, each named after its student. They hold
# records, progress and cards: no text of a row, no path, no token. They are read as data, and what cannot be right is named.
#
# As long as that folder is not there, this cell makes an example: your own run, measured now, and the recorded ones.

# %%
EXPORTS = Path("exports")
METHODS = "floor" if PROFILE == "tiny" else "floor,embedding"
if not EXPORTS.is_dir():
    EXPORTS, own, old = Path("exports_example"), Path(f"runs/90_instructor_{PROFILE}"), Path("runs/90_recorded")
    EXPORTS.mkdir(exist_ok=True)
    how = {"models": "minilm", "bits": [16], "train": 300, "test": 400, "measure_s": 0.5, "seeds": [0]}
    slmkit.study("fraud_messages", methods=METHODS, out=own, **how)
    for run in fraud:
        slmkit.runs.write_run(run, old / "runs")
    workshop.export(old, EXPORTS / "recorded.zip")
    workshop.export(own, EXPORTS / "teacher.zip")
found = workshop.gather(EXPORTS)
for problem in found.problems:
    print("-", problem)
n_measured = int((found.runs["origin"] == "measured").sum())
print(
    f"{len(found.runs)} runs of {found.runs['student'].nunique()} students in {EXPORTS}, {n_measured} measured by them"
)

# %% [markdown]
# One marker a student and configuration, the recorded ones fainter. The scores of one configuration lie close together, since
# the rows are the same; the times do not, since the machines are not. **Ask:** what would move if everybody had other rows?

# %%
TASK = found.runs["task"].mode()[0]
plots.class_results(found.runs[found.runs["task"] == TASK], "latency_ms")

# %%
shown = found.runs.groupby(["task", "configuration"])
spread = shown[["accuracy", "latency_ms", "peak_memory_MB"]].agg(["min", "max"]).round(2)
spread.columns = [f"{name} {end}" for name, end in spread.columns]
spread.insert(0, "students", shown["student"].nunique())
spread.reset_index()

# %% [markdown]
# Who has done which exercise, as their own progress says.

# %%
found.progress

# %% [markdown]
# ## What you have now
#
# - A plan, ranges to promise, and a table of what the class measured: `found.runs.to_csv("class.csv")` keeps it.
# - A folder for the next room: `slmkit prefetch` brings it up to date.
#
# ## If something went wrong
#
# | what happens in the room | what to do |
# |---|---|
# | a code word with *memory* | close the browser's other tabs; then `SLMKIT_PROFILE=tiny`; then two people at one machine |
# | a code word with *models* | `export SLMKIT_ASSETS=...` was not set in *this* terminal, or the stick is not plugged in |
# | a code word with *kernel* | the notebook runs in another environment: choose its kernel, or start JupyterLab from the right one |
# | `holds a damaged copy: ...` | the copy of the folder lost bytes: copy the named file anew |
# | everybody's study takes twice as long | laptops on battery or with a browser full of video: plug in, close, compare again |
# | two neighbours have other figures for the same model | other threads, other processors: that is the point of measuring; compare `machine` |
# | a student's accuracy is far above the range | look at the leak report of their split first |
# | an export is missing runs | `slmkit export` was called in another folder: it takes what lies in the folder where the notebooks ran |
# | a check says *could not be checked* | the cells above were not run, or in another order: *Run > Run All Cells* |
