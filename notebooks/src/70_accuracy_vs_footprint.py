# %% [markdown]
# # Accuracy against footprint: which model is worth its size?
#
# **Aim.** A model that is more accurate and costs more is not better or worse than a cheaper one: it is a trade. You look at
# recorded runs and at your own, cost by cost, and ask which models nothing beats, which of them really differ, when a
# training pays, where in a model the memory lies, and what a small model gains that asks a larger one only when it is unsure.
#
# | profile | what it does | time on 2 cores | memory |
# |---|---|---|---|
# | `tiny` | two quick runs of your own beside the recorded ones | under a minute | under 1.5 GB |
# | `laptop` | the same, with SmolLM2 in 16 and 4 bits as well | three to five minutes | under 1.6 GB |
# | `gpu` | the same, and adapters | not timed yet | under 2 GB of GPU memory, by `slmkit fit` |
#
# Nothing leaves this machine. Your runs go to `runs` beside this notebook. What is *recorded* was measured earlier, on the
# machine that is named, and comes with slmkit: every answer to every row is in it, so it compares row by row.

# %%
import os

import slmkit
from slmkit import footprint

PROFILE = os.environ.get("SLMKIT_PROFILE", "laptop")  # or write "tiny" or "gpu" here
print(footprint.headline(PROFILE))

# %% [markdown]
# ## Runs of your own, on the recorded rows
#
# The recorded runs on `fraud_messages` learned from 300 messages and were tested on 400, seed 0. A study with the same
# numbers cuts the same rows, since the split depends on the rows and the seed alone. So your runs stand in one picture with
# the recorded ones, and are compared with them message by message.

# %%
BOTH = {"models": ["minilm", "smollm2-135m-instruct"], "bits": [16, 4]}
SETTINGS = {
    "tiny": {"methods": ["floor", "embedding"], "models": ["minilm"], "bits": [16], "measure_s": 0.5},
    "laptop": {"methods": ["floor", "embedding"], **BOTH},
    "gpu": {"methods": ["floor", "embedding", "lora"], **BOTH},
}
OUT = f"runs/70_accuracy_vs_footprint_{PROFILE}"
result = slmkit.study("fraud_messages", train=300, test=400, seeds=[0], out=OUT, **SETTINGS[PROFILE])
print(
    f"{len(result.runs)} runs, {len(result.failed)} failed; at most {result.peak_rss_bytes / 1e6:.0f} MB in one process"
)

# %% [markdown]
# ## The explorer
#
# Up is better, left is cheaper; bars are 95 % intervals, the dashed line is the floor. Choose a task and a cost, keep only
# some models or bits, pick two to compare. It reads the folder of this study and what is recorded; `ParetoExplorer()` alone
# reads all of `runs`, also those of other notebooks.

# %%
from slmkit_widgets import ParetoExplorer

explorer = ParetoExplorer(folder=OUT, task="fraud_messages", footprint="latency_p50_s")
explorer

# %% [markdown]
# All of it is a few lines of Python. The picture by itself, for a page or a talk:

# %%
import slmkit_data

from slmkit import plots

recorded = slmkit.read_runs(slmkit_data.path("runs"), recorded=True)
fraud = [run for run in recorded if run.task == "fraud_messages" and run.n_train == 300]
plots.accuracy_vs_footprint(result.runs, "stored_bytes", recorded=[run for run in fraud if run.method != "prompt"])

# %% [markdown]
# ## Which are on the front, cost by cost?
#
# A model is *on the front* of a cost if none is at least as accurate for less. The fronts of bytes and of time are not the
# same: 4 bits are small and slow. What is on no front can be left out whatever matters to you, as far as these rows tell.

# %%
from slmkit import tradeoffs

sentences = [run for run in recorded if run.task == "financial_phrasebank"]
for caveat in tradeoffs.caveats(sentences):
    print("-", caveat)
table = tradeoffs.fronts(sentences)
table.drop(columns=["number", "machine"]).round(1)

# %% [markdown]
# **The trap:** a front goes through what was *measured*, and luck is in it. The most accurate of many is on every front by
# definition, even where all are alike. Here is the same table for the fraud messages, your runs among them. Something stands
# on the fronts above the floor. Is it better than the floor?

