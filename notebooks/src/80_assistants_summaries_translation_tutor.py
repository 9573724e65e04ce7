# %% [markdown]
# # Assistants, summaries, translation, a tutor: what can a small model write?
#
# **Aim.** To sort messages a model has to pick a label. To write is harder: every word can be wrong. You let a model of 135
# million parameters translate, sum up, work out and answer customers, and *measure* each with a rule, beside a floor that no
# language model stands behind. Then you see what models of 2 to 7 billion would take on this machine.
#
# | profile | what it does | time on 2 cores | memory |
# |---|---|---|---|
# | `tiny` | one or two texts of a job are answered here, the others were recorded | about a minute | under 1.5 GB |
# | `laptop` | all 80 texts are answered here | five to ten minutes | under 1.5 GB |
# | `gpu` | as `laptop` | not timed yet | under 1 GB of GPU memory, by `slmkit fit` |
#
# *Recorded* means: the same model answered the same texts earlier, on the machine that is named; the answers come with
# slmkit. Nothing leaves this machine. Answers are kept in `answers` beside this notebook, each as soon as it is written: interrupt the
# kernel and run again, and it goes on where it was.

# %%
import os

import slmkit
from slmkit import footprint

PROFILE = os.environ.get("SLMKIT_PROFILE", "laptop")  # or write "tiny" or "gpu" here
print(footprint.headline(PROFILE))

# %% [markdown]
# ## Will it fit, and how long does it take?
#
# A text is written token by token, and for each token all weights are read once. So time goes with the bytes of the model
# and with the length of the answer, far less with that of the question.

# %%
MODEL, TITLE = "smollm2-135m-instruct", "SmolLM2-135M-Instruct"
FEW = {"translation": 2, "summary": 1, "tutor": 1, "alone": 0, "with notes": 1}  # answers that are written here
LIVE = FEW if PROFILE == "tiny" else {}  # without a number all of them are
OUT = f"answers/80_{PROFILE}"
needed = slmkit.estimate(MODEL, method="generate")
low, high = needed.times.written_per_s
print(f"{TITLE}: about {needed.peak_bytes / 1e9:.1f} GB; fits here: {'yes' if needed.fits else 'no'}")
print(f"estimated: {low:.0f} to {high:.0f} tokens a second written")

# %% [markdown]
# ## A translator
#
# German into English, sentences written for this project, each with one reference. The measure is chrF: how many runs of one
# to six letters the two share, 100 % for the very same sentence. A right translation in other words gets 50 to 80 %. **The
# floor** is the German as it stands, which shares names and a few letters.
#
# **The trap:** a small model writes fluent English *whatever* the German says. Read a few before you look at the score.

# %%
import pandas as pd

from slmkit import writing


def written(job: str, texts: list[str]) -> list[str]:
    """The model's answers to some texts; it is said how many were written here."""
    tokens = writing.JOBS[job].max_new_tokens
    asked = writing.prompts(job, texts)
    answers, origin = writing.partly_recorded(MODEL, asked, OUT, live=LIVE.get(job), max_new_tokens=tokens)
    print(f"{len(answers)} answers: {origin}")
    return answers


german = writing.rows("translation")
translated = written("translation", list(german["text"]))
score = writing.scores("translation", translated, german)
german[["text", "reference"]].assign(model=translated, chrF=score.round(2)).head(6)

# %%
tables = {"translation": writing.table("translation", {TITLE: translated}, german)}
for sentence in writing.sentences(tables["translation"]):
    print("-", sentence)

# %% [markdown]
# **Exercise 80.1.** `chrf` holds the model's score for each sentence, `of_german` that of the German left as it is. In which share
# of the sentences (0 to 1) is the model nearer to the English? Write your answer in place of the dots and run the cell.

# %%
from slmkit import workshop

chrf, of_german = score, writing.scores("translation", writing.floor("translation", list(german["text"])), german)
### BEGIN SOLUTION
answer_80_1 = (chrf > of_german).mean()
### END SOLUTION
workshop.check("80.1", answer_80_1, chrf=chrf, of_german=of_german)

