/* Bindings in a real Redis from C, in the library without Lua: routes, moves, touches, a Redis that
 * is stopped, children of a fork, starts and stops. Compiles as C11 and as C++17.
 *
 *     store PORT PID     of a redis-server on 127.0.0.1
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tap.h"

static unsigned redis_port, ports[2];
static pid_t redis_pid;

static unsigned listening_port(void) {
  struct sockaddr_in address;
  socklen_t size = sizeof address;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  memset(&address, 0, sizeof address);
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(fd, (struct sockaddr *)&address, size) != 0 || listen(fd, 4096) != 0 ||
      getsockname(fd, (struct sockaddr *)&address, &size) != 0)
    exit(2);
  return ntohs(address.sin_port);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void pause_ms(long ms) {
  struct timespec time;
  time.tv_sec = ms / 1000;
  time.tv_nsec = ms % 1000 * 1000000;
  nanosleep(&time, NULL);
}

static int count_entries(const char *path) {
  DIR *folder = opendir(path);
  int count = 0;
  while (folder != NULL && readdir(folder) != NULL)
    count++;
  if (folder != NULL)
    closedir(folder);
  return count;
}

/* Two nodes, one and two, whose users are bound under `prefix`. What is remembered of users does not depend
 * on it, so each part of the test has users of its own. */
static nauthilus_backend_status configure(const char *prefix, const char *timeout) {
  char yaml[1024];
  int size = snprintf(yaml, sizeof yaml,
                      "backend_server_monitoring:\n"
                      "  log: none\n"
                      "  cluster: { redis: \"redis://127.0.0.1:%u\", prefix: %s, timeout: %s, min_stay: 0s }\n"
                      "  backend_servers:\n"
                      "    - { protocol: imap, host: 127.0.0.1, port: %u, node: one }\n"
                      "    - { protocol: imap, host: 127.0.0.1, port: %u, node: two }\n",
                      redis_port, prefix, timeout, ports[0], ports[1]);
  return nauthilus_backend_configure_yaml(yaml, (size_t)size, &why);
}

/* Routes a user: 1 or 2, the node; 0: it failed. Copies how. */
static int node_of(const char *user, char *how, size_t how_size) {
  nauthilus_backend_routed *routed = NULL;
  nauthilus_backend_route_detail detail;
  int node = 0;
  if (nauthilus_backend_route(user, strlen(user), NULL, 0, &routed, NULL) != NAUTHILUS_BACKEND_OK)
    return 0;
  if (nauthilus_backend_route_detail_of(routed, &detail, sizeof detail, NULL) == NAUTHILUS_BACKEND_OK) {
    node = strcmp(detail.node.data, "one") == 0 ? 1 : 2;
    if (how != NULL)
      snprintf(how, how_size, "%s", detail.how.data);
  }
  nauthilus_backend_route_release(routed);
  return node;
}

static nauthilus_backend_setting setting(const char *key, const char *value) {
  nauthilus_backend_setting one;
  one.key.data = key;
  one.key.size = strlen(key);
  one.value.data = value;
  one.value.size = strlen(value);
  return one;
}

/* Children of a process that has only been configured, as nginx's workers are. */
static void configured_before_forks(void) {
  pid_t children[4];
  int nodes[8], seen[4][8], ends[2], index, user, well = 1;
  char name[32];
  OK("a configuration with a store", configure("forks", "5s"));
  if (pipe(ends) != 0)
    exit(2);
  fflush(NULL);
  for (index = 0; index < 4; index++) {
    children[index] = fork();
    if (children[index] == 0) {
      int row[9];
      row[0] = index;
      for (user = 0; user < 8; user++) {
        snprintf(name, sizeof name, "user%d@example.org", user);
        row[user + 1] = node_of(name, NULL, 0);
      }
      _exit(write(ends[1], row, sizeof row) != (ssize_t)sizeof row);
    }
  }
  for (index = 0; index < 4; index++) {
    int row[9], status = -1;
    well = well && read(ends[0], row, sizeof row) == (ssize_t)sizeof row;
    if (well)
      memcpy(seen[row[0]], row + 1, sizeof nodes);
    well = waitpid(children[index], &status, 0) == children[index] && status == 0 && well;
  }
  close(ends[0]);
  close(ends[1]);
  CHECK("each of four children routes", well);
  for (user = 0; user < 8; user++) {
    snprintf(name, sizeof name, "user%d@example.org", user);
    nodes[user] = node_of(name, NULL, 0);
    for (index = 0; index < 4; index++)
      well = well && seen[index][user] == nodes[user] && nodes[user] != 0;
  }
  CHECK("all children and their parent agree on each user", well);
}

