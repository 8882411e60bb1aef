"""A Slurm cluster of one node on the loopback interface, with two pretended GPUs.

Debian's Slurm, run as root: no systemd, no cgroups, no accounting. GPUs are copies of /dev/null.
"""

import os
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

# Snakemake's job step drops $SLURM_CONF: the file must be where Slurm looks for it.
ETC = Path("/etc/slurm/slurm.conf")
APT_SECONDS = 120
START_SECONDS = 60
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CommunicationParameters=NoAddrCache,NoCtldInAddrAny,NoInAddrAny
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=1000,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=600
KillWait={grace}
GresTypes=gpu
TaskProlog={root}/task_prolog.sh
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=100000 Gres=gpu:2 State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=24:00:00 State=UP
PartitionName=gpu Nodes={host} MaxTime=24:00:00 State=UP
"""


class NoClusterError(Exception):
    """Slurm is there and does not start: the machine's doing, not the workflow's."""


def why_not() -> str | None:
    """Why this machine cannot run the cluster, after an attempt to install Slurm; None: it can."""
    if os.geteuid() != 0:
        return "a Slurm cluster of one's own wants root"
    _sweep()
    if ETC.exists() or ETC.is_symlink():
        return f"{ETC} exists: this machine belongs to a Slurm cluster"
    if Path("/dev/nvidia0").exists():
        return "equal bits are shown on the CPU, and jobs would find the GPU of this machine"
    if not _installed() and (problem := _install()):
        return f"Slurm cannot be installed: {problem}"
    return None


def _sweep() -> None:
    """Remove the links of a cluster of ours that was killed: its files lie in a temporary folder."""
    ours = ETC.is_symlink() and ETC.readlink().is_relative_to(tempfile.gettempdir())
    if ours and not any(process.name() == "slurmctld" for process in psutil.process_iter()):
        for link in (ETC, ETC.with_name("gres.conf")):
            link.unlink(missing_ok=True)


def _installed() -> bool:
    return all(shutil.which(program) for program in PROGRAMS)


def _install() -> str | None:
    if not shutil.which("apt-get"):
        return "no apt-get"
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    install = "apt-get install -qq --yes --no-install-recommends slurm-wlm munge"
    try:
        for command in ("apt-get update -qq", install):
            done = subprocess.run(
                command.split(),
                env=environment,
                capture_output=True,
                text=True,
                timeout=APT_SECONDS,
            )
    except subprocess.TimeoutExpired:
        return f"apt-get took more than {APT_SECONDS} s"
    return None if _installed() else done.stderr.strip()[-300:]


@contextmanager
def cluster(root: Path, grace: int) -> Iterator[None]:
    """Run the cluster, its files in a folder; `grace` seconds from SIGTERM to SIGKILL."""
    for name in ("state", "spool"):
        (root / name).mkdir(parents=True)
    host = socket.gethostname().split(".")[0]
    for n in range(2):
        os.mknod(root / f"gpu{n}", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    # The GPUs are pretended, so jobs are told to use the CPU: torch would find none of them.
    prolog = root / "task_prolog.sh"
    prolog.write_text("#!/bin/sh\necho export CUDA_VISIBLE_DEVICES=\n")
    prolog.chmod(0o755)
    (root / "gres.conf").write_text(f"NodeName={host} Name=gpu File={root}/gpu[0-1]\n")
    text = CONFIG.format(host=host, root=root, ports=_free_ports(2), grace=grace)
    (root / "slurm.conf").write_text(text)
    (root / "munge.key").write_bytes(os.urandom(128))
    (root / "munge.key").chmod(0o400)
    ETC.parent.mkdir(exist_ok=True)
    links = {ETC: root / "slurm.conf", ETC.with_name("gres.conf"): root / "gres.conf"}
    for link, file in links.items():
        link.symlink_to(file)
    try:
        _start(root)
        yield
    finally:
        _stop(root)
        for link in links:
            link.unlink()


def _start(root: Path) -> None:
    files = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid"}
    files |= {"log-file": "munged.log", "seed-file": "munged.seed"}
    options = [f"--{option}={root / file}" for option, file in files.items()]
    end = time.monotonic() + START_SECONDS
    try:
        for command in (["munged", "--force", *options], ["slurmctld", "-c"], ["slurmd", "-c"]):
            subprocess.run(command, check=True, capture_output=True, timeout=START_SECONDS)
        while slurm("sinfo", "-h", "-o", "%T").splitlines()[:1] != ["idle"]:
            if time.monotonic() > end:
                raise TimeoutError("its node does not come up")
            time.sleep(0.25)
    except (OSError, subprocess.SubprocessError) as error:
        logs = [file.read_text()[-500:] for file in root.glob("*.log")]
        raise NoClusterError("\n".join(["Slurm does not start:", str(error), *logs])) from error


def _stop(root: Path) -> None:
    subprocess.run(["scancel", "--user=root"], capture_output=True, timeout=30)
    for name in ("slurmd", "slurmctld", "munged"):
        if (file := root / f"{name}.pid").exists():
            subprocess.run(["kill", file.read_text().strip()], capture_output=True)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def slurm(*command: str) -> str:
    """Standard output of a command of Slurm's."""
    return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
