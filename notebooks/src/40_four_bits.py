# %% [markdown]
# # Four bits: what is saved, and what is paid
#
# **Aim.** A model in 4 bits is a quarter of the file. Is it also a quarter of the memory, the time, the energy? And what does
# it do to the answers? You look into the numbers of a real model, store it in 8 and 4 bits, and measure all of it on your
# own machine, the accuracy row by row on the same texts.
#
# | profile | what it does | time on 2 cores | memory |
# |---|---|---|---|
# | `tiny` | one method on few rows: enough to see that few rows cannot tell | about a minute | under 1.5 GB |
# | `laptop` | two methods on more rows | about five minutes | under 1.6 GB |
# | `gpu` | three methods on more rows | not timed yet | under 2 GB of GPU memory, by `slmkit fit` |
#
# Nothing leaves this machine. What is written goes to `quantised` and `runs` beside this notebook.

# %%
import os

import slmkit
from slmkit import footprint

PROFILE = os.environ.get("SLMKIT_PROFILE", "laptop")  # or write "tiny" or "gpu" here
print(footprint.headline(PROFILE))

# %% [markdown]
# ## A handful of real weights
#
# A language model is some dozens or hundreds of matrices. Here is one of MiniLM, whose file holds every number by itself, in
# 32 bits, and the first 64 numbers of its first row. Most are near zero, few are large.

# %%
import numpy as np

from slmkit import assets, backends
from slmkit.assets import tensors

weight = tensors.read(assets.resolve("minilm").folder, "encoder.layer.3.intermediate.dense.weight")
block = weight[0, :64]
print(
    f"{weight.shape[0]} x {weight.shape[1]} numbers; the first 64 lie between {block.min():.3f} and {block.max():.3f}:"
)
print(block[:8].round(4), "...")

# %% [markdown]
# ## A number in four bits
#
# Four bits tell 16 things apart, so 16 **levels** are all there is. A block of 64 numbers shares one **scale**, its largest
# number. Each number is divided by the scale, goes to the nearest level, and only the level's index is kept.
#
# Where to put the levels? Evenly is the obvious choice. Weights look like draws from a bell curve, so *NF4* puts more levels
# where more numbers are (Dettmers et al. 2023, arXiv 2305.14314).

# %%
from scipy.stats import norm

above = norm.ppf(np.linspace(0.9677, 0.5, 9)[:-1])
below = -norm.ppf(np.linspace(0.9677, 0.5, 8)[:-1])
levels = {"even": np.linspace(-1, 1, 16), "NF4": np.sort(np.concatenate([above, below, [0]])) / above.max()}


