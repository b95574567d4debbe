# A machine to grade on where the system itself cannot lock student code in: macOS, Windows, many a shared Linux.
#
#   docker build -t autograder .
#   docker run --rm --cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined -v "$PWD:/class" autograder
#
# grades /class/submitted, detections by /class/truth, and writes marks.csv, report.html and the rest to /class, the folder
# you are in. (PowerShell: "${PWD}:/class".) Another command goes behind the name: `... autograder doctor` says what is isolated in there.
#
# What the options are for: each student process gets namespaces of its own inside the container: files, processes,
# network, users. Making them takes the capability SYS_ADMIN, and Docker's seccomp and AppArmor profiles refuse it even
# then. The grader has that capability in its container; student processes have none. `--privileged` works too, and gives
# more away. Under SELinux (Fedora, RHEL) add `--security-opt label=disable`; where AppArmor is unknown leave its option out.
#
# The image takes 2 GB on ARM, 7 GB on x86: PyPI's x86 torch brings CUDA. Grading does not need it; an index with
# CPU wheels is named with --build-arg PIP_OPTIONS="--extra-index-url ADDRESS".
FROM python:3.12-slim

RUN apt-get update \
 && apt-get install --yes --no-install-recommends bubblewrap \
 && rm -rf /var/lib/apt/lists/*

# The dependencies first: a change of the course does not install them again. torch and torchvision come in one command.
ARG PIP_OPTIONS=""
COPY pyproject.toml /course/
RUN pip install --no-cache-dir $PIP_OPTIONS -e "/course[instructor]"

COPY . /course/
# Student processes run as other users, who must be able to read coursekit.
RUN pip install --no-cache-dir --no-deps -e /course && chmod -R a+rX /course

ENV OMP_NUM_THREADS=1
WORKDIR /class
ENTRYPOINT ["autograder"]
CMD ["grade", "--submitted", "/class/submitted", "--output", "/class", "--truth", "/class/truth"]
