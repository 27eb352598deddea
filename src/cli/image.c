/*
 * hv image: disk images.
 *
 * A new image is made beside its place and then moved there, so nothing is overwritten by half, or
 * left behind by half.
 */
#include "cli/image.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "hv/base/fd.h"
#include "hv/base/num.h"

/* --- options --- */

static int parse_format(const char *value, enum image_format *out, struct error *err)
{
    if (strcmp(value, "raw") == 0)
        *out = IMAGE_RAW;
    else if (strcmp(value, "qcow2") == 0)
        *out = IMAGE_QCOW2;
    else
        return error_set(err, -EINVAL, "give raw or qcow2");
    return 0;
}

static int set_format(void *ctx, const char *value, struct error *err)
{
    return parse_format(value, &((struct image_options *)ctx)->format, err);
}

static int set_from(void *ctx, const char *value, struct error *err)
{
    return parse_format(value, &((struct image_options *)ctx)->from, err);
}

static int set_cluster_size(void *ctx, const char *value, struct error *err)
{
    uint64_t size;

    if (parse_size(value, 1, &size) < 0 || size < 512 || size > 2 * MIB || !is_power_of_two(size))
        return error_set(err, -EINVAL, "give a power of two from 512 to 2M");
    ((struct image_options *)ctx)->qcow2.cluster_size = (uint32_t)size;
    return 0;
}

static int set_backing(void *ctx, const char *value, struct error *err)
{
    (void)err;
    ((struct image_options *)ctx)->qcow2.backing = value;
    return 0;
}

static int set_backing_format(void *ctx, const char *value, struct error *err)
{
    enum image_format format;
    int rc = parse_format(value, &format, err);

    if (rc == 0)
        ((struct image_options *)ctx)->qcow2.backing_format = image_format_name(format);
    return rc;
}

static int set_allow_backing(void *ctx, const char *value, struct error *err)
{
    (void)value, (void)err;
    ((struct image_options *)ctx)->allow_backing = true;
    return 0;
}

static int set_force(void *ctx, const char *value, struct error *err)
{
    (void)value, (void)err;
    ((struct image_options *)ctx)->force = true;
    return 0;
}

static int set_shrink(void *ctx, const char *value, struct error *err)
{
    (void)value, (void)err;
    ((struct image_options *)ctx)->shrink = true;
    return 0;
}

static int set_json(void *ctx, const char *value, struct error *err)
{
    (void)value, (void)err;
    ((struct image_options *)ctx)->json = true;
    return 0;
}

static int set_repair(void *ctx, const char *value, struct error *err)
{
    (void)value, (void)err;
    ((struct image_options *)ctx)->repair = true;
    return 0;
}

static const struct cli_option image_option_table[] = {
    {"format", 'f', "FORMAT",
     "raw or qcow2; of convert's OUT\n(default: by the name, .raw, .img or .qcow2)", set_format},
    {"from", 0, "FORMAT", "convert: the format of IN", set_from},
    {"force", 0, NULL, "create, convert: overwrite what is there", set_force},
    {"cluster-size", 0, "SIZE", "of a new qcow2 image (default: 64K)", set_cluster_size},
    {"backing", 0, "FILE", "create: what the new image is a change of", set_backing},
    {"backing-format", 0, "FORMAT", "create: the format of that", set_backing_format},
    {"allow-backing", 0, NULL, "convert, resize: open the backing file\nthat the image names",
     set_allow_backing},
    {"shrink", 0, NULL, "resize: destroy what is beyond the new size", set_shrink},
    {"repair", 0, NULL, "check: give back clusters that are lost", set_repair},
    {"json", 0, NULL, "info, check: print JSON", set_json},
    {0},
};

static const struct cli_group image_groups[] = {{"Options", image_option_table}};

/* --- formats --- */

const char *image_format_name(enum image_format format)
{
    return format == IMAGE_QCOW2 ? "qcow2" : "raw";
}

