/*
 * What `--disk` and `--net` say: the parts of their values, checked as far as that needs no look at
 * the host.
 */
#ifndef HV_CLI_DEVICE_OPTIONS_H
#define HV_CLI_DEVICE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/base/err.h"

// lab 08 {
enum disk_format {
    DISK_UNSAID, /* as the file's name says, or raw */
    DISK_RAW,
    DISK_QCOW2,
};

/* Strings are in `text`. */
struct disk_options {
    char *text; /* owned */
    const char *path;
    enum disk_format format;
    bool read_only;
    bool direct;
    bool no_uring;
    bool backing; /* a backing file that the image names may be opened */
    unsigned queues;
    const char *serial; /* NULL: none */
    uint64_t iops, bps; /* 0: no limit */
    bool event_idx;
};

int disk_options_parse(const char *value, struct disk_options *out,
                       struct error *err) HV_MUST_CHECK;
void disk_options_fini(struct disk_options *d);
// }

// lab 09 {
enum nic_kind {
    NIC_USER,
    NIC_TAP,
    NIC_STREAM,
    NIC_LISTEN,
    NIC_NONE, /* a cable that leads nowhere */
};

#define NIC_FORWARDS_MAX 16

struct nic_options {
    char *text; /* owned */
    enum nic_kind kind;
    const char *where; /* an interface or a path */
    unsigned queues;   /* pairs of them; more than one only of a tap interface */
    const char *forwards[NIC_FORWARDS_MAX];
    unsigned forward_count;
    uint8_t mac[6];
    bool mac_given;
    const char *pcap;       /* NULL: no dump */
    uint64_t packets, rate; /* per second and direction; 0: no limit */
    bool event_idx;
};

struct console_options {
    char *text;       /* owned */
    const char *spec; /* a back end, as for --serial */
    const char *name; /* NULL: none */
};

struct vsock_options {
    char *text;       /* owned */
    const char *path; /* NULL: no such device */
    uint64_t cid;
};

int console_options_parse(const char *value, struct console_options *out,
                          struct error *err) HV_MUST_CHECK;
int vsock_options_parse(const char *value, struct vsock_options *out,
                        struct error *err) HV_MUST_CHECK;
int nic_options_parse(const char *value, struct nic_options *out, struct error *err) HV_MUST_CHECK;
void nic_options_fini(struct nic_options *n);
// }

#endif
