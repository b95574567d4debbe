"""The instructors' half: builds the lessons, judges exercises, grades hand-ins."""
