# %% [markdown]
# # Your data: from a file to a split you can trust
#
# **Aim.** You have a table of labelled texts. Before any model is scored on it you want to know: was it read as you meant
# it, what is odd in it, and which rows may be used for testing? At the end you hold a small file that fixes the split.
#
# | profile | what it does | time on 2 cores | memory |
# |---|---|---|---|
# | `tiny` | every step, then a study of word counts and one small encoder | about a minute | under 1.5 GB |
# | `laptop` | the same, and a small decoder that is asked in words | about two minutes | under 1.6 GB |
# | `gpu` | the same, and an adapter is trained | not timed yet | under 2 GB of GPU memory, by `slmkit fit` |
#
# Nothing leaves this machine. Run it once as it is, with the messy example file that it makes for itself. Then write the
# path of **your own file** in one place, below *Your file*, and run it again.

# %%
import logging
import os
from pathlib import Path

import numpy as np
import pandas as pd

import slmkit
from slmkit import backends, footprint, workshop

PROFILE = os.environ.get("SLMKIT_PROFILE", "laptop")  # or write "tiny" or "gpu" here
print(footprint.headline(PROFILE))
logging.getLogger("slmkit.data").setLevel(logging.ERROR)  # what it warns of is printed below, not in red

# %% [markdown]
# ## A messy example
#
# Real files are exported from a mailbox, edited by three people and opened in Excel on the way. The next two cells make
# such a file from messages that come with slmkit. With a file of your own you need not read them.
#
# First the rows: each message in two columns, then the same messages again, as they come back in any mailbox. Some are
# forwarded in capitals, some are one campaign with other numbers, three were judged twice and not alike. That is more than
# in most files, so that it shows in a small one.

# %%
from slmkit import tasks

rows = tasks.get("fraud_messages").load().drop_duplicates("group").sample(240, random_state=1)
texts = rows["text"].str.encode("cp1252", "ignore").str.decode("cp1252").str.replace("\n", " ")
first_sentence = texts.str.extract(r"^(?P<subject>.{8,60}?[.!?:]) (?P<message>.+)$")
table = first_sentence.fillna({"subject": "", "message": texts}).assign(category=rows["label"])

forwarded = table.sample(50, random_state=2)
forwarded = forwarded.assign(message=forwarded["message"].str.upper())
campaign = table.sample(25, random_state=3)
campaign = campaign.assign(message=campaign["message"].str.replace(r"\d", "7", regex=True))
twice = table.sample(3, random_state=4)
twice = twice.assign(category=twice["category"].map({"fraud": "legitimate", "legitimate": "fraud"}))
table = pd.concat([table, forwarded, campaign, twice]).sample(frac=1, random_state=5, ignore_index=True)

# %% [markdown]
# Then what hands do to a table: labels typed in a hurry, cells left empty, semicolons for commas, and an encoding from the
# nineties. A file of that name that is already there is left alone.

# %%
fraud, legitimate = (table.index[table["category"] == name] for name in ("fraud", "legitimate"))
table.loc[fraud[:5], "category"] = "Fraud "
table.loc[legitimate[:4], "category"] = "legitmate"
table.loc[legitimate[10:12], "category"] = ""
table.loc[fraud[10:13], ["subject", "message"]] = ""

EXAMPLE = Path("my_data/example.csv")
EXAMPLE.parent.mkdir(exist_ok=True)
if not EXAMPLE.exists():
    table.to_csv(EXAMPLE, sep=";", index=False, encoding="cp1252")
print(f"{EXAMPLE}: {EXAMPLE.stat().st_size / 1e3:.0f} kB, {len(table)} rows")

# %% [markdown]
# ## Your file
#
# This is the one place to change: `FILE = Path("wherever/it/is.csv")`. CSV, TSV, JSONL, Parquet, Excel and OpenDocument
# are read; delimiter and encoding are found. What this notebook writes goes to `my_data` and `runs` beside it.

# %%
FILE = EXAMPLE  # Path("my_messages.xlsx") for your own
MODEL = "minilm"  # whose tokens are counted: a model you think of using
SPLIT = EXAMPLE.parent / f"{FILE.stem}_split.json"
TO_LOOK_AT = EXAMPLE.parent / f"{FILE.stem}_to_look_at.csv"

# %% [markdown]
# ## Read it, and read the warnings
#
# **The trap:** a table that loads is not yet a table that was understood. slmkit guesses where you say nothing, and says
# what it guessed. Read every line before you go on.

# %%
guessed = slmkit.read(FILE)
for warning in guessed.attrs["warnings"]:
    print("-", warning)
guessed["label"].value_counts().to_frame("rows")

