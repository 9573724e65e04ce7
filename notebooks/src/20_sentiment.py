# %% [markdown]
# # Sentiment: four ways to use a small model
#
# **Aim.** A sentence of financial news: good for the company's share price, bad for it, or neither? You ask a small model
# in words, show it examples, put a linear classifier on its vectors, and train an adapter. Beside each stands what counting
# words reaches on the same sentences. At the end you know what each step bought, and whether the model can be believed when
# it says that it is sure.
#
# | profile | what it does | time on 2 cores | memory |
# |---|---|---|---|
# | `tiny` | all four ways on few rows: enough to see that few rows cannot tell | about a minute | under 1.6 GB |
# | `laptop` | the same on several hundred rows, and on the real Financial PhraseBank if you have it | three to ten minutes | under 1.6 GB |
# | `gpu` | as `laptop`, on all sentences | not timed yet | under 2 GB of GPU memory, by `slmkit fit` |
#
# Nothing leaves this machine. What is written goes to `runs` beside this notebook.

# %%
import os
from pathlib import Path

import pandas as pd

import slmkit
from slmkit import footprint, workshop

PROFILE = os.environ.get("SLMKIT_PROFILE", "laptop")  # or write "tiny" or "gpu" here
print(footprint.headline(PROFILE))
pd.set_option("display.html.use_mathjax", False, "display.max_colwidth", 200)  # two prices are not a formula

# %% [markdown]
# ## Read before you count
#
# The sentences are about invented companies and were written for slmkit. Judge these yourself, as an investor who reads
# nothing else that day. **The trap** is in the words: "loss" and "fell" sound bad, but a loss that narrows and costs that
# fall are good news. Two fifths of the sentences set such a trap.

# %%
from slmkit import tasks

task = tasks.get("finance_sentiment")
sentences = task.load()
print(f"{task.title}: {len(sentences)} sentences; licence {task.licence}")
sentences[["text", "label"]].sample(8, random_state=20)

# %% [markdown]
# ## The floor first
#
# Counts of words and letters with a linear classifier: a second of work, no language model. Whatever costs more has to beat
# it **on the same rows**. It is run first, so that nobody is tempted to forget it.
#
# **The trap:** three classes of one size, so guessing is right in a third. A score of 50 % is well above nothing, and still
# useless.

# %%
SETTINGS = {
    "tiny": {"train": 30, "test": 30, "measure_s": 0.3},
    "laptop": {"train": 480, "test": 240, "measure_s": 2.0},
    "gpu": {"measure_s": 2.0},  # a fifth to test, all others to learn from
}
SLM, TASK, OUT = "smollm2-135m-instruct", "finance_sentiment", f"runs/20_sentiment_{PROFILE}"
SHOTS, EPOCHS = (6, 1) if PROFILE == "tiny" else (12, 3)
SAME = {"bits": [16], "seeds": [0], "out": OUT, **SETTINGS[PROFILE]}  # the same rows for every way

floor = slmkit.study(TASK, methods="floor", **SAME)
for sentence in slmkit.plots.verdicts(floor.runs):
    print("-", sentence)

# %% [markdown]
# ## Zero-shot: ask in words
#
# The model is told what to decide and gets the sentence; nothing is trained. This is what it reads:

# %%
from slmkit.prompts import Prompting

words = tuple(task.label_words[label] for label in task.labels)
for turn in Prompting(task.instruction, words, task.noun).chat("Net sales fell by a tenth."):
    print(f"{turn['role']:>9}: {turn['content']}")

# %% [markdown]
# No answer is read from what the model would write. The three words are compared by how likely the model finds each, so
# there is always an answer, it is always one of the labels, and it has a probability.
#
# **The trap:** a small model leans towards one word whatever the sentence says. slmkit looks at how it shares its answers out
# over training sentences on average, and takes that lean off (`calibrate=False` leaves it). This is the lean:

# %%
asked = {"models": [SLM], "methods": ["prompt"], **SAME}
zero_shot = slmkit.study(TASK, **asked).runs[-1]
prompt = slmkit.load_classifier(Path(OUT) / "models" / zero_shot.run_id)
for label, share in zip(prompt.classes_, prompt.lean_, strict=True):
    print(f"{label:>9}: {share:.0%} of the answer on average, whatever the sentence; {1 / 3:.0%} would be fair")

