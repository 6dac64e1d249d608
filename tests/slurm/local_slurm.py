"""A Slurm of one machine, which runs as long as somebody needs it: Debian's packages, all its files in one folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
NUM_CORES = 8  # as Slurm sees it; tests are small

CONFIGURATION = """\
ClusterName=cxr
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# What is put back into the queue waits until its credential has expired: two minutes, where nobody says otherwise.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class LocalSlurm:
    """Use it as a context.

    Args:
        folder: receives everything; a short path, because of the socket.

    Attributes:
        environment: what a program needs in its environment to find this Slurm.
    """

    def __init__(self, folder: Path) -> None:
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []

    @staticmethod
    def missing() -> list[str]:
        """The programs that are not installed."""
        return [name for name in DAEMONS if shutil.which(name, path=_path()) is None]

    def __enter__(self) -> LocalSlurm:
        for name in ("state", "spool"):
            (self._folder / name).mkdir(parents=True)
        key = self._folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        host = socket.gethostname().partition(".")[0]
        text = CONFIGURATION.format(host=host, folder=self._folder, ports=_free_ports(2), cores=NUM_CORES)
        (self._folder / "slurm.conf").write_text(text)
        files = {"key": key, "socket": "munge.socket", "pid": "munge.pid", "log": "munge.log", "seed": "munge.seed"}
        options = [f"--{name}{'' if name == 'socket' else '-file'}={self._folder / files[name]}" for name in files]
        try:
            self._start("munged", "--foreground", "--force", *options)
            self._wait_for(lambda: (self._folder / "munge.socket").exists(), "munged")
            self._start("slurmctld", "-D", "-c", "-f", self.environment["SLURM_CONF"])
            self._start("slurmd", "-D", "-f", self.environment["SLURM_CONF"])
            self._wait_for(lambda: self.ask("sinfo", "--noheader", "--format=%T").strip() == "idle", "slurmd")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if len(self._daemons) == len(DAEMONS):
            self.ask("scancel", "--user=root")
            until = time.monotonic() + 60  # what does not end by itself is killed after half a minute
            while self.ask("squeue", "--noheader").strip() and time.monotonic() < until:
                time.sleep(0.5)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(timeout=30)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def ask(self, *command: str) -> str:
        """What one of Slurm's programs prints."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60).stdout

    def _start(self, name: str, *arguments: str) -> None:
        program = shutil.which(name, path=_path())
        assert program is not None
        with (self._folder / f"{name}.out").open("wb") as output:
            environment = {**os.environ, **self.environment}
            self._daemons.append(subprocess.Popen([program, *arguments], stdout=output, stderr=output, env=environment))

    def _wait_for(self, ready: object, name: str) -> None:
        assert callable(ready)
        until = time.monotonic() + 60
        while not ready():
            if time.monotonic() > until or any(daemon.poll() is not None for daemon in self._daemons):
                outputs = {path.name: path.read_text()[-2000:] for path in self._folder.glob("*.out")}
                raise RuntimeError(f"{name} does not start: {outputs}")
            time.sleep(0.2)


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
