/* Servers, configuration and checks from C, in the library without Lua. Compiles as C11 and as
 * C++17.
 *
 *     engine                 all of it
 *     engine environment     what a bad NAUTHILUS_BACKEND_CONFIG gives
 *     engine system          ... one whose log cannot be opened
 *     engine refused         a start that the system refuses
 *     engine raced           a NAUTHILUS_BACKEND_CONFIG of many servers, and a call while it is read
 *     engine alone           without a fork, for tools that count what a child leaves behind
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tap.h"

/* A port of 127.0.0.1 at which nobody answers: connections wait in the backlog. Without
 * `listening` there is nothing. */
static unsigned open_port(int listening) {
  struct sockaddr_in address;
  socklen_t size = sizeof address;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  memset(&address, 0, sizeof address);
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(fd, (struct sockaddr *)&address, size) != 0 || (listening && listen(fd, 1024) != 0) ||
      getsockname(fd, (struct sockaddr *)&address, &size) != 0)
    exit(2);
  return ntohs(address.sin_port);
}

static nauthilus_backend_status configure(unsigned live, unsigned dead, const char *more) {
  char yaml[1024];
  int size = snprintf(yaml, sizeof yaml,
                      "backend_server_monitoring:\n"
                      "  log: none\n"
                      "  connect_interval: 50ms\n"
                      "  %s\n"
                      "  backend_servers:\n"
                      "    - { protocol: imap, host: 127.0.0.1, port: %u }\n"
                      "    - { protocol: imap, host: 127.0.0.1, port: %u }\n",
                      more, live, dead);
  return nauthilus_backend_configure_yaml(yaml, (size_t)size, &why);
}

static void unconfigured(void) {
  nauthilus_backend_servers *servers = NULL;
  uint64_t generation = 7;
  STATUS("no generation", NAUTHILUS_BACKEND_NOT_CONFIGURED, nauthilus_backend_generation(&generation, &why));
  CHECK("a failure leaves it alone", generation == 7);
  STATUS("no servers", NAUTHILUS_BACKEND_NOT_CONFIGURED, nauthilus_backend_servers_acquire(&servers, &why));
  CHECK("a failure leaves it alone", servers == NULL);
  STATUS("nothing to wait for", NAUTHILUS_BACKEND_NOT_CONFIGURED, nauthilus_backend_wait_ready(-1, &why));
  STATUS("nobody to report", NAUTHILUS_BACKEND_NOT_CONFIGURED, nauthilus_backend_report_failure(LIT("127.0.0.1"), 1, &why));

  STATUS("a wrong key", NAUTHILUS_BACKEND_CONFIGURATION, configure(1, 2, "conect_timeout: 1s"));
  CHECK("the reason suggests the right one", strstr(why.data, "connect_timeout") && strstr(why.data, "line"));
  STATUS("a wrong port", NAUTHILUS_BACKEND_CONFIGURATION, configure(1, 70000, ""));
  CHECK("the reason names it", strstr(why.data, "backend_servers[2].port") && strstr(why.data, "70000"));
  STATUS("no text", NAUTHILUS_BACKEND_CONFIGURATION, nauthilus_backend_configure_yaml(LIT("\xff"), &why));
  STATUS("an empty text", NAUTHILUS_BACKEND_CONFIGURATION, nauthilus_backend_configure_yaml(NULL, 0, &why));
  STATUS("no file", NAUTHILUS_BACKEND_CONFIGURATION, nauthilus_backend_configure_file(LIT("/no/such/file.yml"), &why));
  CHECK("the reason names it", strstr(why.data, "/no/such/file.yml") != NULL);
  STATUS("a file that cannot be", NAUTHILUS_BACKEND_CONFIGURATION, nauthilus_backend_configure_file(LIT("a\0b"), &why));
  STATUS("a log that cannot be opened", NAUTHILUS_BACKEND_SYSTEM,
         nauthilus_backend_configure_yaml(LIT("backend_server_monitoring: { log: /no/such/folder/log, backend_servers: [] }"), &why));
  CHECK("none of these took the engine", nauthilus_backend_holds_engine() == 0);
}

