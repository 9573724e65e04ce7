# %% [markdown]
# # Fine-tune on your domain: a help desk that knows its facts
#
# **Aim.** A small assistant is to answer the questions of one bank's customers: opening hours, fees, limits. It speaks
# fluently and knows nothing of that bank. You tune it on old dialogues, stop in the middle and go on, and measure what that
# bought: the share of facts that are right in answers to questions it has never seen, beside the cheap way of putting the
# facts into the prompt, and beside what it forgot.
#
# | profile | what it does | time on 2 cores | memory |
# |---|---|---|---|
# | `tiny` | every step on two dozen dialogues: enough to see how, too little to learn the facts | one and a half minutes at most | under 1.5 GB a process |
# | `laptop` | all dialogues, several passes | about half an hour | under 1.6 GB a process |
# | `gpu` | the same with adapters on all blocks | not timed yet | under 2 GB of GPU memory, by `slmkit fit` |
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
pd.set_option("display.html.use_mathjax", False, "display.max_colwidth", 240)  # two prices are not a formula

# %% [markdown]
# ## The domain: a bank that does not exist
#
# Larkmoor Bank was invented for slmkit, so no model can have read of it. There is a **fact sheet**, one fact a line with the
# value that a right answer must state, and there are dialogues of its help desk that agree with the sheet.

# %%
from slmkit.tasks import domain_dialogues

sheet = domain_dialogues.facts()
print(f"{len(sheet)} facts, {len(domain_dialogues.dialogues())} dialogues")
sheet[["fact", "value"]].sample(5, random_state=5)

# %%
for turn in domain_dialogues.dialogues()[12]["messages"]:
    print(f"{turn['role']:>9}: {turn['content']}")

# %% [markdown]
# ## Hold questions back first
#
# **The trap:** several customers ask the same thing in other words. Cut at random, and the assistant is tested on what it
# has read. slmkit keeps dialogues of one story and near-copies on one side. What is tested is therefore: a *question* it has
# never seen, about a *fact* that stood in other dialogues.

# %%
from slmkit import dialogues
from slmkit.tuning import facts

SETTINGS = {  # without the checks around a training, which take seconds, in tiny
    "tiny": {"train": 24, "test_share": 0.03, "epochs": 2, "last_blocks": 4, "max_batch_tokens": 512, "checks": False},
    "laptop": {"train": None, "test_share": 0.2, "epochs": 8, "last_blocks": 8},
    "gpu": {"train": None, "test_share": 0.2, "epochs": 8, "method": "lora"},
}
HOW = {"method": "last-k", "batch_size": 8, "learning_rate": 1e-3, "seed": 0, **SETTINGS[PROFILE]}
N, LONGEST = (4, 28) if PROFILE == "tiny" else (60, 80)  # questions asked, and tokens an answer may have

split = dialogues.split("domain_dialogues", seed=0, train=HOW["train"], test_share=HOW["test_share"])
asked = [q for q in facts.questions(split.test["dialogue"], sheet) if q.values][:N]
print(f"{len(split.train)} dialogues to learn from, {len(split.test)} held out; {len(asked)} questions are asked")
right = [", ".join(question.values) for question in asked]
pd.DataFrame({"question": [q.said for q in asked], "a right answer states": right}).head()

# %% [markdown]
# ## Before: ask the model as it is
#
# It has never heard of the bank. Read the answers: they are fluent, polite and made up. **Fluency is not knowledge**, and a
# model does not say which of the two you are looking at. Answers are kept in the folder, so a second run reads them there.

# %%
MODEL, OUT = "smollm2-135m-instruct", Path(f"runs/50_fine_tune_your_domain_{PROFILE}")


def answers_of(name: str, notes=None, by: str = "", **how) -> list[str]:
    """Answers of a model to the held-out questions; those given before are read from the folder."""

    def ask():
        with slmkit.load(MODEL, **how) as model:
            return facts.ask(model, asked, notes=notes, max_new_tokens=LONGEST)

    return [answer.text for answer in facts.kept(OUT / f"{name}.json", asked, ask, by=by)]


said = {"untuned": answers_of("untuned")}
pd.DataFrame({"question": [q.said for q in asked], "untuned": said["untuned"]}).head(4)

# %% [markdown]
# ## The cheap rival: put the facts into the prompt
#
# No training at all: MiniLM finds the five facts nearest to the question, and they are written in front of it. Whatever the
# tuning costs, it has to beat this. The price is paid with every question: a longer prompt, and a second model.

# %%
with slmkit.load("minilm") as encoder:
    nearest = facts.nearest(encoder, list(sheet["fact"]), k=5)
    found = {question.said: nearest(question) for question in asked}
