"""devices.py: what a guest's disk and network cost: fio, iperf3 and ping in a Linux guest.

    randread, randwrite   seconds for one request of 4 KiB, 32 of them under way at a time
    seqread, seqwrite     seconds for a GiB in requests of 128 KiB, 8 under way
    send, receive         seconds for a GiB over one TCP stream between guest and host, on a tap interface
    answer                seconds from a ping of the guest's to the host's answer

All in seconds, so that less is better, as everywhere in the bench. The peer is QEMU with an I/O thread and
io_uring for the disk, and without vhost for the network. Both machines have the same guest, with fio and
iperf3 on a small disk of their own; both disks are raw files in memory, so that no real disk is measured.
One boot gives one value for each metric that is wanted; then it is the other machine's turn.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile

import measure

sys.path.insert(0, os.path.join(measure.ROOT, "guest", "linux"))
import newc  # noqa: E402

MIB = 1 << 20
DISK = 512 * MIB
SECONDS = 5  # that fio and iperf3 run
TAP, HOST, GUEST = "hvbench0", "10.99.0.1", "10.99.0.2"
DONE = b"hvlab-bench: "

COMMON = """
mkdir -p /t
modprobe virtio_pci; modprobe virtio_blk; modprobe virtio_net; modprobe crc32c_generic; modprobe ext4
mount -o ro -t ext4 /dev/vda /t
mount --bind /dev /t/dev; mount --bind /proc /t/proc; mount --bind /sys /t/sys; mount -t tmpfs tmp /t/tmp
ifconfig lo 127.0.0.1; ifconfig eth0 {guest} netmask 255.255.255.0 up
"""
FIO = (
    "chroot /t /usr/bin/fio --name=x --filename=/dev/vdb --direct=1 --ioengine=libaio --rw={rw} --bs={bs} --iodepth={depth}"
    " --runtime={seconds} --time_based --output-format=terse --terse-version=3 | tail -n 1 | cut -d';' -f{field}"
)
# fio(1), terse version 3: field 7 is KiB/s read, 48 KiB/s written.
SCRIPTS = {
    "randread": FIO.format(rw="randread", bs="4k", depth=32, seconds=SECONDS, field=7),
    "randwrite": FIO.format(rw="randwrite", bs="4k", depth=32, seconds=SECONDS, field=48),
    "seqread": FIO.format(rw="read", bs="128k", depth=8, seconds=SECONDS, field=7),
    "seqwrite": FIO.format(rw="write", bs="128k", depth=8, seconds=SECONDS, field=48),
    "send": f"chroot /t /usr/bin/iperf3 -c {HOST} -t {SECONDS} -f k | grep receiver",
    "receive": f"chroot /t /usr/bin/iperf3 -c {HOST} -t {SECONDS} -f k -R | grep receiver",
    "answer": f"ping -c 3 -q {HOST} >/dev/null; ping -c 200 -i 0.01 -q {HOST} | tail -n 1",
}

HV_ARGUMENTS = (
    measure.HV_LINUX + " --disk {tools},readonly --disk {disk} --net tap=" + TAP + ",mac=02:00:00:00:00:99"
)
QEMU_ARGUMENTS = (
    measure.QEMU_LINUX + " -cpu host -object iothread,id=io"
    " -blockdev driver=file,filename={tools},node-name=t,read-only=on -device virtio-blk-pci,drive=t"
    " -blockdev driver=file,filename={disk},node-name=d,aio=io_uring -device virtio-blk-pci,drive=d,iothread=io"
    " -netdev tap,id=n,ifname=" + TAP + ",script=no,downscript=no,vhost=off"
    " -device virtio-net-pci,netdev=n,mac=02:00:00:00:00:99"
)


def seconds_from(name, text):
    """What a guest printed, as the metric's value."""
    try:
        if name in ("send", "receive"):
            kbits = float(re.search(r"([\d.]+) Kbits/sec", text)[1])
            return 8 * 1024 * MIB / (1000 * kbits)
        if name == "answer":
            return float(re.search(r"= [\d.]+/([\d.]+)/", text)[1]) / 1000
        kib_per_second = float(text.strip())
        return (4 if name.startswith("rand") else MIB) / kib_per_second
    except (TypeError, ValueError, ZeroDivisionError):
        raise measure.BenchError(f"{name}: the guest said {text.strip()[-200:]!r}") from None


