"""exits.py: how often a guest is left for one request to its disk, or one packet.

    exits_read, exits_write      a request of 4 KiB at random, 32 of them under way
    exits_send, exits_receive    a packet on the tap interface, either way, while TCP sends or receives
    exits_answer                 a ping that is answered

All of the virtual machine's exits are counted, those that KVM deals with itself included: notifications that
become eventfds, interrupts, the guest's timer, its naps. KVM counts them for each machine, in debugfs. The
guest does a thing a few times and then many times; what the second costs more, by what it is more, is an
exit's share of one, and starting fio or iperf3 is in neither.

Each machine comes twice: as it is, and without the event index (VIRTIO 1.2 §2.7.10) in its devices; then
flags say that no notification, or no interrupt, is wanted.
"""

import glob
import os

import devices
import measure

KVM = "/sys/kernel/debug/kvm"
MARK = "hvlab-mark"
NO_EVENT_INDEX = " without event index"

FIO = (
    "chroot /t /usr/bin/fio --name=x --filename=/dev/vdb --direct=1 --ioengine=libaio --rw={rw} --bs=4k --iodepth=32"
    " --io_size={count}k >/dev/null"
)
IPERF = f"chroot /t /usr/bin/iperf3 -c {devices.HOST} -n {{count}}K{{way}} >/dev/null"
PING = f"ping -c {{count}} -i 0.01 -q {devices.HOST} >/dev/null"

# The load, and its {count} at first (not counted), few times and many times.
LOADS = {
    "exits_read": (FIO.replace("{rw}", "randread"), (400, 4000, 24000)),
    "exits_write": (FIO.replace("{rw}", "randwrite"), (400, 4000, 24000)),
    "exits_send": (IPERF.replace("{way}", ""), (1000, 10000, 100000)),
    "exits_receive": (IPERF.replace("{way}", " -R"), (1000, 10000, 100000)),
    "exits_answer": (PING, (3, 20, 120)),
}
COUNT_OF_ONE = {"exits_read": 4, "exits_write": 4, "exits_answer": 1}  # where {count} tells; else packets do
METRICS = tuple(LOADS)


def script(names):
    """Marks are printed between the loads, with time for us to read the counters at each."""
    lines = [f'mark() {{ sleep 0.3; echo "{MARK} $1;"; sleep 0.3; }}']
    for name in names:
        load, counts = LOADS[name]
        for step, count in enumerate(counts):
            lines += [load.format(count=count), f"mark {name}-{step}"]
    return "\n".join(lines) + "\n"


def exits_of(pid):
    """All exits so far of a process's virtual machines."""
    paths = glob.glob(f"{KVM}/{pid}-*/exits")
    if not paths:
        raise measure.BenchError(f"no counters in {KVM}: it takes root, and debugfs mounted there")
    total = 0
    for path in paths:
        with open(path, encoding="ascii") as file:
            total += int(file.read())
    return total


def packets():
    """Frames on the tap interface so far, both ways; a segment that is not cut yet is one."""
    total = 0
    for name in ("rx_packets", "tx_packets"):
        with open(f"/sys/class/net/{devices.TAP}/statistics/{name}", encoding="ascii") as file:
            total += int(file.read())
    return total


def exits_per_thing(name, seen):
    """From (exits, packets) at each of the three marks."""
    exits, things = ((many - few) - (few - first) for first, few, many in zip(*seen))
    if name in COUNT_OF_ONE:
        _, few, many = LOADS[name][1]
        things = (many - few) / COUNT_OF_ONE[name]
    if things <= 0:
        raise measure.BenchError(f"{name}: many were no more than few")
    return exits / things


def take(names, argv):
    with measure.Child(argv, limit=measure.LIMIT * len(names)) as child:
        values = {}
        for name in names:
            seen = []
            for step in range(3):
                child.read_until(f"{MARK} {name}-{step};".encode())
                seen.append((exits_of(child.pid), packets()))
            values[name] = exits_per_thing(name, seen)
        return values


def without_event_index(templates):
    """The same machines, named and told so."""
    changes = {"hv": [(",mac=", ",event-idx=off,mac="), ("--disk {disk}", "--disk {disk},event-idx=off")],
               "qemu": [("virtio-blk-pci,", "virtio-blk-pci,event_idx=off,"),
                        ("virtio-net-pci,", "virtio-net-pci,event_idx=off,")]}  # fmt: skip
    changed = {}
    for who, template in templates.items():
        for old, new in changes[who]:
            assert old in template
            template = template.replace(old, new)
        changed[who + NO_EVENT_INDEX] = template
    return changed


def run(names, runs):
    """Yields (metric, contestant, value)."""
    with devices.surroundings() as directory:
        templates, values = devices.machines(directory, script(names))
        templates |= without_event_index(templates)
        contestants = {who: measure.command(template, **values) for who, template in templates.items()}
        for who, found in measure.in_turns(contestants, runs, lambda argv: take(names, argv)):
            for name in names:
                yield name, who, found if isinstance(found, measure.BenchError) else found[name]