static bool ends_in(const char *path, const char *end)
{
    size_t len = strlen(path), end_len = strlen(end);

    return len > end_len && strcmp(path + len - end_len, end) == 0;
}

int image_format_of(const char *path, enum image_format said, const char *option,
                    enum image_format *out, struct error *err)
{
    *out = said;
    if (said == IMAGE_UNSAID && ends_in(path, ".qcow2"))
        *out = IMAGE_QCOW2;
    else if (said == IMAGE_UNSAID && (ends_in(path, ".raw") || ends_in(path, ".img")))
        *out = IMAGE_RAW;
    if (*out != IMAGE_UNSAID)
        return 0;
    return error_set(err, -EINVAL,
                     "%s does not end in .raw, .img or .qcow2: say %s raw or %s qcow2", path,
                     option, option);
}

/* True if the file begins as qcow2 images do. */
static int has_magic(const char *path, bool *out, struct error *err)
{
    uint8_t magic[4] = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO does not keep us */
    int rc = fd < 0 || pread(fd, magic, sizeof(magic), 0) < 0 ? -errno : 0;

    fd_close(&fd);
    if (rc < 0)
        return error_sys(err, rc, "cannot read %s", path);
    *out = memcmp(magic, "QFI\xfb", sizeof(magic)) == 0;
    return 0;
}

/* --- files --- */

static int make_raw(const char *path, uint64_t size, struct error *err)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    int rc = fd < 0 ? -errno : 0;

    if (rc < 0)
        return error_sys(err, rc, "cannot create %s", path);
    if (ftruncate(fd, (off_t)size) < 0 || fsync(fd) < 0) {
        rc = error_sys(err, -errno, "cannot write %s", path);
        (void)unlink(path);
    }
    fd_close(&fd);
    return rc;
}

/* Is there room at `path` for a new file? */
static int check_place(const char *path, bool force, struct error *err)
{
    struct stat st;

    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : error_sys(err, -errno, "cannot create %s", path);
    if (!S_ISREG(st.st_mode))
        return error_set(err, -EEXIST, "%s exists and is no regular file; choose another name",
                         path);
    return force ? 0 : error_set(err, -EEXIST, "%s exists; --force overwrites it", path);
}

int image_begin(const char *path, enum image_format format, uint64_t size,
                const struct image_options *opt, char **temporary, struct error *err)
{
    char *name;
    int rc = check_place(path, opt->force, err);

    if (rc < 0)
        return rc;
    if (asprintf(&name, "%s.part-%d", path, (int)getpid()) < 0)
        return error_sys(err, -ENOMEM, "%s", path);
    rc = format == IMAGE_QCOW2 ? block_qcow2_format(name, size, &opt->qcow2, err)
                               : make_raw(name, size, err);
    if (rc < 0)
        free(name);
    else
        *temporary = name;
    return rc;
}

/* Without --force nothing may have come there in the meantime, either. */
static int move(const char *from, const char *to, bool force)
{
    if (force)
        return rename(from, to) < 0 ? -errno : 0;
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -errno;
    return rename(from, to) < 0 ? -errno : 0; /* a file system that does not know this */
}

int image_end(const char *path, char *temporary, bool force, int rc, struct error *err)
{
    if (rc == 0 && (rc = move(temporary, path, force)) < 0)
        rc = error_sys(err, rc, "cannot create %s", path);
    if (rc < 0)
        (void)unlink(temporary);
    free(temporary);
    return rc;
}

int image_open(const char *path, enum image_format format, bool read_only, bool backing,
               struct block **out, struct error *err)
{
    const struct block_raw_config raw = {.path = path, .read_only = read_only};
    const struct block_qcow2_config qcow2 = {
        .path = path, .read_only = read_only, .backing = backing};

    int rc = format == IMAGE_QCOW2 ? block_qcow2_create(&qcow2, out, err)
                                   : block_raw_create(&raw, out, err);
    return rc == -EINVAL ? -EBADMSG : rc; /* it is the file that is wrong, not what was typed */
}

