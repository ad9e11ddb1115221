"""What one hook leaves for a later one: for the same model and thread, and for nobody else."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from typing import Any

import torch

from adapterhub.core.carried import Carrier


def test_a_value_is_taken_once_and_by_its_own_thread() -> None:
    carrier = Carrier()
    carrier.put("here")
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(carrier.take()))
    thread.start()
    thread.join()
    assert found == [None] and carrier.peek() == "here"
    assert copy.deepcopy(carrier).take() is None and pickle.loads(pickle.dumps(carrier)).take() is None
    assert [carrier.take(), carrier.take()] == ["here", None]


def test_what_a_model_left_goes_with_it_and_turns_up_in_no_other() -> None:
    """A place in memory is used again, so it must not tell one carrier from another."""
    seen = set()
    for number in range(200):
        carrier = Carrier()
        seen.add(id(carrier))
        assert carrier.take() is None, number
        carrier.put(number)
        del carrier
    assert len(seen) < 200
    value = torch.zeros(3)
    kept = weakref.ref(value)
    carrier = Carrier()
    carrier.put(value)
    del carrier, value
    gc.collect()
    assert kept() is None