static void listed(unsigned live) {
  struct {
    nauthilus_backend_server server;
    uint64_t more;
  } larger;
  nauthilus_backend_servers *servers = NULL;
  nauthilus_backend_server server;
  uint64_t generation = 0, of_list = 1;
  size_t count = 0;

  OK("the list", nauthilus_backend_servers_acquire(&servers, &why));
  OK("its length", nauthilus_backend_servers_count(servers, &count, &why));
  CHECK("has the one that is alive", count == 1);
  OK("its generation", nauthilus_backend_servers_generation(servers, &of_list, &why));
  OK("the generation", nauthilus_backend_generation(&generation, &why));
  CHECK("is the same", generation == of_list);
  memset(&server, 0x55, sizeof server);
  OK("a server", nauthilus_backend_servers_at(servers, 0, &server, sizeof server, &why));
  CHECK("its address", server.ip.size == 9 && strcmp(server.ip.data, "127.0.0.1") == 0 && strcmp(server.host.data, "127.0.0.1") == 0);
  CHECK("its port", server.port == live);
  CHECK("its texts", strcmp(server.protocol.data, "imap") == 0 && strcmp(server.tls_mode.data, "plain") == 0 &&
                         strcmp(server.request_uri.data, "/") == 0);
  CHECK("its flags", server.tls == 0 && server.tls_skip_verify == 0 && server.haproxy_v2 == 0 && server.deep_check == 0);
  memset(&larger, 0x55, sizeof larger);
  OK("to a caller of a later version", nauthilus_backend_servers_at(servers, 0, &larger.server, sizeof larger, &why));
  CHECK("what is not known is 0", larger.more == 0 && larger.server.port == live && larger.server.deep_check == 0);
  memset(&larger, 0x55, sizeof larger);
  OK("of this version", nauthilus_backend_servers_at(servers, 0, &larger.server, sizeof larger.server, &why));
  CHECK("no more is written", larger.more == 0x5555555555555555u && larger.server.port == live);
  STATUS("too small", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_servers_at(servers, 0, &server, offsetof(nauthilus_backend_server, deep_check), &why));
  STATUS("no such server", NAUTHILUS_BACKEND_OUT_OF_RANGE, nauthilus_backend_servers_at(servers, 1, &server, sizeof server, &why));
  OK("a reference more", nauthilus_backend_servers_retain(servers, &why));
  nauthilus_backend_servers_release(servers);
  CHECK("the views live as long as the last one", strcmp(server.ip.data, "127.0.0.1") == 0);
  nauthilus_backend_servers_release(servers);
}

static nauthilus_backend_setting setting(const char *key, const char *value) {
  nauthilus_backend_setting one;
  one.key.data = key;
  one.key.size = strlen(key);
  one.value.data = value;
  one.value.size = strlen(value);
  return one;
}

