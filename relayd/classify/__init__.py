"""Classification: what a server means by a refusal, and what follows: retry, suppress, rest the path, whom to blame."""

from relayd.classify.classes import BLAMES, CLASSES, NATURES, Blame, Class, Decision, Suppress, decide, names
from relayd.classify.classifier import Classifier, Verdict, shipped
from relayd.classify.rules import Rule, Table, load

__all__ = [
    "BLAMES",
    "CLASSES",
    "NATURES",
    "Blame",
    "Class",
    "Classifier",
    "Decision",
    "Rule",
    "Suppress",
    "Table",
    "Verdict",
    "decide",
    "load",
    "names",
    "shipped",
]
