/*
 * In the guest: connects to port 6000 of the host and says so there, then echoes what one program
 * sends to port 5000, in upper case, until it ends.
 */
#include <ctype.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct sockaddr_vm address(unsigned cid, unsigned port)
{
    return (struct sockaddr_vm){.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port};
}

static void check(int result, const char *what)
{
    if (result >= 0)
        return;
    perror(what);
    exit(1);
}

static void greet(void)
{
    const char text[] = "hello from the guest\n";
    struct sockaddr_vm host = address(VMADDR_CID_HOST, 6000);
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

    check(fd, "socket");
    check(connect(fd, (struct sockaddr *)&host, sizeof(host)), "connect");
    check((int)write(fd, text, strlen(text)), "write");
    close(fd);
}

static void echo(int fd)
{
    static char buffer[65536];
    ssize_t n;

    while ((n = read(fd, buffer, sizeof(buffer))) > 0) {
        for (ssize_t i = 0; i < n; i++)
            buffer[i] = (char)toupper(buffer[i]);
        for (ssize_t done = 0, part; done < n; done += part) {
            part = write(fd, buffer + done, (size_t)(n - done));
            check((int)part, "write");
        }
    }
}

int main(void)
{
    struct sockaddr_vm here = address(VMADDR_CID_ANY, 5000);
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

    check(fd, "socket");
    check(bind(fd, (struct sockaddr *)&here, sizeof(here)), "bind");
    check(listen(fd, 1), "listen");
    greet();
    int peer = accept(fd, NULL, NULL);
    check(peer, "accept");
    echo(peer);
    puts("echoed");
    return 0;
}
