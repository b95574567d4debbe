"""What the first cell of every lesson does: install what is missing, find the student's folder, name the device.

    start("05_ssd")

It is quick where nothing is to be done, so the cell is run again whenever one comes back. On Colab it asks for
Google Drive once; there the lessons lie in `MyDrive/object-detection/`, and checkpoints go beside them, so a training
goes on after a disconnect. torch and torchvision are never installed or changed: Colab's fit its driver.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

COURSE = "object-detection"  # the students' folder on Drive
NEVER = ("torch", "torchvision", "jupyterlab")  # the first two fit the driver; a notebook runs already
CONTENT = Path("/content")  # where a session of Colab lies


def start(lesson):
    """Makes ready for a lesson, and says in three lines or fewer what was found. Does nothing while grading.

    Args:
        lesson (str): such as "05_ssd".

    Raises:
        ImportError: if torch is missing; says how to install it.
        CalledProcessError: if pip fails; its own message stands above.
    """
    if os.environ.get("NBGRADER_EXECUTION") or os.environ.get("COURSEKIT_GRADING"):
        return
    install_missing()
    if on_colab():
        print(colab_folder(lesson))
    print(device_in_words())


def missing():
    """What coursekit asks for and this Python does not have: list of str, as pip takes them. Never torch."""
    from packaging.requirements import Requirement

    wanted = []
    for text in importlib.metadata.requires("coursekit") or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker and not (marker.evaluate({"extra": ""}) or marker.evaluate({"extra": "notebooks"})):
            continue
        if requirement.name in NEVER or requirement.name == "coursekit":
            continue
        try:
            importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wanted.append(f"{requirement.name}{requirement.specifier}")
    return wanted


def install_missing():
    """Installs what `missing` names; torch's absence is an error, as only its owner knows which one fits."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("torchvision") is None:
        raise ImportError("torch or torchvision is missing: pip install torch torchvision, in one command, then run this again")
    try:
        wanted = missing()
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return
    if wanted:
        print(f"installing {', '.join(wanted)}")
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)
        importlib.invalidate_caches()


def on_colab():
    """Whether this is Google Colab."""
    return "COLAB_RELEASE_TAG" in os.environ or "google.colab" in sys.modules


def colab_folder(lesson):
    """Makes the student's folder of a lesson the working directory; what to know about it, in words.

    On Drive if the student allows it, else in the session. Lessons that are not there yet are put there; what is
    there stays as it is.
    """
    drive = mounted_drive()
    root = (drive or CONTENT) / COURSE
    if (root / "course").is_dir():  # somebody put the whole repository there
        root = root / "course"
    folder = root / lesson
    folder.mkdir(parents=True, exist_ok=True)
    for released in sorted((Path(__file__).parent / "released").glob("*.ipynb")):
        own = root / released.stem / f"{released.stem[3:]}.ipynb"
        if not own.exists():
            own.parent.mkdir(exist_ok=True)
            shutil.copyfile(released, own)
    os.chdir(folder)
    if drive:
        return f"your folder is {folder}: checkpoints stay there, and lessons opened from there save themselves"
    return f"your folder is {folder}; without Drive it is gone with this session: download what you want to keep"


def mounted_drive():
    """The top of the student's Google Drive, or None where the student does not want it."""
    place = CONTENT / "drive" / "MyDrive"
    if not place.is_dir():
        from google.colab import drive

        try:
            drive.mount(str(CONTENT / "drive"))
        except Exception as error:  # declined, or no account: Colab raises its own kinds
            print(f"Drive was not mounted ({type(error).__name__}: {str(error)[:100]})")
    return place if place.is_dir() else None


def device_in_words():
    """Which device trains here."""
    import torch

    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        return f"device: {about.name}, {about.total_memory / 2**30:.0f} GiB"
    threads = torch.get_num_threads()
    more = "; a GPU is under Runtime, Change runtime type" if on_colab() else ""
    return f"device: CPU, {threads} thread{'s' * (threads > 1)}{more}"