# %% [markdown]
# ## Few-shot: show examples
#
# The same question with worked examples in front, taken from the training sentences, the classes in turn. The model's
# weights stay as they are; the prompt grows, so every answer takes longer.
#
# **The trap:** which examples you show changes the answers, and picking those that score best on the test rows is training
# on the test rows. slmkit draws them by the seed. To choose among several sets, choose on rows that are in no test.

# %%
from slmkit.runs import answers

few_shot = slmkit.study(TASK, shots=SHOTS, **asked).runs[-1]
said = answers.side_by_side({"zero-shot": zero_shot, "few-shot": few_shot}, OUT)
moved = said[said["zero-shot"] != said["few-shot"]]
print(f"{SHOTS} examples changed {len(moved)} of {len(said)} answers")
right = moved[["zero-shot", "few-shot"]].eq(moved["label"], axis=0).replace({True: "right", False: "wrong"})
pd.crosstab(right["zero-shot"], right["few-shot"])

# %% [markdown]
# Changed answers are not better answers: some that were right became wrong. Look at a few. Is there a reason in the
# sentence, or does the model merely lean another way now?

# %%
texts = answers.texts(few_shot)
moved.assign(text=texts[moved.index]).head(6)

# %% [markdown]
# **Exercise 20.1.** Among the sentences whose answer changed: how many more are right with examples than without? Below zero
# means that the examples spoiled more than they mended. Write your answer in place of the dots and run the cell.

# %%
### BEGIN SOLUTION
answer_20_1 = (moved["few-shot"] == moved["label"]).sum() - (moved["zero-shot"] == moved["label"]).sum()
### END SOLUTION
workshop.check("20.1", answer_20_1, moved=moved)

# %% [markdown]
# So compare them row by row: only the sentences where just one of the two is right say anything. `p` is how often a
# difference this large would come by chance between two equally good ways.

# %%
from slmkit import verdict
from slmkit.runs.configurations import configurations

by_shots = {c.first.params["shots"]: c for c in configurations([zero_shot, few_shot])}
print(verdict.of_two(by_shots[SHOTS], by_shots[0], Path(OUT)))

# %% [markdown]
# ## Embeddings: let it read, and let a small classifier judge
#
# MiniLM turns each sentence into 384 numbers; a linear classifier learns on them. No weight of the model changes, so it is
# quick, and it was made for just this: a sixth of the size of the model that you asked in words.

# %%
embedding = slmkit.study(TASK, models=["minilm"], methods=["embedding"], **SAME)
print(verdict.verdicts(embedding.runs, Path(OUT))[-1])

# %% [markdown]
# ## LoRA: train a small adapter
#
# The model stays frozen; thin matrices beside its last blocks learn from your sentences, and a linear head decides. This is
# the dearest way, and the one that gains most from rows. **The trap:** with a few dozen rows it has hardly anything to learn
# from, and one pass more on the same rows is no second row.

# %%
lora = slmkit.study(
    TASK, models=[SLM], methods=["lora"], epochs=EPOCHS, params={"lora": {"last_blocks": 8, "batch_size": 8}}, **SAME
)
print(verdict.verdicts(lora.runs, Path(OUT))[-1])

# %% [markdown]
# ## All ways on one page
#
# Look at the intervals before you rank. `p_vs_floor` is the paired test against counting words.

# %%
result = [floor.runs[0], zero_shot, few_shot, embedding.runs[-1], lora.runs[-1]]
table = slmkit.runs.to_frame(result)
table["shots"] = [run.params.get("shots") for run in result]
columns = ["method", "model", "shots", "n_train", "n_test", "accuracy", "accuracy_low", "accuracy_high", "p_vs_floor"]
table[columns].round(3)

# %%
slmkit.plots.accuracy_vs_footprint(result)

# %% [markdown]
# The grey line is the floor. A marker below it costs more and gets less right. In words:

# %%
for sentence in verdict.verdicts(result, Path(OUT)):
    print("-", sentence)

# %% [markdown]
# ## Who is taken for whom
#
# Accuracy hides the kind of mistake. Taking *negative* for *neutral* is a slip, taking it for *positive* loses money. Click on
# a cell to read the sentences of which it was surest, click on another one to see those.

# %%
best = max(result[1:], key=lambda run: run.accuracy)  # of those with a language model
note = f"{best.label}; n = {best.n_test} test rows"
slmkit.plots.confusion_matrix(answers.confusion(best, Path(OUT)), note, answers.examples(best, Path(OUT)))

# %% [markdown]
# The sentences behind the two worst cells. Would you have been sure?