# %% [markdown]
# ## A summary
#
# Short notices, each with two or three values that nobody may leave out: a date, a place, an amount. The measure is the share
# of them that the first 25 words of the answer state. **The floor** is the first 25 words of the text itself: who writes well
# says what matters first, so this rule is hard to beat for much larger models too.
#
# **The trap:** a summary that copies everything would state everything. So only 25 words count.

# %%
notices = writing.rows("summary")
summaries = written("summary", list(notices["text"]))
score = writing.scores("summary", summaries, notices)
notices[["text", "values"]].assign(model=summaries, stated=score.round(2)).head(4)

# %%
tables["summary"] = writing.table("summary", {TITLE: summaries}, notices)
for sentence in writing.sentences(tables["summary"]):
    print("-", sentence)

# %% [markdown]
# ## A tutor
#
# Questions of primary school with one number as the answer; the model is told to end with it. The measure is exact: the
# last number of the answer is right or not. **The floor** adds all numbers of the question without reading it.
#
# This is strict: an answer that goes on after its number, or is cut before it (the line above the table counts those), is
# wrong. So it is also counted where the right number stands *anywhere*, which is generous: it may stand there by chance.
#
# **The trap:** an explanation in good English is no sign of a right result. A pupil cannot tell, and that is the danger.

# %%
from slmkit.tuning import values

questions = writing.rows("tutor")
worked_out = written("tutor", list(questions["text"]))
right = writing.scores("tutor", worked_out, questions) == 1
questions[["text", "reference"]].assign(model=worked_out, right=right).head(6)

# %%
tables["tutor"] = writing.table("tutor", {TITLE: worked_out}, questions)
for sentence in writing.sentences(tables["tutor"]):
    print("-", sentence)
anywhere = sum(values.states(said, number) for said, number in zip(worked_out, questions["reference"], strict=True))
print(f"The right number stands anywhere in {anywhere} of {len(worked_out)} answers")

# %% [markdown]
# ## An assistant for customers
#
# A help desk of an invented bank, so nobody can know its rules: a fact sheet holds them. The measure is the share of the
# values asked for that an answer states. Three answer the same questions:
#
# - **floor**: the fact of the sheet that shares most words with the question, read out as it is. No model.
# - the model **alone**, which cannot know and should say so;
# - the model **with notes**: the three nearest facts stand in front of the question.

# %%
from slmkit import dialogues
from slmkit.tasks import domain_dialogues
from slmkit.tuning import facts

sheet = domain_dialogues.facts()
held_out = dialogues.split("domain_dialogues", seed=0).test["dialogue"]
asked = [q for q in facts.questions(held_out, sheet) if q.values and len(q.turns) == 1][:20]
known = list(sheet["fact"])
one, three = (facts.nearest(writing.WordCounts(known), known, k) for k in (1, 3))
noted = [facts.with_notes(question.turns, three(question)) for question in asked]
spoken = {"floor: the nearest fact, read out": [one(question)[0] for question in asked]}
for name, turns in (("alone", [question.turns for question in asked]), ("with notes", noted)):
    answers, origin = writing.partly_recorded(MODEL, turns, OUT, live=LIVE.get(name), max_new_tokens=48)
    spoken[f"{TITLE}, {name}"] = answers
    print(f"{name}: {origin}")
pd.DataFrame({"question": [q.said for q in asked], "asked for": [", ".join(q.values) for q in asked], **spoken}).head(6)

# %%
tables["assistant"] = writing.fact_table(spoken, asked, sheet)
for sentence in writing.sentences(tables["assistant"]):
    print("-", sentence)
for row in tables["assistant"].to_dict("records"):
    print(f"- {row['writer']}: {row['invented']:.0%} of its answers state an amount or a time that stands nowhere")
print(f"At most {(writing.peak_ram_bytes(OUT) or 0) / 1e6:.0f} MB in one process that wrote")

# %% [markdown]
# **The trap:** a value that is stated is not yet a sentence that is right: "you do *not* pay 9.60 euros" states 9.60 euros.
# And an invented amount reads as sure of itself as a true one.
#
# ## All four in one picture
#
# The grey crosses are the floors. Where the model's interval lies across or below one, a rule of a few lines does the job as
# well, at no cost.