# --- what the guest needs -------------------------------------------------------------------------


def tools_image(directory):
    """An ext4 file system with fio, iperf3 and the libraries they need."""
    root, image = os.path.join(directory, "tools"), os.path.join(directory, "tools.img")
    for name in ("dev", "proc", "sys", "tmp"):
        os.makedirs(os.path.join(root, name))
    for program in ("fio", "iperf3"):
        path = shutil.which(program)
        if path is None:
            raise measure.BenchError(f"there is no {program} here: run tests/setup/deps bench")
        libraries = subprocess.run(["ldd", path], check=True, capture_output=True, text=True).stdout
        for each in [path, *re.findall(r"(/\S+) \(0x", libraries)]:
            target = root + (f"/usr/bin/{program}" if each == path else each)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copyfile(os.path.realpath(each), target)
            os.chmod(target, 0o755)
    argv = ["mke2fs", "-q", "-t", "ext4", "-F", "-d", root, image, "256M"]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)  # quiet, but for a line about a new file
    return image


def initrd(directory, script):
    """The guest's first file system, which runs `script` once disks and network are there."""
    path = os.path.join(directory, "guest.cpio")
    extra = newc.Archive()
    extra.file("script", (COMMON.format(guest=GUEST) + script).encode())
    with open(path, "wb") as out, open(os.path.join(measure.CACHE, "initramfs-cloud.cpio"), "rb") as base:
        shutil.copyfileobj(base, out)
        extra.write(out)
    return path


@contextlib.contextmanager
def surroundings():
    """The directory with both disks; and a tap interface with a server of iperf3's."""
    commands = [["tuntap", "add", "dev", TAP, "mode", "tap"], ["addr", "add", f"{HOST}/24", "dev", TAP],
                ["link", "set", TAP, "up"]]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="hv-bench-", dir="/dev/shm") as directory:
        server = None
        try:
            for words in commands:
                if subprocess.run(["ip", *words], check=False).returncode != 0:
                    raise measure.BenchError("a tap interface cannot be made here: it takes root")
            server = subprocess.Popen(["iperf3", "-s", "-B", HOST], stdout=subprocess.DEVNULL)
            with open(os.path.join(directory, "disk.img"), "wb") as disk:
                for _ in range(DISK // MIB):
                    disk.write(os.urandom(MIB))
            yield directory
        finally:
            if server:
                server.kill()
                server.wait()
            subprocess.run(["ip", "link", "del", TAP], check=False, stderr=subprocess.DEVNULL)


# --- measuring ------------------------------------------------------------------------------------


def machines(directory, script):
    """name -> template of a machine that runs `script`, and what to fill in."""
    values = {
        "kernel": os.path.join(measure.CACHE, "cloud", "vmlinuz"),
        "initrd": initrd(directory, script),
        "append": "console=ttyS0 quiet panic=-1 hv.script=file",
        "memory": 512,
        "cpus": 1,
        "tools": tools_image(directory),
        "disk": os.path.join(directory, "disk.img"),
    }
    templates = {"hv": HV_ARGUMENTS}
    if shutil.which("qemu-system-x86_64"):
        templates["qemu"] = QEMU_ARGUMENTS
    return templates, values


def mark(name):
    """What a guest prints before the result of `name`."""
    return DONE + name.encode() + b" "


def run(names, runs):
    """Yields (metric, contestant, value)."""
    script = "".join(f'echo "{mark(name).decode()}$({SCRIPTS[name]})"\n' for name in names)

    def take(argv):
        with measure.Child(argv, limit=measure.LIMIT * len(names)) as child:
            values = {}
            for name in names:
                child.read_until(mark(name))
                values[name] = seconds_from(name, child.rest_of_line(mark(name)))
            return values

    with surroundings() as directory:
        templates, values = machines(directory, script)
        contestants = {who: measure.command(template, **values) for who, template in templates.items()}
        for who, found in measure.in_turns(contestants, runs, take):
            for name in names:
                yield name, who, found if isinstance(found, measure.BenchError) else found[name]


METRICS = tuple(SCRIPTS)