# %% [markdown]
# What do the lines say of the example?
#
# - The text was taken from `message` alone. The subject, where half of a fraud may stand, would have been lost. A text
#   column that was guessed is always worth a second look.
# - Four classes where there are two: a capital letter and a slip of the pen. Nothing was changed, only proposed.
# - Rows without a label or a text are gone, and counted.
#
# So the columns are named now. Two text columns become one text, a line each. `relabel="proposed"` merges the labels that
# were named above; **look first**, since two names that are nearly alike may be two classes. A mapping of your own,
# `relabel={"legitmate": "legitimate"}`, merges only those. For your own file change the names here; a single text column is
# a name without brackets.

# %%
COLUMNS = {"text_column": ["subject", "message"], "label_column": "category", "relabel": "proposed"}
frame = slmkit.read(FILE, **COLUMNS)
for warning in frame.attrs["warnings"]:
    print("-", warning)
frame["label"].value_counts().to_frame("rows")

# %%
frame.sample(4, random_state=1)

# %% [markdown]
# ## The datasheet
#
# One look from all sides. In a terminal it is `slmkit data sheet my_data/example.csv --text-column subject,message
# --label-column category --relabel`.
#
# - **Tokens** are what a model reads. What is longer than the limit loses its end, without a word.
# - **Languages**: a model that read mostly English does worse on the rest. "?" is too short or too unclear to tell.
# - **Telling** words are what a word count goes by. A name, a date or a ticket number among them gives the class away here
#   and nowhere else: take such words out, or the score means nothing.

# %%
sheet = slmkit.datasheet(frame, model=MODEL)
print("\n".join(sheet.lines(examples=3)))

# %% [markdown]
# ## What does cutting cost?
#
# A lower limit is quicker and takes less memory. Left of a dashed line a text is read whole, right of it the end is lost.
# If the ends of your texts hold what matters, set a limit that few of them pass, and pay for it.

# %%
lengths = backends.count_tokens(MODEL, frame["text"].tolist())
slmkit.plots.text_lengths(lengths, [32, 64, 128])

# %% [markdown]
# ## Rows to look at
#
# Two kinds: the same text under two labels, and a label that a classifier which never saw the row finds improbable.
# `suggestion` is what the others say, not what is true. Some of these rows are the hardest of your data and right as they
# are: **a suggestion is a reason to look, never a reason to change**.

# %%
shown = sheet.suspicious[["source_row", "label", "suggestion", "confidence", "reason", "text"]].head(10).round(2)
shown.assign(text=shown["text"].str.replace("\n", " ").str.slice(0, 70))

# %% [markdown]
# The list for a spreadsheet. Rows are counted as in your file, from 1, the line of names apart. Mend what is wrong in the
# file itself, not here: the file is what the study, the command line and your colleagues read. Then run again from *Read
# it*. A list that is already there is left alone, since you may have written in it.

# %%
if not TO_LOOK_AT.exists():
    sheet.save_suspicious(TO_LOOK_AT)
print(f"{len(sheet.suspicious)} of {sheet.n_rows} rows to look at, in {TO_LOOK_AT}")

# %% [markdown]
# ## The trap: a random split
#
# The usual way is to shuffle the rows and keep a fifth for testing. **The trap:** a message that stands in the file twice
# lands on both sides. The model has seen the answer, and the score says how well it remembers.
#
# The leak guard takes any parts by their names, the test rows last. It finds copies to the letter, copies that differ in
# case or signs, and near-copies that share 85 % of their words, digits alike. On two files it is `slmkit data check
# train.csv test.csv`.

# %%
from sklearn.model_selection import train_test_split

train, test = train_test_split(frame, test_size=0.2, random_state=0, stratify=frame["label"])
naive = slmkit.check_leaks({"train": train, "test": test})
print("\n".join(naive.lines(examples=2)))
print(f"\n{naive.n_leaking} of {len(test)} test rows stand in train as well")

# %% [markdown]
# ## How much too good is the score?
#
# The floor, a word count with a linear classifier, on five random splits and on five that do not leak. In the random ones
# the copied test rows are scored apart from the fresh ones. On a large file take fewer seeds: each fits the floor twice.

# %%
from slmkit import FloorClassifier, metrics


def hits(train: pd.DataFrame, test: pd.DataFrame) -> np.ndarray:
    """Whether the floor is right on each test row."""
    floor = FloorClassifier(seed=0).fit(train["text"].tolist(), train["label"].tolist())
    return np.asarray(floor.predict(test["text"].tolist())) == test["label"].to_numpy()


