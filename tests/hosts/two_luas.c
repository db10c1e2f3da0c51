/* A host of two plugins, each with a Lua of its own and the module for it, neither of which sees
 * the other: one has the engine, and the other says so.
 *
 *     two_luas first.so second.so port
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef const char *run_function(const char *);

static run_function *plugins[2];
static const char *paths[2];
static char chunk[1024];
static int failures;

static void check(const char *name, int good, const char *detail) {
  printf("%s - two Luas: %s\n", good ? "ok" : "not ok", name);
  if (!good) printf("# %s\n", detail);
  failures += !good;
  fflush(stdout);
}

static int is(const char *answer, const char *expected) { return strcmp(answer, expected) == 0; }

static int load(int index) {
  void *plugin = dlopen(paths[index], RTLD_NOW | RTLD_LOCAL);
  if (!plugin) {
    printf("# %s\n", dlerror());
    return 0;
  }
  *(void **)&plugins[index] = dlsym(plugin, "plugin_run");
  return plugins[index] != NULL;
}

static void *configure(void *index) { return (void *)(size_t)is(plugins[(size_t)index](chunk), "configured"); }

/* Both at the same moment, in a child: how many got the engine. */
static int both_configure(void) {
  int status = 0;
  pid_t child = fork();
  if (child == 0) {
    pthread_t threads[2];
    int count = 0;
    for (size_t i = 0; i < 2; i++) pthread_create(&threads[i], NULL, configure, (void *)i);
    for (size_t i = 0; i < 2; i++) {
      void *done;
      pthread_join(threads[i], &done);
      count += done != NULL;
    }
    _exit(count);
  }
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 99;
}

int main(int argc, char **argv) {
  const char *said;
  int most = 0;
  if (argc != 4) return 2;
  for (int i = 0; i < 2; i++) {
    paths[i] = argv[i + 1];
    check("a plugin is loaded", load(i), paths[i]);
    if (!plugins[i]) return 1;
    said = plugins[i]("nb = require('nauthilus_backend') return _VERSION");
    printf("# %s\n", said);
  }
  check("they are two", !is(plugins[0]("return _VERSION"), said), said);
  snprintf(chunk, sizeof chunk,
           "nb.configure({ log = 'none', connect_interval = '50ms',"
           " backend_servers = { { protocol = 'imap', host = '127.0.0.1', port = %s } } }) return 'configured'", argv[3]);

  for (int i = 0; i < 100; i++) {
    int count = both_configure();
    if (count > most) most = count;
  }
  check("where both try at the same moment, at most one gets the engine", most <= 1, "both did, or a child ended abnormally");

  said = plugins[0](chunk);
  check("the first is configured", is(said, "configured"), said);
  said = plugins[0]("assert(nb.wait_ready(5)) return tostring(nb.status().probing)");
  check("it probes", is(said, "true"), said);
  said = plugins[1](chunk);
  check("the second is refused, with the file whose functions are to be used",
        strstr(said, "/nauthilus_backend.so already runs the engine of this process") != NULL, said);
  said = plugins[1]("return select(2, nb.start())");
  check("nor does it start", strstr(said, "already runs the engine") != NULL, said);
  said = plugins[1]("return #nb.get_backend_servers() .. tostring(nb.status().running or nb.status().configured)");
  check("it lists nothing and probes nothing", is(said, "0false"), said);
  said = plugins[1]("local b = nauthilus_backend_result.new() b:attributes({ a = 1 }) nb.apply_backend_result(b)"
                    " return nb.context():headers()['X-Nauthilus-A']");
  check("what needs no engine works in it", is(said, "1"), said);
  snprintf(chunk, sizeof chunk, "return tostring(nb.check_backend_connection('127.0.0.1', %s, false, false))", argv[3]);
  for (int i = 0; i < 2; i++) {
    said = plugins[i](chunk);
    check("a check is made in either", is(said, "nil"), said);
  }
  for (int i = 0; i < 20; i++) {
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
      alarm(10);
      _exit(!(is(plugins[0](chunk), "nil") && is(plugins[1](chunk), "nil") &&
              is(plugins[0]("return tostring(#nb.get_backend_servers())"), "1")));
    }
    waitpid(child, &status, 0);
    if (status != 0) {
      check("both go on in a child", 0, "a child failed or hung");
      return 1;
    }
  }
  check("both go on in a child", 1, "");
  said = plugins[0]("return tostring(nb.status().probing and #nb.get_backend_servers())");
  check("the first goes on", is(said, "1"), said);
  return failures > 0;
}
