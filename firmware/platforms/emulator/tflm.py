"""Lets a TensorFlow Lite Micro library build for the emulated board, before the build begins.

The library made for Arduino (February 2023) compiles only with ARDUINO defined, and two of its
folders need Arduino's own headers. TensorFlow Lite Micro of today needs gnu++17. Messages go where
lib/reds/src/boards/emulator/tflm_support.cc sends them.
"""

import os
import sys
from pathlib import Path

Import("env")  # noqa: F821 - SCons defines it

HEADER = "tensorflow/lite/micro/micro_interpreter.h"
TODAY = "tensorflow/lite/micro/micro_common.h"  # not there in 2023
LEFT_OUT = ("/peripherals/", "/test_over_serial/", "/micro/debug_log.")


def find_source_folder():
    """The include folder of the library that PLATFORMIO_LIB_EXTRA_DIRS offers."""
    for storage in os.environ.get("PLATFORMIO_LIB_EXTRA_DIRS", "").replace(",", "\n").split("\n"):
        if not storage.strip():
            continue
        for folder in sorted(Path(storage.strip()).glob("*")):
            for source in (folder / "src", folder):
                if (source / HEADER).is_file():
                    return source.resolve()
    sys.stderr.write(
        "Error: no TensorFlow Lite Micro library; PLATFORMIO_LIB_EXTRA_DIRS must name the folder "
        f"that holds the library's folder, where src/{HEADER} or {HEADER} lies\n"
    )
    return env.Exit(1)  # noqa: F821 - as above


def build_node(env, node):
    path = node.srcnode().get_abspath()
    options = {}
    if is_of_today:
        others = [flag for flag in env["CXXFLAGS"] if not str(flag).startswith("-std=")]
        options["CXXFLAGS"] = [*others, "-std=gnu++17"]
    if Path(path).resolve().is_relative_to(source_folder):
        if any(part in path for part in LEFT_OUT):
            return None
        options["CPPDEFINES"] = [*env["CPPDEFINES"], ("ARDUINO", 10819), "NDEBUG"]
        options["CCFLAGS"] = [*env["CCFLAGS"], "-w"]
    return env.Object(node, **options)


source_folder = find_source_folder()
is_of_today = (source_folder / TODAY).is_file()
env.AddBuildMiddleware(build_node)  # noqa: F821 - as above