# %%
from slmkit import plots

every = pd.concat([found.assign(job=job) for job, found in tables.items()], ignore_index=True)
plots.writing_scores(every)

# %%
for job, found in tables.items():
    best = found.iloc[1:].sort_values("score").iloc[-1]
    beats = best["p"] < 0.05 and best["points"] > 0
    verdict = "beats the floor" if beats else "is not shown to beat the floor"
    print(f"- {job}: the model's best, {best['score']:.0%}, {verdict} (n = {best['n']:.0f})")

# %% [markdown]
# ## What would a larger model take here?
#
# For such jobs models of 2 to 7 billion parameters are taken. What they would score **on these texts** was not measured, so no
# score stands in this table. What they take is known beforehand, from their configuration: memory while writing, and tokens a
# second, each an estimate (the rate a factor of two either way).

# %%
from slmkit.estimate.several import side_by_side

LARGER = ["phi-3-mini-4k-instruct", "gemma-2b-it", "llama-2-7b-chat", "mistral-7b-instruct-v0.3", "falcon-7b-instruct"]
larger = side_by_side([MODEL, *LARGER], method="generate", seq=256)
larger.round(2)

# %% [markdown]
# **Exercise 80.2.** How many times as much memory (`peak_GB`) does the Mistral take in 16 bits as in 4, while it writes?

# %%
### BEGIN SOLUTION
mistral = larger[larger["model"].str.startswith("Mistral")].set_index("bits")["peak_GB"]
answer_80_2 = mistral[16] / mistral[4]
### END SOLUTION
workshop.check("80.2", answer_80_2, larger=larger)

# %% [markdown]
# And what was measured at full size, **recorded** on another machine: the real configurations in 4 bits with random weights,
# which says nothing of what they can do. `decode` is tokens written a second.

# %%
import slmkit_data

from slmkit import assets

paths = sorted(slmkit_data.path("full_size").glob("*-bnb-4bit-cpu.json"))
full_size = pd.DataFrame([assets.read_json(path) for path in paths])
machines = ", ".join(sorted({f"{one['cpu']}, {one['cores']} cores" for one in full_size["machine"]}))
print("recorded on:", machines, "(others used its cores as well, so read the rates as low)")
sizes = full_size[["model"]].assign(
    stored_GB=full_size["stored_bytes"] / 1e9, peak_GB=full_size["peak_ram_bytes"] / 1e9
)
sizes.assign(decode=full_size["decode_tokens_per_s"]).round(2)

# %% [markdown]
# ## What you have now
#
# - Every answer with its time in `answers`, and a score with n and interval for each of four jobs, beside a floor.
# - What larger models would take here, before a gigabyte of them is fetched.
#
# **When is a small model enough to write?** Where the facts stand in front of it and a person reads what it writes; where it
# was tuned on the very kind of answer (notebook `50_fine_tune_your_domain`). Not where it has to know, to calculate, or to
# render another language word for word.
#
# **What to try next.**
#
# - A larger model that fits: put its name in `MODEL` (`slmkit models --fits`) and `{}` in `LIVE`.
# - All of them on your machine: `PROFILE = "laptop"`, or other numbers in `FEW`. Are the answers the recorded ones?
# - Your own job: an instruction, a measure and a floor are one `writing.Job`.
#
# ## If something went wrong
#
# | what you see | what to do |
# |---|---|
# | it takes too long | interrupt the kernel: finished answers are kept. Set `PROFILE = "tiny"` in the first cell |
# | `does not hold answers` | the file in `answers` was altered or cut: remove it |
# | `NotEnoughMemory` | close other programs; the message shows the arithmetic and the largest model that fits |
# | `not among those recorded` | only the model of this notebook was recorded: `LIVE = {}` |
# | other answers than a neighbour's | another machine rounds otherwise; the next likeliest token may then win |
# | a model is missing, or anything else | `slmkit doctor` in a terminal, and read its `[FAIL]` lines |
