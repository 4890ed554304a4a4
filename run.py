#!/usr/bin/env python3
"""Set up and run dnamamba from a checkout. Needs only a Python 3 to start; has no dependencies.

    python3 run.py demo [NAME] [OPTIONS]    run a demo (NAME: pretrain, classify) to its report
    python3 run.py test [PYTEST OPTIONS]    run the tests (7 minutes on two cores)
    python3 run.py test --quick             run a part of each test file (2 minutes)

The first call makes a virtual environment in .venv and installs everything there (about 2 GB, most
of it PyTorch and Triton); later calls start at once. More options are passed on, for example

    python3 run.py demo --steps 1000
    python3 run.py test -k tokenizer

Paths are relative to the checkout. Without an NVIDIA driver PyTorch's CPU build is installed, with
one its CUDA build. For another build, install it first: .venv is used as it is where it fits.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys

# What `demo NAME` runs: `dnamamba` with each of these, the last with those of the command line too.
DEMO_COMMANDS = {
    "pretrain": [
        [
            "pretrain",
            *("--steps", "800", "--batch-tokens", "8k", "--eval-tokens", "64k"),
            *("--no-rc-augment", "--out", "runs/demo", "--force"),
        ],
    ],
    "classify": [
        [
            *("pretrain", "demo-apes", "--steps", "1000", "--batch-tokens", "8k"),
            *("--eval-tokens", "64k", "--no-rc-augment"),
            *("--out", "runs/demo-apes", "--force"),
        ],
        [
            *("classify", "train", "runs/demo-apes", "--seq-len", "8k", "--pool", "max"),
            *("--batch-size", "2", "--epochs", "2", "--steps-per-epoch", "475"),
            *("--learning-rate", "5e-4", "--warmup-fraction", "0.1", "--no-rc-augment"),
            *("--eval-windows", "400", "--eval-examples", "50"),
            *("--out", "runs/demo-classify", "--force"),
        ],
    ],
}
DEFAULT_DEMO = "pretrain"
LONG_DEMO = "classify"  # trained in bf16 where that is faster

OLDEST_PYTHON = (3, 11)
OTHER_PYTHONS = ("python3.13", "python3.12", "python3.11", "python3.14", "python3")
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"

ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
VENV_BIN = os.path.join(VENV, "Scripts" if os.name == "nt" else "bin")
VENV_PYTHON = os.path.join(VENV_BIN, "python")
STAMP = os.path.join(VENV, "dnamamba-installed")
IS_NEW_ENOUGH = "import sys; sys.exit(sys.version_info < %r)" % (OLDEST_PYTHON,)
HAS_TORCH = "import importlib.metadata as m, sys; sys.exit(m.version('torch').split('+')[0] != %r)"


def say(message):
    print("run.py: " + message, flush=True)


def succeeds(*command):
    """Whether a command exists and ends with 0; its output is dropped."""
    try:
        return subprocess.call(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def find_python():
    for name in (sys.executable,) + OTHER_PYTHONS:
        path = shutil.which(name)
        if path and succeeds(path, "-c", IS_NEW_ENOUGH):
            return path
    sys.exit(
        "run.py: dnamamba needs Python %d.%d or newer; this is %s and no newer one is on the PATH."
        " Install one and call run.py again." % (OLDEST_PYTHON + (sys.version.split()[0],))
    )


def add_debian_venv(python):
    """Debian and Ubuntu keep venv's pip in a package of its own, which may be missing."""
    sudo = [] if os.name == "nt" or os.geteuid() == 0 else ["sudo"]
    tools = ["apt-get"] + sudo
    if succeeds(python, "-c", "import ensurepip, venv") or not all(map(shutil.which, tools)):
        return  # where something is missing, venv says itself what to install
    version = subprocess.check_output([python, "-c", "import sys; print(sys.version_info[1])"])
    package = "python3.%s-venv" % version.decode().strip()
    command = sudo + ["apt-get", "install", "-y", package]
    say("this Python cannot make virtual environments yet; running: " + " ".join(command))
    if subprocess.call(command) != 0:
        subprocess.check_call(sudo + ["apt-get", "update"])
        subprocess.check_call(command)