def in_four_bits(numbers: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """What comes back after 16 levels and one scale for every 64 numbers; any shape with a multiple of 64."""
    blocks = numbers.reshape(-1, 64)
    scale = np.abs(blocks).max(axis=1, keepdims=True)
    index = np.abs((blocks / scale)[:, :, None] - levels).argmin(axis=2)  # 0..15: the four bits
    return (levels[index] * scale).reshape(numbers.shape)


for name, chosen in levels.items():
    off = np.abs(in_four_bits(weight[:200], chosen) - weight[:200]).mean() / np.abs(weight[:200]).mean()
    print(f"{name:<5} levels: a number is off by {off:.1%} of the mean size on average")

# %% [markdown]
# ## The error as a picture
#
# Each dot is one of the 64 numbers, the lines are the 16 levels times the scale. What a dot is away from its line is lost
# for good. Large numbers, at the top and the bottom, are hit hardest: the levels are far apart there.

# %%
import plotly.graph_objects as go


def block_figure(numbers: np.ndarray, levels: np.ndarray) -> go.Figure:
    """The numbers of one block, the levels they may take, and the way from the one to the other."""
    back, order = in_four_bits(numbers, levels), np.arange(len(numbers))
    away = {"x": np.repeat(order, 3), "y": np.column_stack([numbers, back, np.full(len(numbers), np.nan)]).ravel()}
    figure = go.Figure(go.Scatter(**away, mode="lines", line={"color": "#D55E00", "width": 3}, name="lost"))
    dot = {"size": 8, "color": "#0072B2"}
    figure.add_trace(go.Scatter(x=order, y=numbers, mode="markers", marker=dot, name="the number"))
    for level in levels * np.abs(numbers).max():
        figure.add_hline(y=level, line={"color": "rgba(127,127,127,0.5)", "width": 1})
    figure.update_xaxes(title="number in the block", showgrid=False)
    figure.update_yaxes(title="value", showgrid=False, zeroline=False)
    return figure.update_layout(height=420, template="simple_white", title="64 weights and the 16 levels of NF4")


block_figure(block, levels["NF4"])

# %% [markdown]
# ## The trap: one large number spoils its neighbours
#
# The scale is the largest number of the block. Make one of the 64 ten times as large: the levels spread, and the other 63
# share the few that are left near zero. This is why blocks are small, and why models with outliers lose more. slmkit does
# not take the largest number as it is: for every block it looks for the scale with the least squared error.

# %%
spoiled = block.copy()
spoiled[np.abs(block).argmax()] *= 10
others = np.abs(block) < np.abs(block).max()
for name, numbers in (("as it is", block), ("with an outlier", spoiled)):
    off = np.abs(in_four_bits(numbers, levels["NF4"]) - numbers)[others].mean() / np.abs(numbers[others]).mean()
    print(f"{name:<16} the other 63 numbers are off by {off:.0%} of their mean size")

# %% [markdown]
# ## Store a model in 8 and in 4 bits
#
# From here on it is SmolLM2-135M. **Know your reference:** its package is a file in about 4.5 bits (GGUF, Q4_1), which slmkit
# opened to 16. So what you measure below is what 8 and 4 bits lose against *that*, not against what its makers trained.
#
# In a terminal it is `slmkit quantize smollm2-135m-instruct --bits 4 -o quantised/smollm2-4bit`. The folder is complete or
# not there at all, and has a card: what it was made from, under which licence, and what it weighs. A folder that is already
# there is used as it is.

# %%
import json
from pathlib import Path

import pandas as pd

MODEL = "smollm2-135m-instruct"
folders = {bits: Path(f"quantised/smollm2-{bits}bit") for bits in (8, 4)}
for bits, folder in folders.items():
    if not folder.is_dir():
        slmkit.quantize(MODEL, bits=bits, out=folder)
cards = [json.loads((folder / "slmkit_quantised.json").read_text()) for folder in folders.values()]
stored = pd.DataFrame(cards)[["bits", "scheme", "stored_bytes", "bytes_per_parameter", "licence"]]
sixteen = {"bits": 16, "scheme": "bf16", "stored_bytes": cards[0]["bytes_16bit"], "bytes_per_parameter": 2.0}
pd.concat([pd.DataFrame([sixteen]), stored], ignore_index=True).fillna({"licence": cards[0]["licence"]})

# %% [markdown]
# **Exercise 40.1.** Which share of the model's bytes in 16 bits does the folder in 4 bits take, from 0 to 1? Write your answer
# in place of the dots and run the cell: it says what it thinks of it. `cards` holds both cards, the one in 8 bits first.

# %%
from slmkit import workshop

### BEGIN SOLUTION
answer_40_1 = cards[1]["stored_bytes"] / cards[1]["bytes_16bit"]
### END SOLUTION
workshop.check("40.1", answer_40_1, cards=cards)

# %% [markdown]
# ## The trap: 4 bits are not half a byte
#
# Four bits a number would be 0.5 bytes. The scales come on top, and the norms stay in 16 bits. The larger trap is the
# **embedding table**, one row for each of 49,152 tokens: a fifth of this model. Many tools leave it in 16 bits and say "4-bit
# model" all the same. Ask for the bytes of the *whole* model.

# %%
source = backends.prepare(assets.resolve(MODEL))  # the packaged file, opened once into the cache
table = tensors.read(source.folder, "model.embed_tokens.weight")
few, n_parameters = cards[-1]["stored_bytes"], cards[-1]["n_parameters"]
packed = table.size * 4.5 / 8  # 4 bits, and a 16-bit scale for every 32 numbers
left = few - packed + 2 * table.size
print(f"embedding table: {table.shape[0]:,} x {table.shape[1]} numbers, {table.size / n_parameters:.0%} of the model")
print(f"whole model in 4 bits:              {few / 1e6:6.1f} MB, {few / n_parameters:.3f} bytes a parameter")
print(f"the table left in 16 bits:          {left / 1e6:6.1f} MB, {left / n_parameters:.3f} bytes a parameter")

# %% [markdown]
# ## Measure: the same rows, the same machine
#
# The model in 16 bits, then the two folders by their path; their bits need not be said again. Every run has a process of its
# own, so that its memory is its own. `embedding` trains a linear classifier on the model's vectors; `prompt` (in `laptop`)
# asks the model in words, `lora` (in `gpu`) trains an adapter beside it.

# %%
SETTINGS = {
    "tiny": {"methods": ["embedding"], "train": 40, "test": 60, "measure_s": 0.5},
    "laptop": {"methods": ["embedding", "prompt"], "train": 320, "test": 240, "measure_s": 10.0},
    "gpu": {"methods": ["embedding", "prompt", "lora"], "train": 560, "test": 400, "measure_s": 10.0},
}
OUT = Path(f"runs/40_four_bits_{PROFILE}")
same = {"seeds": [0], "out": OUT, **SETTINGS[PROFILE]}
parts = [
    slmkit.study("fraud_messages", models=[MODEL], bits=[16], **same),
    slmkit.study("fraud_messages", models=[str(folder) for folder in folders.values()], **same),
]
runs = slmkit.read_runs(OUT)
failed = sum(len(part.failed) for part in parts)
peak = max(part.peak_rss_bytes for part in parts)
print(f"{len(runs)} runs, {failed} failed; at most {peak / 1e6:.0f} MB in one process")

# %% [markdown]
# ## What it did to the answers
#
# `points` is the change of accuracy against 16 bits **on the same rows**, `low` and `high` its 95 % interval, `p` how often a
# change this large would come by chance between two equally good models.
#
# **The trap:** "no significant loss" is not "no loss". Look at the interval. If it reaches from a loss you would mind to a gain,
# these rows cannot tell, and nobody should say that 4 bits are free.

# %%
from slmkit import bitcosts

costs = bitcosts.frame(runs, OUT)
costs[["configuration", "n_test", "accuracy", "points", "low", "high", "p"]].round(3)

# %% [markdown]
# **Exercise 40.2.** Which change, in points, can your rows not rule out for 4 bits, in the worst case? A loss is below zero.

# %%
### BEGIN SOLUTION
answer_40_2 = costs.loc[costs["bits"] == 4, "low"].min()
### END SOLUTION
workshop.check("40.2", answer_40_2, costs=costs)

# %% [markdown]
# ## How many rows would tell?
#
# A paired comparison lives on the rows where just one of the two is right. Suppose both models are equally good and differ on
# as many rows as they did here. This is how wide the interval would be. To exclude a loss of one point takes thousands of
# rows, with any model.

# %%
from slmkit import metrics

pair = [runs_of for runs_of in runs if runs_of.bits in (16, 4) and runs_of.method == "embedding"]
answers = [slmkit.runs.read_probabilities(run, OUT).set_index("row")["predicted"].sort_index() for run in pair]
differ = max(float((answers[0] != answers[1]).mean()), 0.02)  # two in a hundred at least
for n in (60, 240, 1000, 4000, 16000):
    only_one = round(differ * n / 2)
    rows = np.arange(n)
    found = metrics.mcnemar(rows >= only_one, (rows < only_one) | (rows >= 2 * only_one))
    print(f"{n:>6} rows: between {100 * found['low']:+.1f} and {100 * found['high']:+.1f} points")

# %% [markdown]
# ## What it saved and what it cost
#
# Each cost, and as a multiple of 16 bits: below 1 is saved, above 1 is paid. `energy_is` says where the energy comes from:
# *modelled* is an estimate from the time, so it cannot tell more than the time does.
#
# **The trap:** a file is not memory. Python, torch and the activations weigh the same whatever the bits are. And a packed
# weight has to be opened before it is multiplied, each time: on a CPU a small model in 4 bits is often the slower one.

# %%
costs[[column for column in costs if column.endswith(("configuration", "_MB", "_ms", "_J", "_ratio", "_is"))]].round(2)

# %%
from slmkit import plots

plots.bits_cost(runs, OUT)

# %% [markdown]
# ## In words
#
# The same as sentences. *Costs more than it saves* means: the smaller file is the only gain, and something else got worse.

# %%
for sentence in plots.verdicts(runs, OUT):
    if "bits instead of 16" in sentence:
        print("-", sentence)

# %% [markdown]
# ## A larger comparison, recorded
#
# This one was **not** measured on your machine. LoRA was trained on 1,807 sentences of financial news, with the model in 16
# and in 4 bits, and tested on 452. The records come with slmkit, the answer to every row among them, so the test is the same
# as above. The costs are those of the machine that is named.

# %%
import slmkit_data

from slmkit.runs.configurations import machine_name

shipped = slmkit_data.path("runs")
every = slmkit.read_runs(shipped, recorded=True)
recorded = [run for run in every if (run.task, run.model, run.method) == ("financial_phrasebank", MODEL, "lora")]
print("recorded on:", ", ".join(sorted({machine_name(run.machine) for run in recorded})))
for sentence in plots.verdicts(recorded, shipped):
    if "bits instead of 16" in sentence:
        print("- recorded:", sentence)
larger = bitcosts.frame(recorded, shipped)
larger[["configuration", "n_test", "accuracy", "points", "low", "high", "p", "stored_ratio", "latency_ratio"]].round(3)

# %% [markdown]
# ## What you have now
#
# - Two folders, `quantised/smollm2-8bit` and `quantised/smollm2-4bit`, that load by their path: `slmkit.load(folder)`.
# - What the bits cost on your machine, and whether your rows could tell.
#
# **When are 4 bits worth it?** When the 16-bit model does not fit, on disk, in a download or in memory: the larger the model,
# the more of its memory are weights. A small model on a CPU is mostly the opposite case: take 16 bits if they fit.
#
# **What to try next.**
#
# - Your own task: `slmkit study my.csv --models smollm2-135m-instruct --bits 16,8,4`, then `slmkit report runs -o report.html`.
# - Tune on the stored model: `LoRAClassifier("quantised/smollm2-4bit", bits=4)`. The adapter remembers what it belongs to.
# - More seeds, more rows: does the interval get narrower than what you would mind?
#
# ## If something went wrong
#
# | what you see | what to do |
# |---|---|
# | `is stored in 4 bits: bits must be 4` | a folder has one width: leave `bits` out, or name the model it was made from |
# | `it is not empty` | name another folder, or `force=True` to replace one that slmkit wrote |
# | `are not those that slmkit quantize wrote` | the file was altered or cut: delete the folder, run the cell again |
# | `MB of the disk` | make room, or write to another disk |
# | `NotEnoughMemory` | close other programs; the message shows the arithmetic |
# | the table says `missing` or stays short | a run failed: look above the table, or into `runs/.../logs` |
# | a model is missing, or anything else | `slmkit doctor` in a terminal, and read its `[FAIL]` lines |
