"""Right answers in other forms: a function `NAME__form` (or class) is a right answer to exercise NAME.

A module a lesson. At least three an exercise: loops, another formulation, a library where it is not the exercise.
"""
