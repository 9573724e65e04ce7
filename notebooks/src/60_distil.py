# %% [markdown]
# # Distil: what a small student keeps of a larger teacher
#
# **Aim.** Labels are dear, texts are cheap. A model that has read a lot learns from few labels, word counts do not. So let the
# model say what it thinks of many texts that nobody has labelled, and let something much smaller learn *that*. How much of the
# teacher does the student keep, what would it have known from the labels alone, and what does it save?
#
# | profile | what it does | time on 2 cores | memory |
# |---|---|---|---|
# | `tiny` | four kinds of tickets; an encoder of 23 million parameters teaches | about a minute | under 1.5 GB |
# | `laptop` | all twelve kinds; the same encoder is tuned as a whole and teaches | two to six minutes | under 1.5 GB |
# | `gpu` | as `laptop`, with more labels of each kind | not timed yet | under 1 GB of GPU memory, by `slmkit fit` |
#
# Nothing leaves this machine. Teacher, students and what the teacher said go to `distilled` beside this notebook; what is
# there already is read and not made again.

# %%
import os

import slmkit
from slmkit import footprint

PROFILE = os.environ.get("SLMKIT_PROFILE", "laptop")  # or write "tiny" or "gpu" here
print(footprint.headline(PROFILE))

# %% [markdown]
# ## Few labels, many texts
#
# Customers write to a bank; each ticket belongs to one kind. Two fifths are held out for the test. Of the rest a few of each
# kind keep their label, as if somebody had had an hour for it. The others are the **pool**: their labels are taken away.

# %%
from pathlib import Path

from slmkit import tasks

SETTINGS = {
    "tiny": {"kinds": ["card_declined", "card_lost", "cash_machine", "charge_dispute"], "each": 8, "measure_s": 0.5},
    "laptop": {"kinds": list(tasks.get("support_tickets").labels), "each": 16, "measure_s": 3.0},
    "gpu": {"kinds": list(tasks.get("support_tickets").labels), "each": 24, "measure_s": 3.0},
}[PROFILE]
OUT = Path(f"distilled/60_{PROFILE}")
tickets = tasks.get("support_tickets").load()
tickets = tickets[tickets["label"].isin(SETTINGS["kinds"])].reset_index(drop=True)
split = slmkit.split(tickets, seed=0, test_share=0.4)
labelled = split.train.groupby("label").sample(SETTINGS["each"], random_state=0)
pool = split.train.drop(index=labelled.index)[["text"]]
test = split.test[["text", "label"]]
print(
    f"{len(labelled)} texts with a label, {len(pool)} without, {len(test)} for the test; {len(SETTINGS['kinds'])} kinds"
)
labelled[["text", "label"]].head(4)

# %% [markdown]
# ## The teacher
#
# It learns from the labelled rows and nothing else. In `tiny` it is MiniLM with a linear classifier on its vectors; in the others
# all its blocks are tuned by LoRA. It is saved, and `Remembered` asks it about a text once only:
# what a teacher says of a large pool is the dear part of distilling.
#
# **The trap:** a teacher that has seen the test rows hands them on. Ours has not, and slmkit cannot know that of yours.

# %%
import pandas as pd

from slmkit import EmbeddingClassifier, LoRAClassifier
from slmkit.tuning.remembered import Remembered

if not (OUT / "teacher").is_dir():
    made = EmbeddingClassifier("minilm") if PROFILE == "tiny" else LoRAClassifier("minilm", epochs=20)
    made.fit(labelled["text"].tolist(), labelled["label"].tolist())
    made.save(OUT / "teacher")
    made.release()
teacher = Remembered(OUT / "teacher")
example = pool["text"].iloc[0]
print(example[:100], "...")
said = pd.Series(teacher.predict_proba([example])[0], teacher.classes_)
print(said.sort_values(ascending=False).head(4).round(2).to_string())

# %% [markdown]
# These probabilities are what is handed over, not words or vectors: so teacher and student need not be of one kind. They say
# more than a label: which other kind it might have been, and how sure the teacher is.
#
# ## The first student: word counts
#
# It gets the labelled rows and the pool. Where a text has a label, label and teacher count half each (`weight=0.5`). Beside it
# the same student learns from **the labels alone**, and all three are scored on the same test rows.

# %%
from slmkit.tuning import distilled

texts = [*labelled["text"], *pool["text"]]
labels = [*labelled["label"], *[None] * len(pool)]
same = {"labels": labels, "test": test, "measure_s": SETTINGS["measure_s"]}
students = {"word counts": distilled.once(OUT / "word_counts", teacher, "floor", texts, **same)}
print("\n".join(students["word counts"].lines()))

