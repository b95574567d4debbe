"""nbgrader's settings for this course: run nbgrader from this folder, such as `nbgrader generate_assignment 01_boxes`."""

import sys
from pathlib import Path

c = get_config()  # noqa: F821 (nbgrader gives it)

c.CourseDirectory.root = str(Path(__file__).resolve().parent.parent)
c.CourseDirectory.course_id = "object-detection"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "course"
# nbgrader copies whatever lies beside a source notebook into the release: the lesson's source has the answers.
c.CourseDirectory.ignore = [
    ".ipynb_checkpoints", "__pycache__", "*.pyc", ".DS_Store", "*.py", "*.json", "*.po", "*.safetensors", "*.part", "ada_detectors",
]
if sys.argv[1:2] == ["collect"]:  # files of detections are handed in
    c.CourseDirectory.ignore.remove("*.json")
# A student's cell may train for a while; a hand-in's cells run without training (coursekit.training).
c.ExecutePreprocessor.timeout = 120
c.ExecutePreprocessor.shutdown_kernel = "immediate"
