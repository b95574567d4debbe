from . import Mistake

MISTAKES = {}
