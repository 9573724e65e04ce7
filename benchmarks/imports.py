"""How long `import slmkit` and `slmkit --help` take, and that neither brings a heavy library along.

Each is a fresh Python process, the smallest of several times (the system's file cache is warm, as in daily use). The
time of an empty Python process is shown beside it; the limit holds for the whole process.

    python -m benchmarks.imports
"""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks import common

LIMIT_S = 0.5
HEAVY = ("torch", "mlx", "transformers", "pandas", "sklearn", "scipy", "numpy", "plotly")
FORBIDDEN = ("torch", "mlx", "pandas", "sklearn")
COMMANDS = {
    "an empty Python": ["-c", "pass"],
    "import slmkit": ["-c", "import slmkit"],
    "slmkit --help": ["-m", "slmkit", "--help"],
}
LISTING = f"""
import json, sys
sys.stderr.write(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
HELP = """
import runpy, sys
sys.argv = ["slmkit", "--help"]
try:
    runpy.run_module("slmkit", run_name="__main__", alter_sys=True)
except SystemExit as ending:
    assert not ending.code, ending.code
"""


def seconds(arguments: list[str], rounds: int) -> float:
    """Smallest wall time of that Python command; a command that fails raises."""
    call = lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)  # noqa: E731
    return min(common.timed(call)[0] for _ in range(rounds))


def imported(code: str) -> list[str]:
    """Heavy libraries in `sys.modules` after that code."""
    done = subprocess.run([sys.executable, "-c", code + LISTING], check=True, capture_output=True, text=True)
    return list(json.loads(done.stderr))


def main() -> int:
    """Times, modules, verdict."""
    parser = common.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    facts = common.describe()
    times = {name: seconds(command, arguments.rounds) for name, command in COMMANDS.items()}
    heavy = {"import slmkit": imported("import slmkit\n"), "slmkit --help": imported(HELP)}
    print(f"{'':>18}  {'seconds':>8}  heavy libraries imported")
    for name, found in times.items():
        print(f"{name:>18}  {found:8.3f}  {', '.join(heavy.get(name, [])) or 'none'}")
    targets = []
    for name, found in heavy.items():
        wrong = [library for library in found if library in FORBIDDEN]
        targets.append(common.Target(f"{name}, seconds", times[name], LIMIT_S, at_least=False))
        targets.append(common.Target(f"{name}, of {', '.join(FORBIDDEN)}", len(wrong), 0, at_least=False))
    facts |= {"n": arguments.rounds, "seconds": times, "imported": heavy}
    return common.finish("imports", facts, targets)


if __name__ == "__main__":
    common.run(main)
