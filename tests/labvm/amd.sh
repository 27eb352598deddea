# shellcheck shell=dash
# shellcheck disable=SC2154,SC2086  # pid1 sets bb and conf, which hold no blanks
# The AMD back end's part inside the machine (see amd.py): shares over 9p, streams over virtio ports.

mount_root() {
    mkdir /host
    mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /host ||
        fatal "mount the host's file system"
    mount -t overlay -o lowerdir=/host,upperdir=/scratch/upper,workdir=/scratch/work root /root ||
        fatal "mount the overlay"
    /bin/keep-kvm & # before the command can start its first machine; amd.py says why
}

# What lies on writable shares is written through: the host reads it as soon as we are gone.
open_results() {
    while read -r tag path; do
        $bb mkdir -p "$path"
        $bb mount -t 9p -o rw,trans=virtio,version=9p2000.L,msize=512000,cache=mmap,access=any "$tag" "$path"
    done <$conf/mounts
    # This kernel's modules, where modprobe looks for them.
    read -r modules <$conf/modules
    $bb mkdir -p "/lib/modules/${modules##*/}"
    $bb mount --bind "$modules" "/lib/modules/${modules##*/}"
}

close_results() {
    while read -r _ path; do
        $bb umount "$path" || $bb umount -l "$path"
    done <$conf/mounts
}

# The device of a named stream. A port shows up under its name some milliseconds after its driver.
stream() {
    tries=0
    while [ $tries -lt 500 ]; do
        for name in /sys/class/virtio-ports/*/name; do
            read -r it <"$name" 2>/dev/null && [ "$it" = "$1" ] && {
                name=${name%/name}
                echo "/dev/${name##*/}"
                return
            }
        done
        $bb usleep 10000
        tries=$((tries + 1))
    done
    echo "<3>labvm-init: no port $1" >/dev/kmsg
    echo /dev/null
}
