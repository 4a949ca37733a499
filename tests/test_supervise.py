"""Benchmarks on a GPU go on whatever becomes of one case (bench/supervise.py)."""

import sys
import time

from supervise import supervise

WORKER = """
import json, os, sys, time
print(json.dumps({"facts": 1}), flush=True)
print("some other line", flush=True)
for name in sys.argv[1].split(","):
    print(json.dumps({"begin": name}), flush=True)
    if name == "hangs":
        time.sleep(600)
    if name == "dies":
        os._exit(3)
    print(json.dumps({"case": name, "answer": len(name)}), flush=True)
    if name == "last of its process":
        sys.exit()
"""


def rows(limits: dict[str, float], seconds: float = 100) -> dict[str, dict]:
    command = [sys.executable, "-c", WORKER]
    said = list(supervise(lambda left: [*command, ",".join(left)], limits, time.monotonic() + seconds))
    assert {"facts": 1} in said or seconds < 10
    found = [row for row in said if "case" in row]
    assert len(found) == len(limits)
    return {row["case"]: row for row in found}


def test_a_case_that_hangs_or_dies_costs_itself(capfd):
    found = rows({"one": 50, "hangs": 1, "two": 50, "dies": 50, "last of its process": 50, "three": 50})
    assert found["hangs"]["error"] == "stopped after 1 s"
    assert found["dies"]["error"] == "the process ended with status 3"
    for name in ("one", "two", "last of its process", "three"):
        assert found[name] == {"case": name, "answer": len(name)}
    assert "some other line" in capfd.readouterr().out


def test_no_case_is_begun_that_may_end_too_late():
    found = rows({"one": 50, "long": 1000, "two": 50})
    assert found["long"]["left_out"] == "it may take 1000 s, which are not left"
    assert {"one", "two"} == {name for name, row in found.items() if "answer" in row}
    assert all("left_out" in row for row in rows({"one": 50, "two": 60}, 1).values())