# %%
both = [*result.runs, *fraud]
for caveat in tradeoffs.caveats(both):
    print("-", caveat)
fronts = tradeoffs.fronts(both)
fronts.loc[fronts["fronts"] > 0, ["configuration", "accuracy", *(name for name in fronts if "front" in name)]]

# %%
for sentence in plots.verdicts(fraud, slmkit_data.path("runs"))[:2]:
    print("-", sentence)

# %% [markdown]
# ## Two picked runs, row by row
#
# The explorer's verdict: of the two first picked, and of any two by their number. Both answered the same messages, so only
# those count where just one of them is right.

# %%
print(explorer.model.comparison)
names = {name: place for name, place in explorer.model.pick_options if place}
mine = next(name for name in names if "MiniLM" in name and "recorded" not in name)
theirs = next(name for name in names if "LoRA" in name and "SmolLM2" in name)
explorer.model.first, explorer.model.second = names[mine], names[theirs]
print(explorer.model.comparison)

# %% [markdown]
# ## What an interval hides
#
# **The trap:** two intervals overlap, so the two are "the same". They are not: an interval says how well *one* accuracy is
# known over all rows. Two models that fail on the same rows can differ for certain while both are known badly. Asking row
# by row tells. And the reverse: among many pairs some differ by luck alone, one in twenty.

# %%
pairs = tradeoffs.pairs(fraud, slmkit_data.path("runs"))
hidden = pairs[pairs["intervals_overlap"] & pairs["differ"]]
print(f"{len(pairs)} pairs, recorded; in {pairs['intervals_overlap'].sum()} the two intervals overlap")
print(f"of those {len(hidden)} differ row by row all the same (p below 0.05)")
print(f"by luck alone about {0.05 * len(pairs):.0f} of {len(pairs)} would differ; {pairs['differ'].sum()} do")
hidden[["first", "second", "n", "points", "low", "high", "p"]].round(3).head(5)

# %% [markdown]
# **Exercise 70.1.** Of the pairs whose intervals overlap, which share (0 to 1) differs row by row? Write your answer in place of
# the dots and run the cell: it says what it thinks of it.

# %%
from slmkit import workshop

### BEGIN SOLUTION
answer_70_1 = pairs.loc[pairs["intervals_overlap"], "differ"].mean()
### END SOLUTION
workshop.check("70.1", answer_70_1, pairs=pairs)

# %% [markdown]
# ## When does a training pay?
#
# A prompt needs no training, and reads a long instruction for every message. A tuned adapter takes minutes first and reads
# the message alone. After how many messages has it caught up? In seconds, from two recorded runs of one machine (a busy one:
# read it as an order of size). Whether the answers are any good is the other half of the question.

# %%
slm = [run for run in fraud if run.model == "smollm2-135m-instruct" and run.bits == 16 and run.seed == 0]
prompt = next(run for run in slm if run.method == "prompt" and run.params["shots"] == 0)
tuned = next(run for run in slm if run.method == "lora")
for run in (prompt, tuned):
    print(f"{run.label}: {run.fit_s:.0f} s before, {run.rows_per_s:.1f} rows/s, accuracy {run.accuracy:.1%} (recorded)")
print(f"The training has paid after {tradeoffs.break_even_rows(prompt, tuned):,.0f} messages")

# %% [markdown]
# ## Where the memory lies
#
# From the configuration alone, nothing is loaded: SmolLM2 while it scores, and while its last 8 blocks are trained. The
# embedding table is one long bar. A block that is trained takes several times what it takes to be read: gradients, the
# optimizer, and what it keeps for the way back.

# %%
scoring = slmkit.estimate("smollm2-135m-instruct")
plots.memory_by_layer(scoring.by_layer(), "SmolLM2-135M while it scores")

# %%
training = slmkit.estimate("smollm2-135m-instruct", method="last-k", last_blocks=8, batch=16)
print(
    f"scoring: {scoring.peak_bytes / 1e9:.2f} GB, training: {training.peak_bytes / 1e9:.2f} GB, both with the process"
)
plots.memory_by_layer(training.by_layer(), "SmolLM2-135M, LoRA on the last 8 blocks, 16 rows at once")

