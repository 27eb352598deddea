# shellcheck shell=dash
# shellcheck disable=SC2154,SC2086  # pid1 sets bb and conf, which hold no blanks
# The Intel back end's part inside the machine (see intel.py): two CDs hold the file system, serial
# lines carry the output, a raw disk takes the results as a tar archive.

# The block device at SCSI address $1; where a drive is plugged in is fixed, its sr number is not.
drive() {
    tries=0
    while [ $tries -lt 100 ]; do
        for device in /sys/class/scsi_device/"$1"/device/block/*; do
            [ ! -e "$device" ] || {
                echo "/dev/${device##*/}"
                return
            }
        done
        sleep 0.1
        tries=$((tries + 1))
    done
    fatal "find the drive $1"
}

mount_root() {
    mkdir /base /image
    mount -t squashfs -o ro "$(drive 0:0:1:0)" /base || fatal "mount the base image"
    mount -t squashfs -o ro "$(drive 1:0:0:0)" /image || fatal "mount the image of this run"
    mount -t overlay -o lowerdir=/image/tree:/base,upperdir=/scratch/upper,workdir=/scratch/work root /root ||
        fatal "mount the overlay"
    cp -a /image/run-config /run-config
}

open_results() {
    read -r results <$conf/results
    $bb mkdir -p "$results"
    $bb chmod 1777 /tmp
    for line in 1 2 3; do
        $bb stty -F /dev/ttyS$line raw -echo 115200
    done
}

close_results() {
    $bb tar -cf /dev/sda -C "$results" .
}

stream() {
    case $1 in
    stdin) echo $conf/stdin ;;
    stdout) echo /dev/ttyS1 ;;
    stderr) echo /dev/ttyS2 ;;
    status) echo /dev/ttyS3 ;;
    esac
}