static void routes(unsigned live, unsigned dead) {
  struct {
    nauthilus_backend_route_detail detail;
    uint64_t more;
  } larger;
  const nauthilus_backend_setting imap[] = {setting("protocol", "imap"), setting("pool", "far"), setting("pool", "near")};
  const nauthilus_backend_setting pop3[] = {setting("protocol", "pop3"), setting("pool", "near")};
  const nauthilus_backend_setting unknown[] = {setting("prot", "imap")};
  const nauthilus_backend_setting wrong[] = {setting("port", "99999")};
  const nauthilus_backend_setting keep[] = {setting("keep", "true")};
  nauthilus_backend_view users[1];
  nauthilus_backend_routed *routed = NULL;
  nauthilus_backend_server server;
  nauthilus_backend_string json = NAUTHILUS_BACKEND_STRING_EMPTY;
  struct pollfd ready;
  size_t touched = 7;
  char yaml[512];

  snprintf(yaml, sizeof yaml,
           "backend_server_monitoring:\n  log: none\n  connect_interval: 50ms\n  backend_servers:\n"
           "    - { protocol: imap, host: 127.0.0.1, port: %u, node: one, pool: near, weight: 7 }\n"
           "    - { protocol: imap, host: 127.0.0.1, port: %u, node: two, pool: far }\n", live, dead);
  OK("nodes and pools", nauthilus_backend_configure_yaml(yaml, strlen(yaml), &why));
  OK("their verdicts", nauthilus_backend_wait_ready(20000, &why));
  OK("a route", nauthilus_backend_route(LIT("alice@example.org"), imap, 3, &routed, &why));
  OK("is done", nauthilus_backend_route_poll(routed, &why));
  OK("its server", nauthilus_backend_route_server(routed, &server, sizeof server, &why));
  CHECK("the one that is alive", server.port == live && strcmp(server.node.data, "one") == 0 && strcmp(server.pool.data, "near") == 0);
  CHECK("its weight and state", server.weight == 7 && strcmp(server.state.data, "auto") == 0);
  memset(&larger, 0x55, sizeof larger);
  OK("its detail", nauthilus_backend_route_detail_of(routed, &larger.detail, sizeof larger, &why));
  CHECK("how and where", strcmp(larger.detail.how.data, "hash") == 0 && strcmp(larger.detail.node.data, "one") == 0 &&
                             strcmp(larger.detail.pool.data, "near") == 0 && larger.detail.degraded == 0);
  CHECK("what is not known is empty", larger.more == 0 && larger.detail.since == 0 && larger.detail.from.size == 0 && larger.detail.by.data[0] == 0);
  STATUS("too small a detail", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_route_detail_of(routed, &larger.detail, 8, &why));
  OK("a descriptor", nauthilus_backend_route_fd(routed, &ready.fd, &why));
  ready.events = POLLIN;
  CHECK("is readable", poll(&ready, 1, 0) == 1 && (ready.revents & POLLIN));
  OK("a reference more", nauthilus_backend_route_retain(routed, &why));
  nauthilus_backend_route_release(routed);
  CHECK("the views live as long as the last one", strcmp(server.node.data, "one") == 0);
  nauthilus_backend_route_release(routed);
  nauthilus_backend_route_release(NULL);

  routed = NULL;
  STATUS("no such protocol", NAUTHILUS_BACKEND_NO_ROUTE, nauthilus_backend_route(LIT("alice"), pop3, 2, &routed, &why));
  CHECK("in these words", strcmp(why.data, "no node") == 0 && routed == NULL);
  STATUS("the pool of nobody", NAUTHILUS_BACKEND_NO_ROUTE, nauthilus_backend_route(LIT("alice"), NULL, 0, &routed, &why));
  STATUS("no key", NAUTHILUS_BACKEND_NO_ROUTE, nauthilus_backend_route(NULL, 0, imap, 3, &routed, &why));
  CHECK("in these words", strcmp(why.data, "no key") == 0);
  STATUS("an unknown field", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_route(LIT("alice"), unknown, 1, &routed, &why));
  CHECK("the reason names it", strstr(why.data, "filter[0]: prot: unknown field; did you mean port?") != NULL);
  STATUS("a wrong number", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_route(LIT("alice"), wrong, 1, &routed, &why));
  STATUS("nowhere to write", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_route(LIT("alice"), imap, 3, NULL, &why));
  OK("a route that is not waited for", nauthilus_backend_route_start(LIT("alice"), pop3, 2, &routed, &why));
  STATUS("says so when it is polled", NAUTHILUS_BACKEND_NO_ROUTE, nauthilus_backend_route_poll(routed, &why));
  STATUS("has no server", NAUTHILUS_BACKEND_NO_ROUTE, nauthilus_backend_route_server(routed, &server, sizeof server, &why));
  STATUS("has no detail", NAUTHILUS_BACKEND_NO_ROUTE, nauthilus_backend_route_detail_of(routed, &larger.detail, sizeof larger.detail, &why));
  nauthilus_backend_route_release(routed);

  OK("an explanation", nauthilus_backend_explain_route(LIT("Alice"), imap, 3, &json, &why));
  CHECK("has key, node and candidates", strstr(json.data, "\"key\":\"alice\"") && strstr(json.data, "\"node\":\"one\"") &&
                                            strstr(json.data, "\"candidates\":[{"));
  nauthilus_backend_string_release(&json);
  STATUS("no key to explain", NAUTHILUS_BACKEND_NO_ROUTE, nauthilus_backend_explain_route(NULL, 0, NULL, 0, &json, &why));
  users[0] = imap[0].key;
  STATUS("no store to touch", NAUTHILUS_BACKEND_NO_STORE, nauthilus_backend_touch_users(users, 1, LIT("one"), &touched, &why));
  CHECK("a failure leaves it alone", touched == 7);
  STATUS("no store to move in", NAUTHILUS_BACKEND_NO_STORE, nauthilus_backend_move_user(LIT("alice"), LIT("one"), keep, 1, &why));
}

