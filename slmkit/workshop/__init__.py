"""Exercises for a class: `check("30.2", answer)`, `solution("30.2")`, `progress()`. Nothing leaves the machine.

How to add one to a notebook
----------------------------
1. In `notebooks/src/30_fraud_text.py` a text cell that asks, and a cell with one way to do it between nbgrader's
   delimiters, which ends in the check. The answer's name is the exercise's; what the answer is judged by, measured on
   this machine, is passed by name::

       # %% [markdown]
       # **Exercise 30.2.** Which share of the fraud does the threshold 0.5 find? Put it in `answer_30_2`.

       # %%
       ### BEGIN SOLUTION
       fraud = answers[answers["label"] == "fraud"]
       answer_30_2 = (fraud["p_fraud"] >= 0.5).mean()
       ### END SOLUTION
       workshop.check("30.2", answer_30_2, answers=answers)

   `python -m tools.build_notebooks` writes the notebook with `answer_30_2 = ...  # your answer` in place of the
   solution, so that Run All survives ("not yet"), and keeps the solution in `solutions.json` for `solution("30.2")`.
2. In `slmkit/workshop/exercises/fraud_text.py` (found by its name, which is the notebook's without the number) what is
   asked in few words, a judge and a second hint::

       def _recall_at_half(answer: object, answers: pd.DataFrame) -> str:
           found = share(answer, "the share of the fraud that is found")
           fraud = answers[answers["label"] == "fraud"]
           flagged = answers[answers["p_fraud"] >= 0.5]
           if near(found, (fraud["p_fraud"] >= 0.5).mean()):
               return "That is the recall; the rest is what the victims pay for."
           if near(found, (flagged["label"] == "fraud").mean()):
               raise Hint("that is the share of the flagged rows that are fraud, precision: start from the fraud")
           raise Hint("take the rows whose label is fraud, and count those with p_fraud of 0.5 and more")

       EXERCISES = (Exercise("30.2", "the recall at 0.5", _recall_at_half, more="`answers.query(...)` picks rows"),)

   A judge returns what to say of a right answer and raises `Hint` with what is wrong with another one. It computes
   what is right from the facts it gets, which were measured here: no figure is fixed. It looks for the right answer
   first, since a wrong one may be the same number by chance. Whatever else it raises is shown in a line.
3. In `tests/exercises_fraud_text.py` answers that are right, and typical wrong ones with words of their hints.
"""

from __future__ import annotations

from slmkit.workshop import codewords, room
from slmkit.workshop.answers import choice, near, number, share, whole
from slmkit.workshop.checks import Said, check, progress, solution
from slmkit.workshop.exercise import Exercise, Hint, exercises
from slmkit.workshop.exports import export
from slmkit.workshop.gathering import gather

__all__ = ["check", "solution", "progress", "export", "gather", "Exercise", "Hint", "Said", "exercises"]
__all__ += ["codewords", "room", "choice", "near", "number", "share", "whole"]
