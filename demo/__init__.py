"""The life cycle of an adapter on real weights and real text, checked claim by claim: `make demo`."""

import os

# Read when torch is first imported: threads that wait sleep instead of spinning, which costs nothing on a quiet machine and
# saves most of the time on a busy one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