# %%
found = answers.side_by_side({"answer": best, "floor": result[0]}, OUT)
opposite = found[(found["answer"] != found["label"]) & (found["answer"] != "neutral") & (found["label"] != "neutral")]
opposite.assign(text=texts[opposite.index]).head(6)

# %%
slmkit.plots.per_class_recall(result)

# %% [markdown]
# ## Can it be believed when it is sure?
#
# Of a hundred sentences that it calls with 90 %, ninety should be right. A marker below the dashed line is a model that
# promises too much. The size of a marker is the number of rows behind it, the bar its 95 % interval; the expected
# calibration error (ECE) is the mean distance from the line. **The trap:** ten bins share the test rows, so with few of them
# most bars reach across the line, and the ECE of a perfect model is not zero either.

# %%
slmkit.plots.calibration(best, Path(OUT))

# %%
slmkit.plots.calibration(zero_shot, Path(OUT))

# %% [markdown]
# **Exercise 20.2.** How many points does `best` promise more than it holds? That is: how sure it is on average, less how often
# it is right, in percentage points. Below zero it is better than it says.

# %%
sure = slmkit.runs.read_probabilities(best, Path(OUT))  # one row a sentence: label, predicted, p_negative, ...
### BEGIN SOLUTION
answer_20_2 = 100 * (sure.filter(like="p_").max(axis=1).mean() - best.accuracy)
### END SOLUTION
workshop.check("20.2", answer_20_2, sure=sure, best=best)

# %% [markdown]
# ## With enough rows: recorded on the Financial PhraseBank
#
# This was **not** measured on your machine. 1,807 real sentences to learn from, 452 to be tested on; the records come with
# slmkit, every single answer among them. Sentences of others under a licence of their own do not.

# %%
import slmkit_data

from slmkit.runs.configurations import machine_name

shipped = slmkit_data.path("runs")
every = slmkit.read_runs(shipped, recorded=True)
recorded = [run for run in every if run.task == "financial_phrasebank" and run.model in (None, SLM)]
print("recorded on:", ", ".join(sorted({machine_name(run.machine) for run in recorded})))
for sentence in verdict.verdicts(recorded, shipped)[:2]:
    print("- recorded:", sentence)
slmkit.plots.per_class_recall(recorded)

# %% [markdown]
# To measure it here, accept its terms once (not for commercial use) and fetch it, in a terminal: `slmkit data fetch
# financial_phrasebank --accept-license`. Without a network point `SLMKIT_ASSETS` at a folder that holds it. In profile
# `laptop` the next cell then runs; it is never required.

# %%
from slmkit.assets import licences

bank = tasks.get("financial_phrasebank")
accepted = licences.accepted(bank.gate, bank.licence)
if PROFILE == "tiny" or bank.on_disk is None or not accepted:
    print(f"Left out: profile {PROFILE}; on this disk: {bank.on_disk or 'no'}; terms accepted: {accepted}")
else:
    real = slmkit.study(bank.name, models=["minilm"], methods=["embedding"], bits=[16], out=f"{OUT}_phrasebank")
    for sentence in verdict.verdicts(real.runs, real.out):
        print("-", sentence)

# %% [markdown]
# ## What you have now
#
# - Five ways on the same sentences, each with its interval, and a sentence for each that says whether it beats counting words.
# - The answers to every row in `runs`: `slmkit report runs/20_sentiment_laptop -o report.html` makes a page of them.
#
# **What to keep in mind.** Zero-shot costs no labels and is a start, no end. Examples in the prompt move answers, not always
# the right way. Vectors with a linear head are the cheap way to use labels. An adapter wants hundreds of rows.
#
# **What to try next.**
#
# - `slmkit learning-curve finance_sentiment --sizes 32,64,128,256`: how many labels until a model beats the floor?
# - Other examples: `seeds=[0, 1, 2]` draws others (and other rows). How far apart are the scores?
# - Your own sentences: `slmkit.study("my.csv", text_column="text", label_column="label")`, after `10_your_data`.
#
# ## If something went wrong
#
# | what you see | what to do |
# |---|---|
# | `NotEnoughMemory` | close other programs; the message shows the arithmetic |
# | it takes too long | interrupt the kernel: finished runs are kept. Set `PROFILE = "tiny"` in the first cell |
# | `IndexError` below a study | it failed: look above into its bar, or into `runs/.../logs` |
# | `its terms were not accepted` | read them with `slmkit data show financial_phrasebank`, then decide |
# | a picture stays empty | reload the browser page; the tables hold the same figures |
# | a model is missing, or anything else | `slmkit doctor` in a terminal, and read its `[FAIL]` lines |