static int parse_disk_size(const char *text, uint64_t *out, struct error *err)
{
    if (parse_size(text, 1, out) < 0)
        return error_set(err, -EINVAL, "%s is no size: give one such as 10G or 512M", text);
    if (*out == 0 || *out % BLOCK_SECTOR != 0 || *out > INT64_MAX)
        return error_set(err, -EINVAL, "a disk of %s bytes cannot be: it has whole sectors of 512",
                         text);
    return 0;
}

/* --- create --- */

static int create(char **args, struct image_options *opt, struct error *err)
{
    enum image_format format;
    char *temporary;
    uint64_t size;

    int rc = image_format_of(args[0], opt->format, "--format", &format, err);
    if (rc == 0)
        rc = parse_disk_size(args[1], &size, err);
    if (rc == 0 && format == IMAGE_RAW && (opt->qcow2.backing || opt->qcow2.cluster_size))
        rc = error_set(err, -EINVAL, "a raw image has neither clusters nor a backing file");
    if (rc == 0 && opt->qcow2.backing && !opt->qcow2.backing_format) {
        enum image_format of_backing;
        rc =
            image_format_of(opt->qcow2.backing, IMAGE_UNSAID, "--backing-format", &of_backing, err);
        if (rc == 0)
            opt->qcow2.backing_format = image_format_name(of_backing);
    }
    if (rc == 0)
        rc = image_begin(args[0], format, size, opt, &temporary, err);
    return rc == 0 ? image_end(args[0], temporary, opt->force, 0, err) : rc;
}

/* --- info --- */

static json_t *info_json(const char *path, enum image_format format, uint64_t size,
                         const struct stat *st, const struct block_qcow2_info *i)
{
    json_t *out =
        json_pack("{s:s, s:s, s:I, s:I}", "filename", path, "format", image_format_name(format),
                  "virtual-size", (json_int_t)size, "actual-size", (json_int_t)st->st_blocks * 512);

    if (out == NULL || format == IMAGE_RAW)
        return out;
    json_t *more = json_pack("{s:i, s:i, s:i, s:i, s:s, s:b, s:b, s:b, s:b, s:b, s:b}", "version",
                             (int)i->version, "cluster-size", (int)i->cluster_size, "refcount-bits",
                             (int)i->refcount_bits, "snapshots", (int)i->snapshots, "compression",
                             i->zstd ? "zstd" : "zlib", "dirty", i->dirty, "corrupt", i->corrupt,
                             "lazy-refcounts", i->lazy_refcounts, "encrypted", i->encrypted,
                             "external-data-file", i->external_data, "extended-l2", i->extended_l2);
    if (i->backing[0] != '\0')
        (void)json_object_set_new(more, "backing-filename", json_string(i->backing));
    if (i->backing_format[0] != '\0')
        (void)json_object_set_new(more, "backing-format", json_string(i->backing_format));
    (void)json_object_update(out, more);
    json_decref(more);
    return out;
}

static int print_json(json_t *value)
{
    int rc = value != NULL ? json_dumpf(value, stdout, JSON_INDENT(4)) : -1;

    json_decref(value);
    printf("\n");
    return rc < 0 ? -ENOMEM : 0;
}

static void print_info(const char *path, enum image_format format, uint64_t size,
                       const struct stat *st, const struct block_qcow2_info *i)
{
    char text[SIZE_TEXT_MAX];

    printf("file:          %s\nformat:        %s\n", path, image_format_name(format));
    printf("disk:          %s (%" PRIu64 " bytes)\n", format_size(size, text), size);
    printf("on this host:  %s\n", format_size((uint64_t)st->st_blocks * 512, text));
    if (format == IMAGE_RAW)
        return;
    printf("version:       %u\nclusters:      %s\n", i->version,
           format_size(i->cluster_size, text));
    printf("counts:        %u bits%s\n", i->refcount_bits,
           i->lazy_refcounts ? ", lazily updated" : "");
    printf("compression:   %s\nsnapshots:     %u\n", i->zstd ? "zstd" : "zlib", i->snapshots);
    if (i->backing[0] != '\0')
        printf("backing file:  %s (%s)\n", i->backing,
               i->backing_format[0] != '\0' ? i->backing_format : "its format is not said");
    if (i->dirty || i->corrupt)
        printf("state:         %s; repair it: qemu-img check -r all\n",
               i->corrupt ? "corrupt" : "was not closed");
    if (i->encrypted || i->external_data || i->extended_l2)
        printf("not for hv:    %s%s%s\n", i->encrypted ? "encrypted " : "",
               i->external_data ? "external data file " : "",
               i->extended_l2 ? "extended L2 entries" : "");
}