def said(right: np.ndarray) -> str:
    """Accuracy with its 95 % interval and n."""
    if not len(right):
        return "no such rows"
    low, high = metrics.wilson(int(right.sum()), len(right))
    return f"{right.mean():.0%} ({low:.0%} to {high:.0%}), n = {len(right)}"


def copied(train: pd.DataFrame, test: pd.DataFrame) -> np.ndarray:
    """Which test rows stand in train."""
    overlap = slmkit.check_leaks({"train": train, "test": test}, within=False).across[0]
    return np.isin(np.arange(len(test)), overlap.rows["row"])


# %%
lines, means = [], []
for seed in range(5):
    parts = train_test_split(frame, test_size=0.2, random_state=seed, stratify=frame["label"])
    guarded = slmkit.split(frame, seed=seed)
    random_hits, guarded_hits, leaks = hits(*parts), hits(guarded.train, guarded.test), copied(*parts)
    lines.append([seed, *map(said, (random_hits, random_hits[leaks], random_hits[~leaks], guarded_hits))])
    means.append((random_hits.mean(), guarded_hits.mean()))
random_mean, guarded_mean = np.mean(means, axis=0)
print(f"Mean of {len(means)} seeds: {random_mean:.1%} on random splits, {guarded_mean:.1%} on splits without leaks")
names = ["seed", "random split", "its copied rows", "its fresh rows", "split without leaks"]
pd.DataFrame(lines, columns=names).set_index("seed")

# %% [markdown]
# Copied rows are right more often than fresh ones, and the more of them there are, the better the score looks. Be fair to
# the figures, though: with so few test rows the intervals overlap, so **one** seed would not have shown it; and the five
# draws share rows, so their mean has no interval of its own. If your file has no copies, both splits score about alike.
#
# **Exercise 10.1.** By how many points of accuracy is the mean of the random splits too good? The two means are in
# `random_mean` and `guarded_mean`. Write your answer in place of the dots and run the cell: it says what it thinks of it.

# %%
### BEGIN SOLUTION
answer_10_1 = 100 * (random_mean - guarded_mean)
### END SOLUTION
workshop.check("10.1", answer_10_1, random=random_mean, guarded=guarded_mean)

# %% [markdown]
# ## A split that does not leak
#
# `slmkit.split` drops repetitions and contradictions first, keeps near-copies together on one side, and keeps the shares
# of the classes. Rows that belong together for another reason, one customer, one thread, belong on one side too: put what
# they share in a column called `group`.

# %%
split = slmkit.split(frame, seed=0)
for warning in split.warnings:
    print("-", warning)
print(f"{len(split.train)} train rows, {len(split.test)} test rows")
print("\n".join(slmkit.check_leaks({"train": split.train, "test": split.test}, within=False).lines()))

# %% [markdown]
# **Exercise 10.2.** The cheapest classifier always says the class that is most frequent in `split.train`. How often is it
# right on `split.test`, as a share from 0 to 1?

# %%
### BEGIN SOLUTION
most_frequent = split.train["label"].mode()[0]
answer_10_2 = (split.test["label"] == most_frequent).mean()
### END SOLUTION
workshop.check("10.2", answer_10_2, split=split)

# %% [markdown]
# ## Keep it
#
# A seed is not enough to repeat a split: **the trap** is that the same seed on the same rows in another order draws others.
# So the split is written down as one hash a row. No text is in the file; whoever has the data can repeat the split, and
# nobody else learns anything from it. In a terminal: `slmkit data split my_data/example.csv --text-column
# subject,message --label-column category --relabel -o my_data/example_split.json`.

# %%
from slmkit.splits import splitfile

splitfile.save(split, SPLIT, data_sha256=frame.attrs["sha256"], seed=0)
print(SPLIT.read_text()[:430], "...")

# %%
shuffled = frame.sample(frac=1, random_state=7, ignore_index=True)
chosen = set(split.test["text"])
by_seed = set(slmkit.split(shuffled, seed=0).test["text"])
by_file = set(shuffled["text"][splitfile.load(SPLIT, shuffled) == "test"])
print(f"Test rows of the shuffled file that were test rows before, of {len(chosen)}:")
print(f"- by the same seed: {len(chosen & by_seed)}")
print(f"- by the split file: {len(chosen & by_file)}; the same rows: {by_file == chosen}")

# %% [markdown]
# ## When the split is given
#
# Often somebody else has split the rows: a column says train or test (`split="that column"`), or there is a second file
# (`test_file=`). slmkit takes it as it is, and has the guard look at it first. Here the random split from above comes as
# such a column. It is refused, with the rows named:

# %%
from slmkit.errors import InputError