/* A child of a process whose connection is open: it must not use that one. */
static void forked_later(void) {
  char how[16] = "", child_how[16] = "";
  int node = node_of("parent@example.org", NULL, 0), status = -1;
  pid_t child;
  fflush(NULL);
  child = fork();
  if (child == 0) {
    int index, failures = 0;
    for (index = 0; index < 50; index++)
      failures += node_of("parent@example.org", child_how, sizeof child_how) != node;
    failures += strcmp(child_how, "bound") != 0;
    failures += nauthilus_backend_move_user(LIT("child@example.org"), LIT("two"), NULL, 0, NULL) != NAUTHILUS_BACKEND_OK;
    _exit(failures);
  }
  while (waitpid(child, &status, WNOHANG) == 0)
    node = node_of("parent@example.org", how, sizeof how) == node ? node : -1;
  CHECK("a child routes while its parent does", status == 0);
  CHECK("and the parent while its child does", node > 0 && strcmp(how, "bound") == 0);
  CHECK("what the child did is in the store", node_of("child@example.org", how, sizeof how) == 2 && strcmp(how, "bound") == 0);
}

static void bindings(void) {
  const nauthilus_backend_setting unknown[] = {setting("keeps", "true")};
  const nauthilus_backend_setting no_flag[] = {setting("keep", "yes")};
  const nauthilus_backend_setting control[] = {setting("reason", "two\nlines")};
  const nauthilus_backend_setting full[] = {setting("reason", "full disk"), setting("by", "ann")};
  const nauthilus_backend_setting keep[] = {setting("keep", "true")};
  static nauthilus_backend_view users[1200];
  static char names[1200][32];
  nauthilus_backend_string json = NAUTHILUS_BACKEND_STRING_EMPTY;
  nauthilus_backend_routed *routed = NULL;
  nauthilus_backend_route_detail detail;
  size_t touched = 7, expected = 0;
  char how[16] = "";
  int node, index;

  OK("another store", configure("calls", "5s"));
  node = node_of("alice@example.org", how, sizeof how);
  CHECK("the first login binds", node > 0 && strcmp(how, "new") == 0);
  OK("a move", nauthilus_backend_move_user(LIT("Alice@Example.org"), node == 1 ? "two" : "one", 3, full, 2, &why));
  OK("a route", nauthilus_backend_route(LIT("alice@example.org"), NULL, 0, &routed, &why));
  OK("its detail", nauthilus_backend_route_detail_of(routed, &detail, sizeof detail, &why));
  CHECK("the user is there", strcmp(detail.how.data, "bound") == 0 && strcmp(detail.node.data, node == 1 ? "two" : "one") == 0);
  CHECK("moved from where, why and by whom", strcmp(detail.from.data, node == 1 ? "one" : "two") == 0 &&
                                                 strcmp(detail.reason.data, "full disk") == 0 && strcmp(detail.by.data, "ann") == 0);
  CHECK("since when and until when", detail.since > 0 && detail.until > detail.since);
  nauthilus_backend_route_release(routed);
  OK("a pin", nauthilus_backend_move_user(LIT("alice@example.org"), LIT("one"), keep, 1, &why));
  CHECK("pins the user", node_of("alice@example.org", how, sizeof how) == 1 && strcmp(how, "pinned") == 0);
  OK("an explanation", nauthilus_backend_explain_route(LIT("alice@example.org"), NULL, 0, &json, &why));
  CHECK("is that of the store", strstr(json.data, "\"how\":\"pinned\"") && strstr(json.data, "\"node\":\"one\"") &&
                                    strstr(json.data, "\"until\":null") && strstr(json.data, "\"candidates\":[{"));
  nauthilus_backend_string_release(&json);

  for (index = 0; index < 1200; index++) {
    snprintf(names[index], sizeof names[index], "user%d@example.org", index);
    users[index].data = names[index];
    users[index].size = strlen(names[index]);
    if (index < 20)
      expected += node_of(names[index], NULL, 0) == 2;
  }
  OK("live sessions of 1200 users", nauthilus_backend_touch_users(users, 1200, LIT("two"), &touched, &why));
  CHECK("of whom those count that are bound there", touched == expected);
  OK("of nobody", nauthilus_backend_touch_users(NULL, 0, LIT("two"), &touched, &why));
  CHECK("none", touched == 0);

  touched = 7;
  STATUS("an unknown node to touch", NAUTHILUS_BACKEND_NOT_FOUND, nauthilus_backend_touch_users(users, 1, LIT("three"), &touched, &why));
  CHECK("the reason names it, and nothing is written", strcmp(why.data, "unknown node three") == 0 && touched == 7);
  STATUS("an unknown node to move to", NAUTHILUS_BACKEND_NOT_FOUND, nauthilus_backend_move_user(LIT("alice"), LIT("three"), NULL, 0, &why));
  STATUS("no key", NAUTHILUS_BACKEND_NO_ROUTE, nauthilus_backend_move_user(NULL, 0, LIT("one"), NULL, 0, &why));
  STATUS("an unknown option", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_move_user(LIT("alice"), LIT("one"), unknown, 1, &why));
  CHECK("the reason names it", strcmp(why.data, "options[0]: keep, reason or by expected, got \"keeps\"") == 0);
  STATUS("a wrong flag", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_move_user(LIT("alice"), LIT("one"), no_flag, 1, &why));
  STATUS("two lines", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_move_user(LIT("alice"), LIT("one"), control, 1, &why));
  STATUS("no text", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_move_user(LIT("alice"), LIT("\xff"), NULL, 0, &why));
  STATUS("nowhere to write", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_touch_users(users, 1, LIT("one"), NULL, &why));
}