# %% [markdown]
# - **Retention**: the student's accuracy over the teacher's. Above 100 % is no mistake: it has the labels *and* the teacher,
#   and another view of the texts, so it is not bound to repeat what the teacher gets wrong.
# - **The gap closed**: how far distilling took it from what it knows by labels alone to the teacher.
# - **It saves** bytes and time: against the teacher it needs a fraction of both.
#
# ## The second student: half a model
#
# `slmkit.prune` takes blocks out of a model, those over which a text's vector turns least. What is left is smaller, quicker
# and worse; here it gets a new linear classifier that learns from the teacher. The whole encoder is a third one, but not in `tiny`.

# %%
from slmkit import assets

half = OUT / "half_minilm"
if not half.is_dir():
    slmkit.prune("minilm", out=half, keep_layers=3)
card = assets.read_json(half / "slmkit_pruned.json")
print(f"{len(card['kept'])} of {card['blocks']} blocks left: {card['kept']} (counted from 0)")
print(
    f"{card['n_parameters'] / 1e6:.1f} of {card['base_parameters'] / 1e6:.1f} million parameters; most of these are embeddings"
)
kinds = {"half of MiniLM": str(half)} | ({"MiniLM": "minilm"} if PROFILE != "tiny" else {})
for name, model in kinds.items():
    folder = OUT / name.replace(" ", "_").lower()
    students[name] = distilled.once(folder, teacher, EmbeddingClassifier(model), texts, **same)
    print(f"\n{name}:", *students[name].lines(), sep="\n  ")

# %% [markdown]
# ## Side by side

# %%
from slmkit import plots
from slmkit.tuning import retention

scored = retention.scores({name: made.figures for name, made in students.items()})
plots.writing_scores(scored, "Teacher, student, and the student on labels alone", "Accuracy (%)")

# %%
figures = retention.table({name: (made.figures, made.saving) for name, made in students.items()})
figures.set_index("student").round(3).astype(object).T

# %% [markdown]
# **Exercise 60.1.** Which student gained most by its teacher over its labels alone, beyond what luck explains (p below 0.05)?
# Write its name in quotes in place of the dots, or `"none"`, and run the cell: it says what it thinks of it.

# %%
from slmkit import workshop

### BEGIN SOLUTION
gains = {n: made.figures["gain"] for n, made in students.items() if made.figures["p_vs_labels"] < 0.05}
answer_60_1 = max(gains, key=gains.get) if gains and max(gains.values()) > 0 else "none"
### END SOLUTION
workshop.check("60.1", answer_60_1, students=students)

# %% [markdown]
# ## The trap: test texts in the pool
#
# The pool comes from the same place as the test rows, so copies slip in, without labels and hence unsuspected. On Financial
# PhraseBank a published student reached 98.2 % with the test texts in its pool, and 87.9 % without. slmkit takes copies and
# near-copies of the test rows out of the pool, and says how many there were. Here we put all test rows into the pool:

# %%
mixed_in = {"texts": [*texts, *test["text"]], "labels": [*labels, *test["label"]], "test": test, "measure_s": 0}
guarded = distilled.once(OUT / "guarded", teacher, "floor", **mixed_in)
leaking = distilled.once(OUT / "leaking", teacher, "floor", **mixed_in, allow_leaks=True)
print("the guard on:", *guarded.lines()[:3], sep="\n  ")
print("switched off:", *leaking.lines()[:4], sep="\n  ")

# %% [markdown]
# The two students are scored on the very same rows, so the difference can be tested. **It is not skill**: the second one has
# learned the answers by heart. And the texts alone, without a label? Then the student learns by heart what its *teacher*
# says of just these texts, and its score moves to the teacher's: up with a good one, as in the famous case, or down.

# %%
from slmkit import metrics

unlabelled = {**mixed_in, "labels": [*labels, *[None] * len(test)]}
whispered = distilled.once(OUT / "whispered", teacher, "floor", **unlabelled, allow_leaks=True)
right = {
    name: (made.predictions["student"] == made.predictions["label"]).to_numpy()
    for name, made in {"guarded": guarded, "leaking, with labels": leaking, "leaking, texts alone": whispered}.items()
}
for name, hits in right.items():
    found = metrics.mcnemar(hits, right["guarded"])
    span = f"{100 * found['difference']:+.1f} points ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"
    print(f"{name:<22} {hits.mean():6.1%} of {len(hits)} rows; against guarded {span}, p = {found['p']:.2g}")