static int info(char **args, struct image_options *opt, struct error *err)
{
    enum image_format format = opt->format;
    struct block_qcow2_info i = {0};
    struct stat st;
    bool magic = false;

    /* Here looking is harmless: what is found is told, and nobody acts on it. */
    int rc = format == IMAGE_UNSAID ? has_magic(args[0], &magic, err) : 0;
    if (format == IMAGE_UNSAID)
        format = magic ? IMAGE_QCOW2 : IMAGE_RAW;
    if (rc == 0 && stat(args[0], &st) < 0)
        rc = error_sys(err, -errno, "cannot read %s", args[0]);
    if (rc == 0 && format == IMAGE_QCOW2)
        rc = block_qcow2_info(args[0], &i, err);
    if (rc < 0)
        return rc;
    uint64_t size = format == IMAGE_QCOW2 ? i.size : (uint64_t)st.st_size;
    if (opt->json)
        return print_json(info_json(args[0], format, size, &st, &i));
    print_info(args[0], format, size, &st, &i);
    return 0;
}

/* --- check --- */

static void print_finding(void *ctx, const char *text)
{
    const struct image_options *opt = ctx;

    (void)fprintf(opt->json ? stderr : stdout, "%s\n", text);
}

static json_t *check_json(const char *path, const struct block_qcow2_report *r, bool repaired)
{
    return json_pack(
        "{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "filename", path, "format", "qcow2",
        "corruptions", (json_int_t)r->corruptions, "leaks", (json_int_t)(repaired ? 0 : r->leaks),
        "leaks-fixed", (json_int_t)(repaired ? r->leaks : 0), "total-clusters",
        (json_int_t)r->clusters, "allocated-clusters", (json_int_t)r->allocated,
        "compressed-clusters", (json_int_t)r->compressed, "image-end-offset", (json_int_t)r->end);
}

static void print_report(const char *path, const struct block_qcow2_report *r, bool repaired)
{
    if (r->corruptions > 0)
        printf("%" PRIu64
               " places are damaged; keep a copy, then repair it: qemu-img check -r all %s\n",
               r->corruptions, path);
    if (r->leaks > 0 && repaired)
        printf("%" PRIu64 " clusters were lost, and are free again.\n", r->leaks);
    else if (r->leaks > 0)
        printf("%" PRIu64 " clusters are lost, which harms no data; to get them back: "
               "hv image check --repair %s\n",
               r->leaks, path);
    if (r->corruptions == 0 && r->leaks == 0)
        printf("No errors.\n");
    printf("%" PRIu64 " of %" PRIu64 " clusters are in the file, %" PRIu64
           " of them compressed; it is used up to byte %" PRIu64 ".\n",
           r->allocated, r->clusters, r->compressed, r->end);
}

static int check(char **args, struct image_options *opt, struct error *err)
{
    struct block_qcow2_report report;
    enum image_format format;

    int rc = image_format_of(args[0], opt->format, "--format", &format, err);
    if (rc == 0 && format == IMAGE_RAW)
        rc = error_set(err, -EINVAL, "%s: in a raw image there is nothing to check", args[0]);
    if (rc == 0)
        rc = (opt->repair ? block_qcow2_repair : block_qcow2_check)(args[0], print_finding, opt,
                                                                    &report, err);
    if (rc < 0)
        return rc;
    bool repaired = opt->repair && report.corruptions == 0;
    if (opt->json)
        rc = print_json(check_json(args[0], &report, repaired));
    else
        print_report(args[0], &report, repaired);
    if (rc < 0)
        return rc;
    if (report.corruptions > 0)
        return STATUS_INPUT;
    return report.leaks > 0 && !repaired ? STATUS_LEAKS : STATUS_OK;
}