static void stopped_redis(void) {
  nauthilus_backend_string json = NAUTHILUS_BACKEND_STRING_EMPTY;
  nauthilus_backend_view user = NAUTHILUS_BACKEND_LITERAL("carol@example.org");
  size_t touched = 7;
  double began, shortest = 1e9, took;
  int attempt;
  char how[16] = "";

  OK("a short timeout", configure("short", "200ms"));
  for (attempt = 0; attempt < 1000 && strcmp(how, "bound") != 0; attempt++)
    node_of("carol@example.org", how, sizeof how);
  CHECK("the user is bound", strcmp(how, "bound") == 0);
  kill(redis_pid, SIGSTOP);
  began = now();
  STATUS("a move while Redis is stopped", NAUTHILUS_BACKEND_STORE_UNAVAILABLE, nauthilus_backend_move_user(LIT("carol@example.org"), LIT("one"), NULL, 0, &why));
  CHECK("in these words", strcmp(why.data, "store unavailable") == 0);
  took = now() - began;
  CHECK("it waited for the timeout, no longer", took < 10);
  /* A busy machine is late once, and not ten times. */
  for (attempt = 0; attempt < 10; attempt++) {
    began = now();
    nauthilus_backend_touch_users(&user, 1, LIT("one"), &touched, NULL);
    took = now() - began;
    shortest = took < shortest ? took : shortest;
  }
  CHECK("the next ones do not wait", shortest < 0.1 && touched == 7);
  OK("an explanation", nauthilus_backend_explain_route(LIT("carol@example.org"), NULL, 0, &json, &why));
  CHECK("says why the store does not answer, and what a login gets", strstr(json.data, "\"problem\":\"") && strstr(json.data, "\"how\":\"remembered\""));
  nauthilus_backend_string_release(&json);
  CHECK("a route is remembered", node_of("carol@example.org", how, sizeof how) > 0 && strcmp(how, "remembered") == 0);
  kill(redis_pid, SIGCONT);
  for (attempt = 0; attempt < 6000 && strcmp(how, "bound") != 0; attempt++) {
    node_of("carol@example.org", how, sizeof how);
    pause_ms(5);
  }
  CHECK("the binding counts again", strcmp(how, "bound") == 0);
}

static void stops_and_starts(void) {
  int round, descriptors = 0, threads = 0, attempt, well = 1;
  char how[16] = "";
  OK("a longer timeout", configure("stops", "5s"));
  for (round = 0; round < 20; round++) {
    nauthilus_backend_start(NULL);
    well = node_of("dave@example.org", how, sizeof how) > 0 && strcmp(how, round == 0 ? "new" : "bound") == 0 && well;
    nauthilus_backend_stop(NULL);
    /* The thread ends by itself. */
    for (attempt = 0; attempt < 6000 && count_entries("/proc/self/task") != 3; attempt++)
      pause_ms(5);
    threads = count_entries("/proc/self/task");
    well = well && threads == 3;
    if (round == 0)
      descriptors = count_entries("/proc/self/fd");
    else
      well = well && count_entries("/proc/self/fd") <= descriptors;
  }
  /* The folder has two more entries: itself and the one above. */
  CHECK("after 20 starts and stops no thread and no descriptor is left", well);
  if (!well)
    printf("# %d threads, %d descriptors, at first %d, %s\n", threads - 2, count_entries("/proc/self/fd"), descriptors, how);
}

int main(int argc, char **argv) {
  if (argc != 3)
    return 2;
  redis_port = (unsigned)atoi(argv[1]);
  redis_pid = (pid_t)atoi(argv[2]);
  ports[0] = listening_port();
  ports[1] = listening_port();
  configured_before_forks();
  forked_later();
  bindings();
  stopped_redis();
  stops_and_starts();
  return tap_finish();
}