said["untuned, 5 nearest facts in the prompt"] = answers_of("untuned-5-facts", notes=lambda q: found[q.said])
print("asked:", asked[0].said)
print("\n".join(f"- {fact}" for fact in found[asked[0].said]))
print("answered:", said["untuned, 5 nearest facts in the prompt"][0])

# %% [markdown]
# ## Tune, and stop in the middle
#
# `last-k` puts adapters on the last blocks only. The blocks below never change, so what they make of each text is computed
# once and kept. Only the answers are learned, and that they end; nothing of the questions.
#
# A training runs in the background as a job, so that the notebook stays free. Here it is **stopped on purpose** at the third
# step. In your own work that would be you, a flat battery, or a colleague who needs the machine. Nothing half-written
# appears: until all is done there are only checkpoints in `tuned.partial`.

# %%
from IPython.display import display

TUNED = OUT / "tuned"


def follow(job: slmkit.Job, stop_at: int | None = None) -> None:
    """Show a job's progress in one line while it runs; stop it at a step, if one is given."""
    line = display({"text/plain": "starting"}, raw=True, display_id=True)
    while not job.wait(timeout=0.5):
        now = job.progress
        if now.loss is not None:
            line.update({"text/plain": f"step {now.step} of {now.steps}, loss {now.loss:.2f} nats"}, raw=True)
        if stop_at and (now.step or 0) >= stop_at:
            job.cancel()
    line.update({"text/plain": f"{job.state}: {job.progress.message}"}, raw=True)


job = slmkit.Job(slmkit.finetune, MODEL, "domain_dialogues", out=TUNED, **HOW)
if not TUNED.is_dir():
    follow(job.start(), stop_at=3)
print(f"{TUNED.name} is there: {TUNED.is_dir()}")

# %% [markdown]
# ## Go on
#
# The same call again goes on from the checkpoint, and comes to the very same weights as without the stop.

# %%
from slmkit.tuning import either

if not TUNED.is_dir():
    half = either.left(TUNED)
    print(f"goes on from step {half.step} of {half.steps}")
    job = slmkit.Job(slmkit.finetune, MODEL, "domain_dialogues", out=TUNED, **HOW)
    follow(job.start())
    job.result()  # raises what went wrong, if anything did

# %%
tuned, told = either.result(TUNED)
print(f"{tuned.n_train} answers learned in {len(tuned.history)} steps")
slmkit.plots.training_course(tuned.history)

# %% [markdown]
# **The trap:** the loss in the picture is that of the answers it learns from. With enough passes it falls in any case. What
# counts is what it finds of answers that it did not learn:

# %%
print("perplexity of held-out answers:", tuned.learned)

# %% [markdown]
# ## The same with buttons
#
# In a process of its own: start, watch, stop, go on. It needs nothing of the above. Try another way or more epochs, and let it
# run while you read on.

# %%
from slmkit_widgets import Tuner

Tuner(MODEL, "domain_dialogues", OUT / "by_hand", **HOW)

# %% [markdown]
# **Exercise 50.1.** By what factor did the perplexity of the held-out answers fall? Write your answer in place of the dots and
# run the cell; `tuned.learned` holds what you need.

# %%
### BEGIN SOLUTION
answer_50_1 = tuned.learned.perplexity_before / tuned.learned.perplexity_after
### END SOLUTION
workshop.check("50.1", answer_50_1, tuned=tuned)

# %% [markdown]
# ## After: the same questions
#
# Does it sound like the desk? And is it right? Compare the numbers in the answers with the last column.

# %%
said["tuned"] = answers_of("tuned", by=f"loss {tuned.loss_after}", adapter=TUNED)
shown = {"question": [q.said for q in asked], **said, "right": right}
pd.DataFrame(shown).head(6)

# %% [markdown]
# ## Facts right
#
# A fact counts as right where the answer states the sheet's value, however it is written ("9.60 euros", "EUR 9.60").
# `invented` is the share of answers with an amount, time or number that stands neither on the sheet nor in the question: for a
# help desk worse than no answer. **Look at n and at the interval** before you say that one way is better. **The trap:** where
# no answer of two ways differs, the interval of their difference has no width. That is not certainty, only too few questions.

# %%
from dataclasses import asdict

table = pd.DataFrame({way: asdict(facts.score(texts, asked, sheet)) for way, texts in said.items()}).T
table[["recall", "low", "high", "n_facts", "invented", "invented_low", "invented_high", "n_answers"]].astype(
    float
).round(2)

# %%
for way in list(said)[:2]:
    pair = facts.compare(said["tuned"], said[way], asked)
    print(
        f"tuned minus {way}: {100 * pair['difference']:+.0f} points of facts right "
        f"({100 * pair['low']:+.0f} to {100 * pair['high']:+.0f}, p = {pair['p']:.2g}, n = {len(asked)} questions)"
    )

