#!/usr/bin/env python3
"""Instructions and cycles by function: profile.py program.elf blocks.txt

blocks.txt is what m4cost writes with profile=blocks.txt,first=N,last=M: an address, instructions
and cycles per line.
"""

import bisect
import collections
import subprocess
import sys
from pathlib import Path


def main() -> None:
    program, profile = sys.argv[1:3]
    listed = subprocess.check_output(["arm-none-eabi-nm", "-nC", program], text=True)
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    symbols = [(int(row[0], 16), row[2]) for row in rows if len(row) == 3 and row[1] in "tTwW"]
    starts = [address for address, _ in symbols]
    instructions, cycles = collections.Counter(), collections.Counter()
    for line in Path(profile).read_text().splitlines():
        address, executed, took = line.split()
        name = symbols[max(0, bisect.bisect_right(starts, int(address, 16)) - 1)][1]
        instructions[name] += int(executed)
        cycles[name] += int(took)
    print(f"{'cycles':>12} {'':6} {'instructions':>12}  function")
    for name, took in cycles.most_common():
        share = 100 * took / cycles.total()
        print(f"{took:12,} {share:5.1f}% {instructions[name]:12,}  {name}")


if __name__ == "__main__":
    main()