def make_venv():
    """Make .venv, or mend it; one that works is left as it is."""
    works = succeeds(VENV_PYTHON, "-c", IS_NEW_ENOUGH)
    if works and succeeds(VENV_PYTHON, "-m", "pip", "--version"):
        return
    python = find_python()
    add_debian_venv(python)
    say("making .venv with " + python)
    subprocess.check_call([python, "-m", "venv"] + ([] if works else ["--clear"]) + [VENV])


def install_cpu_torch(pip):
    """The general index's build for Linux brings several GB of CUDA; PyTorch's own index has less.

    Only torch is looked up there, so nothing else can come from it; where it can't be reached the
    general index's build is taken.
    """
    with open("constraints.txt") as constraints:
        version = re.search(r"^torch==([\d.]+)", constraints.read(), re.MULTILINE).group(1)
    if succeeds(VENV_PYTHON, "-c", HAS_TORCH % version):
        return
    say("installing PyTorch's CPU build (a few minutes on a slow line)")
    if not succeeds(*pip + ["torch==" + version + "+cpu"]):
        from_pytorch = ["--extra-index-url", PYTORCH_CPU_INDEX, "--retries", "1"]
        subprocess.check_call(pip + ["torch==" + version] + from_pytorch)


def install(extras):
    make_venv()
    pip = [VENV_PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    pip += ["--constraint", "constraints.txt"]
    if sys.platform.startswith("linux") and not shutil.which("nvidia-smi"):
        install_cpu_torch(pip)
    say("installing dnamamba and what it needs")
    subprocess.check_call(pip + ["--editable", "." + extras])


def prepare(extras):
    """Install unless this very set-up, or more, is in .venv already."""
    digest = hashlib.sha256(ROOT.encode())
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt"):
        with open(name, "rb") as file:
            digest.update(file.read())
    wanted = digest.hexdigest() + " "
    installed = ""
    if os.path.exists(STAMP) and os.path.exists(VENV_PYTHON):
        with open(STAMP) as file:
            installed = file.read()
    if installed in (wanted + extras, wanted + "[test]"):
        return
    install(extras)
    with open(STAMP, "w") as file:
        file.write(wanted + extras)


def multiplies_bf16():
    """Whether the CPU has instructions for it: training is a quarter faster then, else slower."""
    try:
        with open("/proc/cpuinfo") as file:
            return re.search(r"\b(avx512_bf16|amx_bf16)\b", file.read()) is not None
    except OSError:
        return False


def job(arguments):
    """The extras to install and the commands to run, from run.py's own arguments."""
    if arguments[:1] == ["demo"]:
        rest = arguments[1:]
        name = rest.pop(0) if rest and rest[0] in DEMO_COMMANDS else DEFAULT_DEMO
        commands = [[os.path.join(VENV_BIN, "dnamamba")] + each for each in DEMO_COMMANDS[name]]
        if name == LONG_DEMO and multiplies_bf16():
            commands = [each + ["--precision", "bf16"] for each in commands]
        commands[-1] += rest
        return "", commands
    if arguments[:1] == ["test"]:
        chosen = arguments[1:]
        command = [VENV_PYTHON, "-m", "pytest"] + chosen
        # Many on every core, a file's tests in one process; tests that are named start at once.
        if not set(chosen) - {"--quick", "--full"}:
            command += ["-n", "auto", "--maxprocesses", "8"]
            command += ["--dist", "loadfile", "--no-loadscope-reorder"]
        return "[test]", [command]
    print(__doc__)
    sys.exit(0 if arguments[:1] in (["-h"], ["--help"]) else 2)


def main():
    extras, commands = job(sys.argv[1:])
    os.chdir(ROOT)
    try:
        prepare(extras)
        for command in commands[:-1]:
            if code := subprocess.call(command):
                sys.exit(code)
        if os.name == "nt":
            sys.exit(subprocess.call(commands[-1]))
        os.execv(commands[-1][0], commands[-1])
    except subprocess.CalledProcessError as error:
        sys.exit("run.py: this failed: " + " ".join(error.cmd))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