# %% [markdown]
# **Exercise 50.2.** A model cannot state what it was never shown. Which share of the values asked for (`wanted`) stood in an
# answer that it learned from (`taught`), from 0 to 1?

# %%
wanted = [value for question in asked for value in question.values]
taught = {value for question in facts.questions(split.train["dialogue"], sheet) for value in question.values}
### BEGIN SOLUTION
answer_50_2 = sum(value in taught for value in wanted) / len(wanted)
### END SOLUTION
workshop.check("50.2", answer_50_2, wanted=wanted, taught=taught)

# %% [markdown]
# In profile `tiny` two dozen dialogues were read: most of the facts asked for were in none of them, and no training can teach
# what it was not shown. In `laptop` all dialogues are learned, and every fact asked for was taught in other words. Expect
# the **tone** before the **facts**, and measure it. Facts that change next month belong into the prompt, not into the weights.
#
# ## What did it forget?
#
# A model tuned on bank talk may lose something elsewhere. The perplexity on a neutral text, before and after, over the very
# same tokens. Above 1 it became worse; the interval says whether that is sure.

# %%
print("perplexity of a neutral text:", tuned.forgotten)

# %% [markdown]
# ## The card
#
# Whoever gets the folder wants to know: made from what, on what, under which licence, and how good? It is written by itself.

# %%
print("\n".join((TUNED / "README.md").read_text(encoding="utf-8").splitlines()[:48]))

# %% [markdown]
# ## Merge, in 4 bits
#
# An adapter needs its base model beside it. Merged there is one folder to hand on, here stored in 4 bits. It is measured on
# the way: what base and adapter say together, what the merged weights say, and what 4 bits change of it, in nats a token of
# a neutral text. A merge that does not say what the two said is refused.
#
# Weights are added in 32 bits. That is done in a process of its own, which takes about 1.5 GB and gives all of it back; where
# this machine has not enough for both, it is left out.

# %%
import json

from slmkit.training import forgetting

MERGED = OUT / "merged-4bit"
limit_bytes, _ = footprint.memory_limit()
if not MERGED.is_dir() and limit_bytes > 2.5e9:
    texts = forgetting.passages()[:2] if PROFILE == "tiny" else None  # None: eight passages
    job = slmkit.Job(slmkit.merge, MODEL, TUNED, out=MERGED, bits=4, texts=texts)
    follow(job.start(in_child=True))
    job.result()
if MERGED.is_dir():
    merged = json.loads((MERGED / "slmkit_merged.json").read_text(encoding="utf-8"))
    for name in ("loss_adapter", "loss_merged", "loss_stored"):
        print(f"{name:>13}: {merged[name]:.3f} nats a token, n = {merged['n_texts']} texts")
    print(f"{merged['stored_bytes'] / 1e6:.0f} MB stored; licence {merged['licence']}")
else:
    print(f"Left out: a merge takes about 1.5 GB beside this notebook's own, the limit is {limit_bytes / 1e9:.1f} GB")

# %%
if MERGED.is_dir():
    with slmkit.load(str(MERGED)) as model:
        (answer,) = facts.ask(model, asked[:1], max_new_tokens=LONGEST)
    print("asked:", asked[0].said)
    print("merged, 4 bits:", answer.text)

# %% [markdown]
# ## What you have now
#
# - An adapter with its card, `runs/.../tuned`, and one folder that needs no other, `runs/.../merged-4bit`.
# - The share of facts right, with n and interval, of three ways to use the same model; what tuning cost elsewhere.
#
# **What to try next.**
#
# - Your own dialogues: a JSONL file with `messages`, or a table with `prompt` and `answer`, in place of `"domain_dialogues"`;
#   a sheet with the columns `fact` and `value` in place of `sheet`.
# - Both together: `answers_of("both", notes=lambda q: found[q.said], adapter=TUNED)`.
# - `slmkit.find_lr(MODEL, "domain_dialogues")` before a long training; `early_stopping=True` against too many passes.
#
# ## If something went wrong
#
# | what you see | what to do |
# |---|---|
# | `out must be a new or an empty folder` | the training is done: read it with `either.result`, or name another folder |
# | `another training uses` | a job still runs in this kernel or another one: wait, or `job.cancel()` |
# | the loss jumps or is no number | a smaller `learning_rate`; the checkpoint before it was kept |
# | `NotEnoughMemory` | close other programs; fewer `last_blocks`; the message shows the arithmetic |
# | it takes too long | interrupt the kernel and run again: it goes on from its checkpoint. Or `PROFILE = "tiny"` |
# | a model is missing, or anything else | `slmkit doctor` in a terminal, and read its `[FAIL]` lines |