OUT = f"runs/10_your_data_{PROFILE}"
given = pd.concat([train.assign(part="train"), test.assign(part="test")])
try:
    slmkit.study(given, split="part", methods="floor", measure_s=0.5, out=OUT)
    print("Not refused: no test row of this split stands in train")
except InputError as refusal:
    print(refusal)

# %% [markdown]
# Sometimes you need the score all the same, to compare with a published one. `allow_leaks=True` (`--allow-leaks`) goes on,
# and every record made from it is marked: the verdict opens with the leak, and so does the report.

# %%
marked = slmkit.study(given, split="part", methods="floor", measure_s=0.5, allow_leaks=True, out=OUT)
for sentence in slmkit.plots.verdicts(marked.runs):
    print("-", sentence)

# %% [markdown]
# ## A first study on the checked split
#
# Now a score means something. The split file goes in as `split=`; in a terminal: `slmkit study my_data/example.csv
# --text-column subject,message --label-column category --relabel --split my_data/example_split.json`. Run the cell again
# and finished combinations are taken from the folder.
#
# With few rows of your own expect little: a trained adapter (`methods=["lora"]`) wants some hundreds of them before it can
# show what it is worth, and a wide interval says that the test rows are few, not that the models are alike.

# %%
SETTINGS = {
    "tiny": {"methods": "floor,embedding", "models": "minilm", "measure_s": 0.5},
    "laptop": {"methods": "floor,embedding,prompt", "models": "minilm,smollm2-135m-instruct", "measure_s": 1.0},
    "gpu": {"methods": "floor,embedding,prompt,lora", "models": "minilm,smollm2-135m-instruct", "measure_s": 2.0},
}
result = slmkit.study(FILE, **COLUMNS, split=SPLIT, bits=[16], seeds=[0], out=OUT, **SETTINGS[PROFILE])
print(f"{len(result.runs)} runs, {len(result.failed)} failed; at most {result.peak_rss_bytes / 1e6:.0f} MB a process")

# %%
columns = ["method", "model", "n_train", "n_test", "leaked_test_rows", "accuracy", "accuracy_low", "accuracy_high"]
result.frame[[*columns, "p_vs_floor"]].round(3)

# %%
for sentence in slmkit.plots.verdicts(result.runs):
    print("-", sentence)

# %% [markdown]
# ## What others may know of your data
#
# Whoever reads your figures asks where the rows came from and whether they may use them. Every data set here has a card.
# Write one for yours: where from, who judged, by which rules, what is missing. In a terminal: `slmkit data show
# fraud_messages`.

# %%
print("\n".join(tasks.get("fraud_messages").card.splitlines()[:8]))

# %% [markdown]
# Some licences ask for more than a name. slmkit fetches and reads such rows only after you accepted the terms, once on a
# machine: `slmkit data fetch financial_phrasebank` stops with this message. Nothing is fetched here.

# %%
from slmkit.assets import licences

bank = tasks.get("financial_phrasebank")
print(f"{bank.title}: {bank.n_rows:,} rows, {bank.licence}\n")
try:
    licences.require(bank.name, bank.licence, bank.terms)
    print("Its terms were accepted on this machine before:", bank.terms)
except licences.LicenceNotAccepted as refusal:
    print(refusal)

# %% [markdown]
# ## What you have now
#
# - A file that was read as you meant it, and a list of rows to look at: `my_data/example_to_look_at.csv`.
# - A split without leaks that fits in a mail, holds no text and can be repeated: `my_data/example_split.json`.
# - A first score on it, with its interval, and the floor beside it.
#
# **What to try next.**
#
# - Your own file, if this was the example: change `FILE` and `COLUMNS`.
# - Mend the rows you looked at and run again. Does the floor get better? Then half of the work was in the data.
# - The report for others: `slmkit report runs/10_your_data_laptop -o report.html` in a terminal in this folder.
#
# ## If something went wrong
#
# | what you see | what to do |
# |---|---|
# | `no file at ...` | the path counts from the folder of this notebook; write the whole path |
# | `which column holds the texts?`, `unknown column` | name the columns in `COLUMNS`; the message lists what is there |
# | strange letters in the texts | save the file as UTF-8 where it came from; the warnings say how it was read |
# | `class ... has one row` | merge it with `relabel={"old": "new"}`, or take it out of the file |
# | `it was made from other rows` | the file or the labels have changed since the split was saved: split again, and say so |
# | `the given split leaks` | let slmkit split, or take the named rows out of one part |
# | `is near-duplicates only` | these rows are one template; a score on them says little, whatever the split |
# | a model is missing, or anything else | `slmkit doctor` in a terminal, and read its `[FAIL]` lines |
