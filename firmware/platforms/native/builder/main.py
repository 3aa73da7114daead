"""Compiles for this computer with the PATH's g++; `exec` and `upload` run the program."""

import shutil
import subprocess
import sys

from SCons.Script import AlwaysBuild, Default, DefaultEnvironment

env = DefaultEnvironment()


def run(target, source, env):
    arguments = env.get("PROGRAM_ARGS") or []
    return subprocess.run([str(source[0].abspath), *arguments], check=False).returncode


if shutil.which("g++", path=env["ENV"]["PATH"]) is None:
    sys.stderr.write(
        "Error: g++ is not on the PATH. On Debian or Ubuntu:\n  sudo apt-get install g++\n"
    )
    env.Exit(1)

env.Replace(AR="ar", AS="gcc", CC="gcc", CXX="g++", RANLIB="ranlib", SIZETOOL="size")
env.Replace(ARFLAGS=["rcD"], RANLIBFLAGS=["-D"])
env.Append(
    CCFLAGS=["-O3"],
    CFLAGS=["-std=gnu11"],
    CXXFLAGS=["-std=gnu++14"],
    CPPDEFINES=["REDS_BOARD_HOST"],
)

program = env.BuildProgram()
AlwaysBuild(env.Alias("size", program, "$SIZETOOL $SOURCE"))
for name in ("exec", "upload"):
    env.AddPlatformTarget(name, program, env.VerboseAction(run, "Running $SOURCE"), "Run here")
Default(program)
