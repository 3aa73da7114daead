"""Compiles for a Cortex-M with the PATH's GNU toolchain; `upload` runs the program in QEMU.

The board's file says which core and machine; its memory limits are the target's, so that what
builds here fits there.
"""

import re
import shutil
import subprocess
import sys

from SCons.Script import COMMAND_LINE_TARGETS, AlwaysBuild, Default, DefaultEnvironment

env = DefaultEnvironment()
board = env.BoardConfig()

APT_LINE = (
    "sudo apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi "
    "libstdc++-arm-none-eabi-newlib qemu-system-arm"
)
COMPILER_FLAGS = list(board.get("build.compiler_flags"))


def require(tool):
    if shutil.which(tool, path=env["ENV"]["PATH"]) is None:
        sys.stderr.write(f"Error: {tool} is not on the PATH. On Debian or Ubuntu:\n  {APT_LINE}\n")
        env.Exit(1)


def check_ram(target, source, env):
    """PlatformIO only warns when static RAM exceeds the board's; this fails."""
    sizes = subprocess.run(
        ["arm-none-eabi-size", "-B", "-d", str(target[0])],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    _, data_bytes, bss_bytes = map(int, re.findall(r"\d+", sizes.splitlines()[1])[:3])
    limit_bytes = int(board.get("upload.maximum_ram_size"))
    if data_bytes + bss_bytes > limit_bytes:
        sys.stderr.write(
            f"Error: static RAM of {data_bytes + bss_bytes} bytes exceeds the board's "
            f"{limit_bytes} bytes\n"
        )
        return 1
    return None


def run_in_qemu(target, source, env):
    """Runs the program, its serial port on stdout; its exit status is the target's."""
    require("qemu-system-arm")
    timeout_seconds = int(board.get("upload.timeout_seconds"))
    try:
        status = subprocess.run(
            [*board.get("upload.command"), "-kernel", str(source[0])],
            stdin=subprocess.DEVNULL,
            timeout=timeout_seconds,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        sys.stderr.write(
            f"Error: stopped after {timeout_seconds} s; "
            "board_upload.timeout_seconds in platformio.ini sets this limit\n"
        )
        return 1
    if status:
        sys.stderr.write(f"Error: the program left QEMU with status {status}\n")
    return status


require("arm-none-eabi-g++")
env.Replace(
    AR="arm-none-eabi-ar",
    AS="arm-none-eabi-gcc",
    CC="arm-none-eabi-gcc",
    CXX="arm-none-eabi-g++",
    OBJCOPY="arm-none-eabi-objcopy",
    RANLIB="arm-none-eabi-ranlib",
    SIZETOOL="arm-none-eabi-size",
    ARFLAGS=["rcD"],
    RANLIBFLAGS=["-D"],
    PROGSUFFIX=".elf",
)
env.Append(
    ASFLAGS=[*COMPILER_FLAGS, "-x", "assembler-with-cpp"],
    CCFLAGS=[*COMPILER_FLAGS, "-O2", "-ffunction-sections", "-fdata-sections"],
    CFLAGS=["-std=gnu11"],
    CXXFLAGS=["-std=gnu++14", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics"],
    LINKFLAGS=[
        *board.get("build.linker_flags"),
        *("-nostartfiles", "-Wl,--gc-sections", "--specs=nano.specs"),
    ],
    LIBS=["c", "m", "gcc"],
)
if not env.get("LDSCRIPT_PATH"):
    env.Replace(LDSCRIPT_PATH="$PROJECT_DIR/lib/reds/src/boards/emulator/emulator.ld")

program = env.BuildProgram()
env.AddPostAction(program, env.VerboseAction(check_ram, "Checking RAM of $TARGET"))
AlwaysBuild(env.Alias("nobuild", program))
AlwaysBuild(env.Alias("size", program, "$SIZETOOL -A -d $SOURCE"))
env.AddPlatformTarget(
    "upload", program, env.VerboseAction(run_in_qemu, "Running $SOURCE in QEMU"), "Run in QEMU"
)
if "nobuild" not in COMMAND_LINE_TARGETS:
    Default(program)