# %% [markdown]
# ## The hybrid: ask a larger model only when unsure
#
# The floor answers all sentences, and hands on those it is least sure of. On Financial PhraseBank the floor costs next to
# nothing, and SmolLM2 with LoRA in 4 bits knows better. All from recorded answers, no model is loaded.

# %%
from slmkit import cascade
from slmkit.runs import read_probabilities

floor = next(run for run in sentences if run.method == "floor")
larger = next(run for run in sentences if run.model == "smollm2-135m-instruct" and run.bits == 4)
answers = [read_probabilities(run, slmkit_data.path("runs")) for run in (floor, larger)]
plots.cascade_curve(cascade.curve(*answers), "floor", "SmolLM2 + LoRA, 4 bits")

# %% [markdown]
# **The trap:** the best point of this line was chosen on the rows it is drawn from, so it looks too good. `routed` chooses the
# threshold on four fifths of the rows and measures it on the last fifth, five times over. The question to ask: how many
# calls may it cost (`calls`), or how much accuracy may be lost (`lose`)?

# %%
for goal in ({"calls": 0.2}, {"lose": 0.01}):
    found = cascade.routed(*answers, **goal)
    seconds = [1 / run.rows_per_s for run in (floor, larger)]
    joules = [run.energy_j_per_1000_rows / 1000 for run in (floor, larger)]
    print(f"Goal: {goal}")
    print("\n".join(f"- {line}" for line in found.lines()))
    print(f"- a row takes {found.cost(*seconds):.3f} s instead of {seconds[1]:.3f}, and {found.cost(*joules):.2f} J")
    print(f"  instead of {joules[1]:.2f} ({larger.energy_origin}); recorded\n")

# %% [markdown]
# **Exercise 70.2.** `joules` holds what a row costs the floor and SmolLM2. What does a row cost on average, in joules, if 40 %
# of the rows are handed on?

# %%
### BEGIN SOLUTION
answer_70_2 = joules[0] + 0.4 * joules[1]
### END SOLUTION
workshop.check("70.2", answer_70_2, joules=joules)

# %% [markdown]
# **What it does not save:** bytes and memory. Both models have to be there. And it needs a larger model that is better: on the
# fraud messages none beats the floor, so there is little to call for. Two that are alike but fail on different rows may
# gain a little from each other; look whether the interval says so.

# %%
pair = [next(run for run in fraud if (run.method, run.seed) == ("floor", 0)), tuned]
found = cascade.routed(*(read_probabilities(run, slmkit_data.path("runs")) for run in pair), calls=0.4)
print("\n".join(f"- {line}" for line in found.lines()))

# %% [markdown]
# ## What you have now
#
# - Two or more runs of your own beside the recorded ones, in one picture and compared row by row.
# - Fronts, pairs, a break-even point and a cascade, each from the records alone: `slmkit.tradeoffs`, `slmkit.cascade`.
#
# **How to choose.** Say first what is scarce: bytes, memory, time or energy. Take the front of *that* cost. Go from its
# cheapest end upwards, and stop where the next step is not told apart row by row, or not worth its price to you.
#
# **What to try next.**
#
# - Your own study: `ParetoExplorer(folder="runs/00_start_here_laptop")`.
# - A cascade of your own two runs: `slmkit.runs.read_probabilities(run, folder)` gives what `cascade.routed` takes.
# - Another model's layers: `plots.memory_by_layer(slmkit.estimate("mistral-7b-instruct", bits=4).by_layer())`.
#
# ## If something went wrong
#
# | what you see | what to do |
# |---|---|
# | the explorer is a line of text | the page has no widgets here; every cell below it does the same in Python |
# | `these are 2 setups` | fronts are of one task and one number of rows: choose the runs first |
# | `the same rows with the same labels` | the two runs were tested on other rows: another seed, size or version of the data |
# | `different machines` | times compare on one machine only: run both here |
# | `NotEnoughMemory` | close other programs; the message shows the arithmetic |
# | a run failed | look above the table, or into `runs/.../logs` |
# | a model is missing, or anything else | `slmkit doctor` in a terminal, and read its `[FAIL]` lines |
