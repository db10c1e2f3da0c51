/* The keys of a check through configure_yaml: each is effective, and refused beyond its limits.
 * Compiles as C11 and as C++17.
 *
 *     settings CERTIFICATES PORT PORT_1_2
 *
 * CERTIFICATES: the folder that certificates.sh makes. PORT: a server that requires a client
 * certificate of its authority; PORT_1_2: one of TLS 1.2 that requires none.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include "tap.h"

/* The last request to a server of this test, for the process that checks it. */
struct asked {
  volatile int http_status;
  char line[512];
  char host[128];
  char from[INET_ADDRSTRLEN];
};

enum kind { HTTP, SMTP, IMAP };

static int attempt(unsigned port) {
  struct sockaddr_in address;
  int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
  memset(&address, 0, sizeof address);
  address.sin_family = AF_INET;
  address.sin_port = htons((uint16_t)port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 1024) == 0)
    return fd;
  close(fd);
  return -1;
}

/* A listener; on a port that no connection going out is given meanwhile. */
static int listener(unsigned *port) {
  int fd, tries;
  for (tries = 0; tries < 1000; tries++) {
    *port = 13000 + (unsigned)rand() % 19000;
    if ((fd = attempt(*port)) >= 0)
      return fd;
  }
  exit(2);
}

/* A copy, cut where there is no more room. */
static void keep(char *copy, size_t room, const char *text) {
  size_t size = strlen(text);
  if (size >= room)
    size = room - 1;
  memcpy(copy, text, size);
  copy[size] = '\0';
}

static void say(int fd, const char *text) {
  if (write(fd, text, strlen(text)) < 0)
    return;
}

/* Answers one line of a dialogue; 0 where it is over. */
static int answer(int fd, enum kind kind, char *line, struct asked *asked) {
  char text[600];
  if (kind == HTTP) {
    if (strncmp(line, "GET ", 4) == 0 || strncmp(line, "HEAD ", 5) == 0)
      keep(asked->line, sizeof asked->line, line);
    else if (strncasecmp(line, "host: ", 6) == 0)
      keep(asked->host, sizeof asked->host, line + 6);
    if (line[0] != '\0')
      return 1;
    snprintf(text, sizeof text, "HTTP/1.1 %d it\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", asked->http_status);
    say(fd, text);
    return 0;
  }
  if (kind == SMTP) {
    if (strncmp(line, "EHLO ", 5) == 0)
      keep(asked->line, sizeof asked->line, line);
    say(fd, strncmp(line, "QUIT", 4) == 0 ? "221 bye\r\n" : "250 there\r\n");
    return strncmp(line, "QUIT", 4) != 0;
  }
  if (strstr(line, " EXAMINE "))
    keep(asked->line, sizeof asked->line, strstr(line, "EXAMINE"));
  if (strstr(line, " LOGOUT"))
    say(fd, "* BYE\r\n");
  snprintf(text, sizeof text, "%.*s OK done\r\n", (int)strcspn(line, " "), line);
  say(fd, text);
  return strstr(line, " LOGOUT") == NULL;
}

static void dialogue(int fd, enum kind kind, struct asked *asked) {
  char buffer[4096];
  size_t filled = 0;
  ssize_t got;
  if (kind == SMTP)
    say(fd, "220 there ESMTP\r\n");
  if (kind == IMAP)
    say(fd, "* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] there\r\n");
  while ((got = read(fd, buffer + filled, sizeof buffer - 1 - filled)) > 0) {
    char *end, *line = buffer;
    filled += (size_t)got;
    buffer[filled] = '\0';
    while ((end = strstr(line, "\r\n")) != NULL) {
      *end = '\0';
      if (!answer(fd, kind, line, asked))
        return;
      line = end + 2;
    }
    filled = strlen(line);
    memmove(buffer, line, filled + 1);
  }
}