# %% [markdown]
# **Exercise 60.2.** By how many points does the pool with the *labelled* test rows in it raise the score over the guarded one?

# %%
### BEGIN SOLUTION
answer_60_2 = 100 * (right["leaking, with labels"].mean() - right["guarded"].mean())
### END SOLUTION
workshop.check("60.2", answer_60_2, right=right)

# %% [markdown]
# So not every leak shows as a high score. It is no less wrong for that: it says nothing of new texts.
#
# ## Use it
#
# A student is a classifier like any other: a folder with its record beside it. In a terminal the same is `slmkit distill
# TEACHER floor pool.csv --labels few.csv --test test.csv -o student`, and `slmkit classify` takes the folder.

# %%
student = slmkit.load_classifier(OUT / "word_counts")
for text in ("My card was swallowed by the machine at the station.", "I never bought anything in that shop!"):
    proba = student.predict_proba([text])[0]
    print(f"{text:<55} {student.classes_[proba.argmax()]} ({proba.max():.2f})")

# %% [markdown]
# ## A larger one, recorded
#
# This was **not** measured on your machine: Financial PhraseBank AllAgree, n = 452, one seed, two cores of an Intel Xeon with
# AMX. Teacher: SmolLM2-135M with LoRA, 96.0 % (93.8 to 97.5). Pool: 4,382 sentences, after 454 that stand in the test rows
# were taken out. From `benchmarks/RESULTS.md`.
#
# | student (recorded) | distilled | labels alone | distilling brings | keeps of the teacher | its latency |
# |---|---|---|---|---|---|
# | word counts | 92.5 (89.7 to 94.6) | 90.9 | +1.5 (-0.9 to 4.1), p = 0.28 | 96.3 % (93.7 to 99.1) | 1.0 % |
# | MiniLM, linear head | 90.9 (87.9 to 93.2) | 87.4 | +3.5 (0.7 to 6.5), p = 0.02 | 94.7 % (91.7 to 97.7) | 9.2 % |
#
# With many labels there is little left to win: the word counts know most of it already, and one of the two gains is not told
# from luck.
#
# With few labels and a pool it is another matter. This notebook in profile `laptop`, on two cores of an AMD EPYC (12 kinds, 192
# labels, n = 384, one seed), had a teacher of 79.2 % (74.8 to 82.9):
#
# | student (recorded) | distilled | labels alone | distilling brings | keeps of the teacher | its latency |
# |---|---|---|---|---|---|
# | word counts | 76.6 (72.1 to 80.5) | 54.4 | +22.1 (16.9 to 27.2), p < 0.001 | 96.7 % (90.8 to 102.4) | 2.1 % |
# | half of MiniLM | 67.7 (62.9 to 72.2) | 62.8 | +4.9 (0.4 to 9.5), p = 0.04 | 85.5 % (79.7 to 92.0) | 41.5 % |
# | MiniLM, linear head | 76.6 (72.1 to 80.5) | 74.2 | +2.3 (-1.1 to 5.8), p = 0.23 | 96.7 % (91.5 to 101.7) | 42.0 % |

# %% [markdown]
# ## What you have now
#
# - A student in `distilled`, a fraction of its teacher, with what it kept, won and saves, each with its interval.
# - A number for what a pool with the test texts in it does to a score.
#
# **When does it pay?** With few labels, many texts, and a teacher that is better than the student by more than chance. If
# "there is no gap to close" stands above, take the student as it is.
#
# **What to try next.**
#
# - More labels: `"each": 24`. Where does the gap go?
# - A softer teacher: `temperature=2.0` in `same`. A teacher alone: `weight=1.0`. Take another folder, the old one is kept.
# - Your own texts: `slmkit.distill(teacher, "floor", texts, labels=..., test=...)`.
#
# ## If something went wrong
#
# | what you see | what to do |
# |---|---|
# | `was distilled from other rows` | you changed something: remove that folder in `distilled`, or name another |
# | `the teacher's targets are uniform` | it says the same of every text: is it fitted, and on these labels? |
# | `has a probability of 0 in all` | the teacher never names this class: label a few rows of it |
# | `nothing is left to learn from` | the whole pool stands in the test rows: another pool is needed |
# | `NotEnoughMemory` | close other programs; the message shows the arithmetic |
# | a model is missing, or anything else | `slmkit doctor` in a terminal, and read its `[FAIL]` lines |