/* --- resize --- */

/* The block is open so that nobody else is. */
static int resize_raw(const char *path, uint64_t size, bool shrink, struct error *err)
{
    struct block *b;
    int rc = image_open(path, IMAGE_RAW, false, false, &b, err);

    if (rc < 0)
        return rc;
    if (size < atomic_load(&b->size) && !shrink)
        rc = error_set(err, -EINVAL,
                       "%s is larger than that; making it smaller destroys what is beyond", path);
    else if (truncate(path, (off_t)size) < 0)
        rc = error_sys(err, -errno, "cannot resize %s", path);
    block_destroy(b);
    return rc;
}

static int resize(char **args, struct image_options *opt, struct error *err)
{
    enum image_format format;
    uint64_t size;

    int rc = image_format_of(args[0], opt->format, "--format", &format, err);
    if (rc == 0)
        rc = parse_disk_size(args[1], &size, err);
    if (rc < 0)
        return rc;
    rc = format == IMAGE_QCOW2
             ? block_qcow2_resize(args[0], size, opt->shrink, opt->allow_backing, err)
             : resize_raw(args[0], size, opt->shrink, err);
    return rc;
}

/* --- convert --- */

static int convert(char **args, struct image_options *opt, struct error *err)
{
    int signal = 0;
    int rc = image_convert(args[0], args[1], opt, &signal, err);

    return rc == -EINTR ? 128 + signal : rc;
}

/* --- the command --- */

static const struct image_command {
    const char *name, *arguments;
    int count;
    int (*run)(char **args, struct image_options *opt, struct error *err); /* -errno, or a status */
} image_commands[] = {
    {"create", "FILE SIZE", 2, create}, {"info", "FILE", 1, info},
    {"check", "FILE", 1, check},        {"convert", "IN OUT", 2, convert},
    {"resize", "FILE SIZE", 2, resize},
};

static const struct image_command *find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(image_commands); i++)
        if (strcmp(image_commands[i].name, name) == 0)
            return &image_commands[i];
    return NULL;
}

static int status_of(int rc)
{
    switch (rc) {
    case -EINVAL:
        return STATUS_USAGE;
    case -ENOSPC:
    case -EDQUOT:
    case -EFBIG:
    case -EIO:
    case -ENOMEM:
    case -EROFS:
        return STATUS_HOST;
    default:
        return STATUS_INPUT;
    }
}

static int image(const struct cli_command *cmd, int argc, char **argv)
{
    struct image_options opt = {0};
    struct error err = {0};
    int first = cli_parse(cmd, argc, argv, &opt);

    if (first < 0)
        return STATUS_USAGE;
    const struct image_command *what = first < argc ? find(argv[first]) : NULL;
    if (what == NULL) {
        complain("hv image can create, info, check, convert and resize; see `hv help image`");
        return STATUS_USAGE;
    }
    if (argc - first - 1 != what->count) {
        complain("hv image %s takes %s; see `hv help image`", what->name, what->arguments);
        return STATUS_USAGE;
    }
    int rc = what->run(argv + first + 1, &opt, &err);
    if (rc < 0) {
        complain("%s", err.text[0] != '\0' ? err.text : strerror(-rc));
        return status_of(rc);
    }
    int status = cli_finish_output();
    return status != STATUS_OK ? status : rc;
}

const struct cli_command command_image = {
    .name = "image",
    .arguments = "create FILE SIZE | info FILE | check FILE | convert IN OUT | resize FILE SIZE",
    .summary = "Make disk images, copy, check and resize them",
    .groups = image_groups,
    .group_count = ARRAY_LEN(image_groups),
    .run = image,
};
