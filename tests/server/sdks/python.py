"""A program with pyroscope-io as its README has it."""

import os
import time

import pyroscope


def pay(until):
    total = 0
    while time.monotonic() < until:
        total += sum(range(1000))
    return total


pyroscope.configure(
    application_name="python.purchases",
    server_address=os.environ["PYROSCOPE_SERVER"],
    tags={"region": "here"},
)
with pyroscope.tag_wrapper({"controller": "purchases"}):
    pay(time.monotonic() + 12)
pyroscope.shutdown()