static void checks(unsigned live, unsigned dead) {
  static const nauthilus_backend_setting tls[] = {
      {NAUTHILUS_BACKEND_LITERAL("tls"), NAUTHILUS_BACKEND_LITERAL("true")},
      {NAUTHILUS_BACKEND_LITERAL("tls_timeout"), NAUTHILUS_BACKEND_LITERAL("50ms")}};
  static const nauthilus_backend_setting unknown[] = {
      {NAUTHILUS_BACKEND_LITERAL("tsl"), NAUTHILUS_BACKEND_LITERAL("true")}};
  static const nauthilus_backend_setting parameter[] = {
      {NAUTHILUS_BACKEND_LITERAL("port"), NAUTHILUS_BACKEND_LITERAL("1")}};
  static const nauthilus_backend_setting secret[] = {
      {NAUTHILUS_BACKEND_LITERAL("test_username"), NAUTHILUS_BACKEND_LITERAL("jane")},
      {NAUTHILUS_BACKEND_LITERAL("test_password"), NAUTHILUS_BACKEND_LITERAL("hunter2\n")}};
  static const nauthilus_backend_setting nothing[] = {{{NULL, 1}, NAUTHILUS_BACKEND_LITERAL("1")}};
  const nauthilus_backend_setting twice[] = {tls[0], tls[0]};

  OK("a check of a good one", nauthilus_backend_check(LIT("127.0.0.1"), live, NULL, 0, &why));
  STATUS("a check of a bad one", NAUTHILUS_BACKEND_CHECK_FAILED, nauthilus_backend_check(LIT("127.0.0.1"), dead, NULL, 0, &why));
  CHECK("the reason says where it failed", strncmp(why.data, "connect: ", 9) == 0);
  STATUS("settings count", NAUTHILUS_BACKEND_CHECK_FAILED, nauthilus_backend_check(LIT("127.0.0.1"), live, tls, 2, &why));
  CHECK("the reason says where it failed", strncmp(why.data, "tls: ", 5) == 0);
  STATUS("no host", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_check(LIT("a b"), live, NULL, 0, &why));
  STATUS("no text", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_check(LIT("\xff"), live, NULL, 0, &why));
  STATUS("no port", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_check(LIT("127.0.0.1"), 65536, NULL, 0, &why));
  STATUS("an unknown setting", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_check(LIT("127.0.0.1"), live, unknown, 1, &why));
  CHECK("the reason suggests a known one", strstr(why.data, "tsl") && strstr(why.data, "tls"));
  STATUS("a parameter as a setting", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_check(LIT("127.0.0.1"), live, parameter, 1, &why));
  STATUS("a setting twice", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_check(LIT("127.0.0.1"), live, twice, 2, &why));
  STATUS("a setting that points nowhere", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_check(LIT("127.0.0.1"), live, nothing, 1, &why));
  STATUS("a wrong secret", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_check(LIT("127.0.0.1"), live, secret, 2, &why));
  CHECK("the reason does not tell it", strstr(why.data, "hunter2") == NULL && strstr(why.data, "test_password"));
}