/* A server in a process of its own, which ends with this one. */
static struct asked *serve(enum kind kind, unsigned *port) {
  int fd = listener(port), connection;
  struct asked *asked =
      (struct asked *)mmap(NULL, sizeof *asked, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (asked == MAP_FAILED)
    exit(2);
  asked->http_status = 200;
  if (fork() == 0) {
    struct sockaddr_in peer;
    socklen_t size = sizeof peer;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    while ((connection = accept(fd, (struct sockaddr *)&peer, &size)) >= 0) {
      inet_ntop(AF_INET, &peer.sin_addr, asked->from, sizeof asked->from);
      dialogue(connection, kind, asked);
      close(connection);
      size = sizeof peer;
    }
    _exit(0);
  }
  close(fd);
  return asked;
}

/* --- Configurations ------------------------------------------------------------------------ */

static nauthilus_backend_status configure(const char *service, const char *targets) {
  char yaml[4096];
  int size = snprintf(yaml, sizeof yaml,
                      "backend_server_monitoring:\n  log: none\n  connect_timeout: 20s\n  tls_timeout: 20s\n"
                      "  deep_timeout: 20s\n%s\n  backend_servers:\n%s\n", service, targets);
  return nauthilus_backend_configure_yaml(yaml, (size_t)size, &why);
}

/* One target at a port of this machine, with these keys. */
static const char *target(const char *protocol, unsigned port, const char *keys) {
  static char text[8][600];
  static unsigned next;
  char *one = text[next++ % 8];
  snprintf(one, sizeof text[0], "    - { protocol: %s, host: 127.0.0.1, port: %u%s%s }\n", protocol, port,
           keys[0] ? ", " : "", keys);
  return one;
}

static const char *both(const char *first, const char *second) {
  static char text[1200];
  snprintf(text, sizeof text, "%s%s", first, second);
  return text;
}

static size_t alive(void) {
  nauthilus_backend_servers *servers = NULL;
  size_t count = 99;
  if (nauthilus_backend_servers_acquire(&servers, NULL) == NAUTHILUS_BACKEND_OK)
    nauthilus_backend_servers_count(servers, &count, NULL);
  nauthilus_backend_servers_release(servers);
  return count;
}

/* The only server that is listed; 0 if there is none, or more. */
static unsigned listed(void) {
  nauthilus_backend_servers *servers = NULL;
  nauthilus_backend_server server;
  unsigned port = 0;
  memset(&server, 0, sizeof server);
  if (nauthilus_backend_servers_acquire(&servers, NULL) == NAUTHILUS_BACKEND_OK && alive() == 1 &&
      nauthilus_backend_servers_at(servers, 0, &server, sizeof server, NULL) == NAUTHILUS_BACKEND_OK)
    port = server.port;
  nauthilus_backend_servers_release(servers);
  return port;
}

/* Waits until so many are listed. */
static int becomes(size_t count) {
  const struct timespec pause = {0, 2000000};
  int turn;
  for (turn = 0; turn < 20000 && alive() != count; turn++)
    nanosleep(&pause, NULL);
  return alive() == count;
}

/* Accepted, and after the first verdicts so many are listed. */
static void gives(const char *name, const char *targets, size_t count) {
  printf("# %s\n", name);
  OK("a configuration with it", configure("", targets));
  OK("the first verdicts", nauthilus_backend_wait_ready(60000, &why));
  CHECK(name, alive() == count);
}

static void refused(const char *service, const char *targets, const char *expected) {
  printf("# %s\n", expected);
  STATUS("a value beyond the limits", NAUTHILUS_BACKEND_CONFIGURATION, configure(service, targets));
  CHECK("the reason names key, value and limits", why.data != NULL && strstr(why.data, expected) != NULL);
  if (why.data == NULL || strstr(why.data, expected) == NULL)
    printf("# %s\n", why.data ? why.data : "");
  CHECK("and the line", why.data != NULL && strstr(why.data, "line ") != NULL);
}

/* --- The keys ------------------------------------------------------------------------------ */

static void limits_of_schedules(void) {
  static const char *const intervals[] = {"connect_interval", "deep_interval", "fast_interval"};
  static const char *const thresholds[] = {"failure_threshold", "recovery_threshold"};
  char keys[200], expected[200];
  size_t at;
  for (at = 0; at < 3; at++) {
    snprintf(keys, sizeof keys, "%s: 10ms", intervals[at]);
    OK("the shortest interval", configure("", target("imap", 1, keys)));
    snprintf(keys, sizeof keys, "%s: 24h", intervals[at]);
    OK("the longest interval", configure("", target("imap", 1, keys)));
    snprintf(keys, sizeof keys, "%s: 9ms", intervals[at]);
    snprintf(expected, sizeof expected, "backend_servers[1].%s: duration 10ms..24h expected, got \"9ms\"", intervals[at]);
    refused("", target("imap", 1, keys), expected);
    snprintf(keys, sizeof keys, "%s: 25h", intervals[at]);
    snprintf(expected, sizeof expected, "backend_servers[1].%s: duration 10ms..24h expected, got \"25h\"", intervals[at]);
    refused("", target("imap", 1, keys), expected);
  }
  for (at = 0; at < 2; at++) {
    snprintf(keys, sizeof keys, "%s: 100", thresholds[at]);
    OK("the highest threshold", configure("", target("imap", 1, keys)));
    snprintf(keys, sizeof keys, "%s: 0", thresholds[at]);
    snprintf(expected, sizeof expected, "backend_servers[1].%s: integer 1..100 expected, got 0", thresholds[at]);
    refused("", target("imap", 1, keys), expected);
    snprintf(keys, sizeof keys, "%s: 101", thresholds[at]);
    snprintf(expected, sizeof expected, "backend_servers[1].%s: integer 1..100 expected, got 101", thresholds[at]);
    refused("", target("imap", 1, keys), expected);
  }
}

/* Two listeners close and open again; what the second target has of its own keeps its verdict. */
static void schedules(const char *name, const char *service, const char *first_keys, const char *second_keys) {
  unsigned first_port, second_port;
  int first = listener(&first_port), second = listener(&second_port);
  const char *targets = both(target("imap", first_port, first_keys), target("imap", second_port, second_keys));
  printf("# %s\n", name);
  OK("a configuration with it", configure(service, targets));
  OK("the first verdicts", nauthilus_backend_wait_ready(60000, &why));
  CHECK("both are alive", alive() == 2);
  close(first);
  close(second);
  CHECK(name, becomes(1) && listed() == second_port);
}

static void recovery(void) {
  unsigned first_port, second_port;
  int first = listener(&first_port), second = listener(&second_port);
  const char *service = "  connect_interval: 50ms\n  fast_interval: 50ms";
  const char *targets = both(target("imap", first_port, ""), target("imap", second_port, "recovery_threshold: 100, fast_interval: 24h"));
  close(first);
  close(second);
  OK("a configuration with recovery_threshold", configure(service, targets));
  OK("the first verdicts", nauthilus_backend_wait_ready(60000, &why));
  CHECK("both are dead", alive() == 0);
  first = attempt(first_port);
  second = attempt(second_port);
  CHECK("recovery_threshold and fast_interval are the target's own", becomes(1) && listed() == first_port);
  close(first);
  close(second);
}

static void deep_intervals(struct asked *asked, unsigned port) {
  unsigned other_port;
  struct asked *other = serve(HTTP, &other_port);
  const char *targets = both(target("http", port, "deep_check: true, deep_interval: 50ms, connect_interval: 24h"),
                             target("http", other_port, "deep_check: true, deep_interval: 24h, connect_interval: 50ms"));
  OK("a configuration with deep_interval", configure("", targets));
  OK("the first verdicts", nauthilus_backend_wait_ready(60000, &why));
  CHECK("both are alive", alive() == 2);
  asked->http_status = other->http_status = 503;
  CHECK("deep_interval is the target's own", becomes(1) && listed() == other_port);
  asked->http_status = 200;
}

static void http(struct asked *asked, unsigned port) {
  char expected[64];
  gives("http_method GET, the default", target("http", port, "deep_check: true, request_uri: '/a?b=c&d'"), 1);
  CHECK("the request", strcmp(asked->line, "GET /a?b=c&d HTTP/1.1") == 0);
  snprintf(expected, sizeof expected, "127.0.0.1:%u", port);
  CHECK("the host with its port", strcmp(asked->host, expected) == 0);
  gives("http_method HEAD", target("http", port, "deep_check: true, http_method: head"), 1);
  CHECK("the request", strcmp(asked->line, "HEAD / HTTP/1.1") == 0);
  refused("", target("http", port, "http_method: POST"), "backend_servers[1].http_method: one of GET, HEAD expected, got \"POST\"");

  gives("http_host", target("http", port, "deep_check: true, http_host: 'www.example.org:8080'"), 1);
  CHECK("the field", strcmp(asked->host, "www.example.org:8080") == 0);
  gives("http_host of IPv6", target("http", port, "deep_check: true, http_host: '2001:db8::1'"), 1);
  CHECK("the field", strcmp(asked->host, "[2001:db8::1]") == 0);
  refused("", target("http", port, "http_host: 'a b'"), "backend_servers[1].http_host: host, or host:port expected, got \"a b\"");
  refused("", target("http", port, "http_host: 'a.example:65536'"), "backend_servers[1].http_host: host, or host:port expected");

  asked->http_status = 301;
  gives("a redirect is good by default", target("http", port, "deep_check: true, request_uri: /1"), 1);
  gives("expected_status without redirects", target("http", port, "deep_check: true, expected_status: 200-299"), 0);
  asked->http_status = 503;
  gives("expected_status of codes and ranges", target("http", port, "deep_check: true, expected_status: '204,500-503'"), 1);
  gives("expected_status as a list", target("http", port, "deep_check: true, expected_status: [204, '503-599']"), 1);
  gives("expected_status beside it", target("http", port, "deep_check: true, expected_status: '504-599'"), 0);
  asked->http_status = 200;
  refused("", target("http", port, "expected_status: 199"), "backend_servers[1].expected_status: status codes and ranges within 200..599");
  refused("", target("http", port, "expected_status: '200-600'"), "backend_servers[1].expected_status: status codes and ranges within 200..599");
}

static void addresses(struct asked *asked, unsigned port) {
  gives("without source_address", target("http", port, "deep_check: true, request_uri: /from"), 1);
  CHECK("the address is the usual one", strcmp(asked->from, "127.0.0.1") == 0);
  gives("source_address", target("http", port, "deep_check: true, source_address: 127.0.0.9"), 1);
  CHECK("the address is the one given", strcmp(asked->from, "127.0.0.9") == 0);
  refused("", target("http", port, "source_address: 192.0.2.1"), "backend_servers[1].source_address: address of this machine expected, got 192.0.2.1");
  refused("", target("http", port, "source_address: '::1'"), "backend_servers[1].source_address: IPv4 expected as for the host, got ::1");
}

static void names_and_mailboxes(void) {
  unsigned smtp_port, imap_port;
  struct asked *smtp = serve(SMTP, &smtp_port), *imap = serve(IMAP, &imap_port);
  gives("helo_name", target("smtp", smtp_port, "deep_check: true, helo_name: probe.example.org"), 1);
  CHECK("the name", strcmp(smtp->line, "EHLO probe.example.org") == 0);
  refused("", target("smtp", smtp_port, "helo_name: 192.0.2.1"), "backend_servers[1].helo_name: host name, or an address literal");

  gives("test_mailbox", target("imap", imap_port, "deep_check: true, test_username: u, test_password: p, test_mailbox: Sent"), 1);
  CHECK("the mailbox is opened", strcmp(imap->line, "EXAMINE \"Sent\"") == 0 || strcmp(imap->line, "EXAMINE Sent") == 0);
  if (strstr(imap->line, "Sent") == NULL)
    printf("# %s\n", imap->line);
  refused("", target("imap", imap_port, "test_mailbox: ''"), "backend_servers[1].test_mailbox: string of 1..1024 bytes without CR, LF and NUL");
  refused("", target("imap", imap_port, "test_mailbox: INBOX"), "backend_servers[1].test_mailbox: test_username expected beside it, got nothing");
  refused("", target("smtp", smtp_port, "test_mailbox: INBOX"), "backend_servers[1].test_mailbox: only imap, pop3 and sieve have a mailbox to open, smtp has none");
}

static void tls(const char *folder, unsigned port, unsigned older) {
  char trusted[400], keys[600], expected[600];
  snprintf(trusted, sizeof trusted, "tls: true, tls_ca_file: %s/ca.crt", folder);
  gives("without a client certificate", target("imap", port, trusted), 0);
  snprintf(keys, sizeof keys, "%s, tls_cert_file: %s/good.crt, tls_key_file: %s/good.key", trusted, folder, folder);
  gives("tls_cert_file and tls_key_file", target("imap", port, keys), 1);
  snprintf(keys, sizeof keys, "%s, tls_cert_file: %s/good.crt", trusted, folder);
  refused("", target("imap", port, keys), "backend_servers[1].tls_cert_file: tls_key_file expected beside it, got nothing");
  snprintf(keys, sizeof keys, "%s, tls_key_file: %s/good.key", trusted, folder);
  refused("", target("imap", port, keys), "backend_servers[1].tls_key_file: tls_cert_file expected beside it, got nothing");
  snprintf(keys, sizeof keys, "%s, tls_cert_file: %s/good.crt, tls_key_file: %s/other.key", trusted, folder, folder);
  snprintf(expected, sizeof expected, "backend_servers[1].tls_key_file: %s/other.key: the key of the certificate", folder);
  STATUS("a key of another certificate", NAUTHILUS_BACKEND_CONFIGURATION, configure("", target("imap", port, keys)));
  CHECK("the reason names key and file", why.data != NULL && strstr(why.data, expected) != NULL);

  snprintf(keys, sizeof keys, "%s, tls_min_version: 1.2", trusted);
  gives("tls_min_version 1.2", target("imap", older, keys), 1);
  snprintf(keys, sizeof keys, "%s, tls_min_version: 1.3", trusted);
  gives("tls_min_version 1.3", target("imap", older, keys), 0);
  refused("", target("imap", older, "tls: true, tls_min_version: 1.1"), "backend_servers[1].tls_min_version: one of 1.2, 1.3 expected, got number 1.1");
}

static void panic(void) {
  unsigned live_port, dead_port;
  int live = listener(&live_port), dead = listener(&dead_port);
  const char *targets = both(target("imap", live_port, ""), target("imap", dead_port, ""));
  close(dead);
  OK("no panic_threshold", configure("", targets));
  OK("the first verdicts", nauthilus_backend_wait_ready(60000, &why));
  CHECK("lists who is alive", alive() == 1);
  OK("half of them is no panic", configure("  panic_threshold: 50%", targets));
  CHECK("lists who is alive", becomes(1));
  OK("less is", configure("  panic_threshold: 51%", targets));
  CHECK("panic_threshold lists all", becomes(2));
  OK("the highest", configure("  panic_threshold: 100", targets));
  CHECK("lists all", becomes(2));
  refused("  panic_threshold: 101%", targets, "panic_threshold: percentage 0%..100% expected, got");
  refused("  panic_threshold: -1", targets, "panic_threshold: percentage 0%..100% expected, got");
  close(live);
}

int main(int argc, char **argv) {
  unsigned port;
  struct asked *asked;
  if (argc != 4)
    return 2;
  srand((unsigned)getpid());
  asked = serve(HTTP, &port);
  limits_of_schedules();
  schedules("connect_interval is the target's own", "  connect_interval: 50ms", "", "connect_interval: 24h");
  schedules("failure_threshold is the target's own", "  connect_interval: 50ms\n  fast_interval: 50ms", "",
            "failure_threshold: 100, fast_interval: 24h");
  recovery();
  deep_intervals(asked, port);
  http(asked, port);
  addresses(asked, port);
  names_and_mailboxes();
  tls(argv[1], (unsigned)atoi(argv[2]), (unsigned)atoi(argv[3]));
  panic();
  OK("stop", nauthilus_backend_stop(&why));
  return tap_finish();
}
