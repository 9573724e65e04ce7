"""Pictures: of runs, of learning curves and trainings, and of what is estimated; each takes runs or a frame.

One module a picture or a family of them; what they share (layout, colours of lines, lengths) stands in `scores`.
"""

from __future__ import annotations

from slmkit.plots.bits import bits_cost
from slmkit.plots.cascade import cascade_curve
from slmkit.plots.classroom import class_results
from slmkit.plots.course import training_course
from slmkit.plots.curve import learning_curve
from slmkit.plots.explorer import accuracy_in_a_crowd
from slmkit.plots.facts import facts_vs_cost
from slmkit.plots.fit import predicted_vs_measured
from slmkit.plots.footprint import accuracy_vs_footprint, pareto
from slmkit.plots.lengths import text_lengths
from slmkit.plots.memory import memory_by_layer
from slmkit.plots.rates import learning_rates
from slmkit.plots.saving import save
from slmkit.plots.scores import calibration, per_class_recall
from slmkit.plots.threshold import confusion_matrix, threshold_cost
from slmkit.plots.tried import label_probabilities, word_changes
from slmkit.plots.writing import writing_scores
from slmkit.verdict import verdicts

__all__ = [
    "accuracy_in_a_crowd",
    "accuracy_vs_footprint",
    "bits_cost",
    "calibration",
    "cascade_curve",
    "class_results",
    "confusion_matrix",
    "facts_vs_cost",
    "label_probabilities",
    "learning_curve",
    "learning_rates",
    "memory_by_layer",
    "pareto",
    "per_class_recall",
    "predicted_vs_measured",
    "save",
    "text_lengths",
    "threshold_cost",
    "training_course",
    "verdicts",
    "writing_scores",
    "word_changes",
]
