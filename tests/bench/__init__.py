"""Speed, ours beside a peer in one run: `make bench`, or `pytest tests/bench -k grading`. Plain `pytest tests` leaves it out."""