/* What a child has after a fork; its status is the number of failures. */
static void forked(unsigned live) {
  int status = -1;
  pid_t child;
  fflush(NULL);
  child = fork();
  if (child == 0) {
    nauthilus_backend_servers *servers = NULL;
    size_t count = 0;
    int failures = 0;
    failures += nauthilus_backend_servers_acquire(&servers, NULL) != NAUTHILUS_BACKEND_OK;
    failures += nauthilus_backend_servers_count(servers, &count, NULL) != NAUTHILUS_BACKEND_OK || count != 1;
    failures += nauthilus_backend_check(LIT("127.0.0.1"), live, NULL, 0, NULL) != NAUTHILUS_BACKEND_OK;
    failures += nauthilus_backend_holds_engine() != 1;
    nauthilus_backend_servers_release(servers);
    _exit(failures);
  }
  CHECK("a child has the list, and checks", waitpid(child, &status, 0) == child && status == 0);
}

/* The first call that needs servers. It reads the file that the environment names. */
static void *first_call(void *nothing) {
  nauthilus_backend_servers *servers = NULL;
  nauthilus_backend_servers_acquire(&servers, NULL);
  nauthilus_backend_servers_release(servers);
  return nothing;
}

/* The file is read for a while, so that the explicit configuration comes in between; where it does
 * not, it is the last one all the same. */
static void raced(unsigned live, unsigned dead) {
  pthread_t thread;
  nauthilus_backend_servers *servers = NULL;
  size_t count = 0;
  CHECK("a thread makes the first call", pthread_create(&thread, NULL, first_call, NULL) == 0);
  usleep(2000);
  OK("another one configures", configure(live, dead, ""));
  pthread_join(thread, NULL);
  OK("the list", nauthilus_backend_servers_acquire(&servers, &why));
  OK("its length", nauthilus_backend_servers_count(servers, &count, &why));
  CHECK("is that of the explicit configuration", count == 1 || count == 2);
  nauthilus_backend_servers_release(servers);
}

