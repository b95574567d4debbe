"""Wrong answers to the exercises of lesson 11."""

from . import Mistake

MISTAKES = {}