int main(int argc, char **argv) {
  unsigned live = open_port(1), dead = open_port(0), number;
  char path[] = "/tmp/nauthilus_backend_XXXXXX";
  nauthilus_backend_servers *servers = NULL;
  FILE *file;

  if (argc > 1 && strcmp(argv[1], "environment") == 0) {
    STATUS("a bad file in the environment", NAUTHILUS_BACKEND_CONFIGURATION, nauthilus_backend_servers_acquire(&servers, &why));
    CHECK("the reason names variable and file", strstr(why.data, "NAUTHILUS_BACKEND_CONFIG") && strstr(why.data, getenv("NAUTHILUS_BACKEND_CONFIG")));
    STATUS("it is one for start, too", NAUTHILUS_BACKEND_CONFIGURATION, nauthilus_backend_start(&why));
    return tap_finish();
  }
  if (argc > 1 && strcmp(argv[1], "system") == 0) {
    STATUS("a file in the environment whose log cannot be opened", NAUTHILUS_BACKEND_SYSTEM, nauthilus_backend_servers_acquire(&servers, &why));
    printf("# %s\n", why.data);
    CHECK("the reason names the variable", strstr(why.data, "NAUTHILUS_BACKEND_CONFIG: ") != NULL);
    CHECK("and the log", strstr(why.data, "log: cannot append to /no/such/log: ") != NULL);
    CHECK("it leaves the engine to others", nauthilus_backend_holds_engine() == 0);
    return tap_finish();
  }
  if (argc > 1 && strcmp(argv[1], "raced") == 0) {
    raced(live, dead);
    return tap_finish();
  }
  if (argc > 1 && strcmp(argv[1], "refused") == 0) {
    struct rlimit limit;
    rlim_t before;
    unsigned long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    CHECK("the size of this process", statm && fscanf(statm, "%lu", &pages) == 1);
    if (statm) fclose(statm);
    getrlimit(RLIMIT_AS, &limit);
    before = limit.rlim_cur;
    /* Less than the stack of the engine's thread. */
    limit.rlim_cur = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + 600 * 1024;
    setrlimit(RLIMIT_AS, &limit);
    STATUS("a start without memory", NAUTHILUS_BACKEND_SYSTEM, nauthilus_backend_start(&why));
    limit.rlim_cur = before;
    setrlimit(RLIMIT_AS, &limit);
    CHECK("a start that fails gives the engine of the process back", nauthilus_backend_holds_engine() == 0);
    OK("a start with memory", nauthilus_backend_start(&why));
    CHECK("takes it", nauthilus_backend_holds_engine() == 1);
    return tap_finish();
  }

  unconfigured();
  OK("a check needs no configuration", nauthilus_backend_check(LIT("127.0.0.1"), live, NULL, 0, &why));
  OK("a configuration", configure(live, dead, ""));
  CHECK("takes the engine", nauthilus_backend_holds_engine() == 1);
  OK("the first verdicts", nauthilus_backend_wait_ready(20000, &why));
  listed(live);
  checks(live, dead);
  if (argc == 1)
    forked(live);
  routes(live, dead);
  OK("the configuration before", configure(live, dead, ""));
  OK("its verdicts", nauthilus_backend_wait_ready(20000, &why));
  OK("a failure that the host met", nauthilus_backend_report_failure(LIT("127.0.0.1"), live, &why));
  STATUS("at no target", NAUTHILUS_BACKEND_NOT_FOUND, nauthilus_backend_report_failure(LIT("127.0.0.2"), live, &why));
  STATUS("at no text", NAUTHILUS_BACKEND_NOT_FOUND, nauthilus_backend_report_failure(LIT("\xff"), live, &why));
  STATUS("at no port", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_report_failure(LIT("127.0.0.1"), 0, &why));

  OK("stop", nauthilus_backend_stop(&why));
  OK("stop again", nauthilus_backend_stop(&why));
  OK("the last list stands", nauthilus_backend_servers_acquire(&servers, &why));
  nauthilus_backend_servers_release(servers);
  OK("start", nauthilus_backend_start(&why));
  OK("start again", nauthilus_backend_start(&why));
  STATUS("a bad configuration", NAUTHILUS_BACKEND_CONFIGURATION, configure(live, 0, ""));
  CHECK("leaves the old one", nauthilus_backend_servers_acquire(&servers, NULL) == NAUTHILUS_BACKEND_OK);
  nauthilus_backend_servers_release(servers);

  /* TLS with a server that says nothing: no verdict within a minute. */
  file = fdopen(mkstemp(path), "w");
  number = live;
  fprintf(file, "backend_server_monitoring:\n  log: none\n  tls_timeout: 1m\n  backend_servers:\n"
                "    - { protocol: imap, host: 127.0.0.1, port: %u, tls: true }\n", number);
  fclose(file);
  OK("a file", nauthilus_backend_configure_file(path, strlen(path), &why));
  STATUS("waiting has an end", NAUTHILUS_BACKEND_TIMEOUT, nauthilus_backend_wait_ready(20, &why));
  unlink(path);

  {
    nauthilus_backend_result *result = NULL;
    nauthilus_backend_context *context = NULL;
    struct lua_State *none = NULL;
    STATUS("no Lua here: result_from_lua", NAUTHILUS_BACKEND_NO_LUA, nauthilus_backend_result_from_lua(none, 1, &result, &why));
    STATUS("no Lua here: result_push_lua", NAUTHILUS_BACKEND_NO_LUA, nauthilus_backend_result_push_lua(none, result, &why));
    STATUS("no Lua here: context_bind_lua", NAUTHILUS_BACKEND_NO_LUA, nauthilus_backend_context_bind_lua(none, context, &why));
    STATUS("no Lua here: context_from_lua", NAUTHILUS_BACKEND_NO_LUA, nauthilus_backend_context_from_lua(none, 1, &context, &why));
  }
  return tap_finish();
}
