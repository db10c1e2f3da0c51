/* A host that embeds Lua: runs a script, and lets it do to this process what hosts do: fork,
 * open and close many Lua states, use them from many threads, run out of descriptors, exit.
 *
 *     host script.lua [argument ...]
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void nap(void) {
  struct timespec t = {0, 2000000};
  nanosleep(&t, NULL);
}

static int host_now(lua_State *L) {
  lua_pushnumber(L, now());
  return 1;
}

/* Sleeps between two checks of something that is waited for. */
static int host_nap(lua_State *L) {
  (void)L;
  nap();
  return 0;
}

static int host_fork(lua_State *L) {
  fflush(NULL);
  lua_pushinteger(L, (lua_Integer)fork());
  return 1;
}

/* wait(pid, seconds) -> "exit", status | "signal", number; kills what does not end in time
 * and returns "hang", 0. */
static int host_wait(lua_State *L) {
  pid_t pid = (pid_t)luaL_checkinteger(L, 1);
  double end = now() + luaL_checknumber(L, 2);
  int status = 0;
  for (;;) {
    pid_t got = waitpid(pid, &status, WNOHANG);
    if (got == pid) break;
    if (got < 0) return luaL_error(L, "waitpid: %s", strerror(errno));
    if (now() > end) {
      kill(pid, SIGKILL);
      waitpid(pid, &status, 0);
      lua_pushliteral(L, "hang");
      lua_pushinteger(L, 0);
      return 2;
    }
    nap();
  }
  if (WIFSIGNALED(status)) {
    lua_pushliteral(L, "signal");
    lua_pushinteger(L, WTERMSIG(status));
  } else {
    lua_pushliteral(L, "exit");
    lua_pushinteger(L, WEXITSTATUS(status));
  }
  return 2;
}

/* wait_a_moment(pid) -> as wait, or nothing where it has not ended. */
static int host_wait_a_moment(lua_State *L) {
  int status = 0;
  nap();
  if (waitpid((pid_t)luaL_checkinteger(L, 1), &status, WNOHANG) <= 0) return 0;
  lua_pushstring(L, WIFSIGNALED(status) ? "signal" : "exit");
  lua_pushinteger(L, WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
  return 2;
}

static int host_kill(lua_State *L) {
  kill((pid_t)luaL_checkinteger(L, 1), (int)luaL_checkinteger(L, 2));
  return 0;
}

/* alarm(seconds): this process is killed then. */
static int host_alarm(lua_State *L) {
  alarm((unsigned)luaL_checkinteger(L, 1));
  return 0;
}

/* Ends this process at once: no buffers, no destructors. */
static int host_exit_now(lua_State *L) { _exit((int)luaL_checkinteger(L, 1)); }

/* count(folder) -> entries: of /proc/self/fd and /proc/self/task. */
static int host_count(lua_State *L) {
  DIR *folder = opendir(luaL_checkstring(L, 1));
  lua_Integer count = 0;
  struct dirent *entry;
  if (!folder) return luaL_error(L, "opendir: %s", strerror(errno));
  while ((entry = readdir(folder)))
    if (entry->d_name[0] != '.') count++;
  closedir(folder);
  lua_pushinteger(L, count);
  return 1;
}

/* listen(backlog [, address, port]) -> port, descriptor. Nothing accepts: the kernel completes a
 * connection by itself while the backlog has room. */
static int host_listen(lua_State *L) {
  struct sockaddr_in address = {.sin_family = AF_INET};
  socklen_t size = sizeof address;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  address.sin_addr.s_addr = inet_addr(luaL_optstring(L, 2, "127.0.0.1"));
  address.sin_port = htons((unsigned short)luaL_optinteger(L, 3, 0));
  /* A port that was listened at before may have connections that only just ended. */
  if (address.sin_port) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) < 0 ||
      listen(fd, (int)luaL_checkinteger(L, 1)) < 0 ||
      getsockname(fd, (struct sockaddr *)&address, &size) < 0)
    return luaL_error(L, "listen: %s", strerror(errno));
  lua_pushinteger(L, ntohs(address.sin_port));
  lua_pushinteger(L, fd);
  return 2;
}

/* fill(port): connects until nothing answers any more, and keeps the connections. */
static int host_fill(lua_State *L) {
  struct sockaddr_in address = {.sin_family = AF_INET};
  struct timeval patience = {0, 300000};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons((unsigned short)luaL_checkinteger(L, 1));
  for (;;) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return luaL_error(L, "socket: %s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) return 0;
  }
}

static int host_close(lua_State *L) {
  close((int)luaL_checkinteger(L, 1));
  return 0;
}

/* accept(descriptor) -> how many connections have come since the last call. */
static int host_accept(lua_State *L) {
  int listener = (int)luaL_checkinteger(L, 1), fd;
  lua_Integer count = 0;
  while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
    close(fd);
    count++;
  }
  lua_pushinteger(L, count);
  return 1;
}

/* tally(count) -> all that was counted in this process, by any state. */
static int host_tally(lua_State *L) {
  static lua_Integer counted;
  counted += luaL_checkinteger(L, 1);
  lua_pushinteger(L, counted);
  return 1;
}

/* close_all([number]): every descriptor but the standard ones, as a daemon does that starts; with a pause of 1 s
   after that number, as if the system had stopped the process there. */
static int host_close_all(lua_State *L) {
  lua_Integer pause_after = luaL_optinteger(L, 1, -1);
  for (int fd = 3; fd < 1024; fd++) {
    close(fd);
    if (fd == pause_after) sleep(1);
  }
  return 0;
}

/* limit_files(count): no more descriptors than that in this process. */
static int host_limit_files(lua_State *L) {
  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = (rlim_t)luaL_checkinteger(L, 1);
  setrlimit(RLIMIT_NOFILE, &limit);
  return 0;
}

/* change_root(folder): as daemons do when they have read their configuration. */
static int host_change_root(lua_State *L) {
  if (chroot(luaL_checkstring(L, 1)) < 0 || chdir("/") < 0)
    return luaL_error(L, "chroot: %s", strerror(errno));
  return 0;
}

/* user() -> number of the user that this process runs as. */
static int host_user(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)geteuid());
  return 1;
}

/* limit_file_size(bytes): a file may grow no larger in this process. */
static int host_limit_file_size(lua_State *L) {
  struct rlimit limit;
  getrlimit(RLIMIT_FSIZE, &limit);
  limit.rlim_cur = (rlim_t)luaL_checkinteger(L, 1);
  setrlimit(RLIMIT_FSIZE, &limit);
  return 0;
}

/* limit_memory(kilobytes more): the process gets no more address space than that. */
static int host_limit_memory(lua_State *L) {
  struct rlimit limit;
  unsigned long pages = 0;
  FILE *statm = fopen("/proc/self/statm", "r");
  if (!statm || fscanf(statm, "%lu", &pages) != 1) return luaL_error(L, "no /proc/self/statm");
  fclose(statm);
  getrlimit(RLIMIT_AS, &limit);
  limit.rlim_cur = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + (rlim_t)luaL_checkinteger(L, 1) * 1024;
  setrlimit(RLIMIT_AS, &limit);
  return 0;
}

/* unlimit_memory() */
static int host_unlimit_memory(lua_State *L) {
  struct rlimit limit;
  (void)L;
  getrlimit(RLIMIT_AS, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_AS, &limit);
  return 0;
}

/* refuse_openssl(from, to): see failing_openssl.c, which has to be preloaded. */
static int host_refuse_openssl(lua_State *L) {
  long (*refuse)(long, long);
  *(void **)&refuse = dlsym(RTLD_DEFAULT, "refuse_openssl");
  if (!refuse) return luaL_error(L, "failing_openssl.so is not preloaded");
  lua_pushinteger(L, (lua_Integer)refuse((long)luaL_checkinteger(L, 1), (long)luaL_checkinteger(L, 2)));
  return 1;
}

/* break_stderr(): standard error becomes a pipe that nobody reads. */
static int host_break_stderr(lua_State *L) {
  int ends[2];
  if (pipe(ends) < 0 || dup2(ends[1], 2) < 0) return luaL_error(L, "pipe: %s", strerror(errno));
  close(ends[0]);
  close(ends[1]);
  return 0;
}

/* holds_engine(file of the module) -> whether that copy claims the engine of the process. */
static int host_holds_engine(lua_State *L) {
  void *handle = dlopen(luaL_checkstring(L, 1), RTLD_LAZY | RTLD_NOLOAD);
  int (*ask)(void);
  if (!handle) return luaL_error(L, "dlopen: %s", dlerror());
  *(void **)&ask = dlsym(handle, "nauthilus_backend_holds_engine");
  lua_pushboolean(L, ask && ask());
  dlclose(handle);
  return 1;
}

/* readable(descriptor) -> whether it is, or becomes so within a moment. */
static int host_readable(lua_State *L) {
  struct pollfd wanted = {(int)luaL_checkinteger(L, 1), POLLIN, 0};
  lua_pushboolean(L, poll(&wanted, 1, 200) == 1 && (wanted.revents & POLLIN));
  return 1;
}

/* What a state allocates with: armed, it refuses the allocation that brings the countdown to 0, and
 * where it is `sticky` all that follow. Making a block smaller never fails: Lua relies on that. */
struct memory {
  long countdown;
  int armed, sticky;
};

static void *allocate(void *data, void *block, size_t had, size_t wanted) {
  struct memory *memory = data;
  if (wanted == 0) {
    free(block);
    return NULL;
  }
  if (memory->armed && (!block || wanted > had)) {
    if (memory->countdown > 0) memory->countdown--;
    if (memory->countdown == 0) {
      if (!memory->sticky) memory->armed = 0;
      return NULL;
    }
  }
  return realloc(block, wanted);
}

/* Where LuaJIT takes no allocator of others, it has its own. */
static lua_State *new_state(struct memory *memory) {
#if LUA_VERSION_NUM >= 505
  lua_State *L = lua_newstate(allocate, memory, luaL_makeseed(NULL));
#else
  lua_State *L = lua_newstate(allocate, memory);
#endif
  return L ? L : luaL_newstate();
}

/* failing(number, sticky, f, ...) -> how many allocations were left until one was refused (0: one
 * was), whether f worked, and what it raised. In a state without such an allocator none is refused. */
static int host_failing(lua_State *L) {
  void *data;
  struct memory *memory;
  int is_ours = lua_getallocf(L, &data) == allocate, status;
  long left = 0;
  memory = is_ours ? data : NULL;
  if (memory) {
    memory->countdown = (long)luaL_checkinteger(L, 1);
    memory->sticky = lua_toboolean(L, 2);
    memory->armed = 1;
  }
  status = lua_pcall(L, lua_gettop(L) - 3, 0, 0);
  if (memory) {
    left = memory->countdown;
    memory->armed = 0;
  }
  lua_settop(L, status == 0 ? 2 : 3);
  lua_pushinteger(L, memory ? (lua_Integer)left : 1);
  lua_replace(L, 1);
  lua_pushboolean(L, status == 0);
  lua_replace(L, 2);
  return status == 0 ? 2 : 3;
}

static void open_host(lua_State *L);

/* One Lua state from its opening to its end, running `chunk` with one argument. */
static int one_state(const char *chunk, const char *argument, char *error, size_t size) {
  struct memory memory = {0};
  lua_State *L = new_state(&memory);
  int failed;
  if (!L) return 1;
  luaL_openlibs(L);
  open_host(L);
  lua_pushstring(L, argument);
  lua_setglobal(L, "argument");
  failed = luaL_loadstring(L, chunk) || lua_pcall(L, 0, 0, 0);
  if (failed) {
    const char *text = lua_tostring(L, -1);
    snprintf(error, size, "%s", text ? text : "an error that is no string");
  }
  lua_close(L);
  return failed;
}

/* states(count, chunk, argument): one after the other. */
static int host_states(lua_State *L) {
  lua_Integer count = luaL_checkinteger(L, 1);
  char error[512] = "";
  while (count-- > 0)
    if (one_state(luaL_checkstring(L, 2), luaL_optstring(L, 3, ""), error, sizeof error))
      return luaL_error(L, "%s", error);
  return 0;
}

#define KEPT_MAX 64
static lua_State *kept[KEPT_MAX];
static int kept_count;

/* keep(count): opens so many states that stay, also in what this process forks. */
static int host_keep(lua_State *L) {
  lua_Integer count = luaL_checkinteger(L, 1);
  luaL_argcheck(L, count >= 0 && count <= KEPT_MAX - kept_count, 1, "too many");
  while (count-- > 0) {
    lua_State *one = luaL_newstate();
    if (!one) return luaL_error(L, "no memory");
    luaL_openlibs(one);
    open_host(one);
    lua_pushinteger(one, kept_count + 1);
    lua_setglobal(one, "number");
    kept[kept_count++] = one;
  }
  return 0;
}

/* in_kept(chunk, argument): runs it in each of them, one after the other. */
static int host_in_kept(lua_State *L) {
  for (int i = 0; i < kept_count; i++) {
    lua_pushstring(kept[i], luaL_optstring(L, 2, ""));
    lua_setglobal(kept[i], "argument");
    if (luaL_loadstring(kept[i], luaL_checkstring(L, 1)) || lua_pcall(kept[i], 0, 0, 0))
      return luaL_error(L, "state %d: %s", i + 1, lua_tostring(kept[i], -1));
  }
  return 0;
}

/* close_kept(): the last one first. */
static int host_close_kept(lua_State *L) {
  (void)L;
  while (kept_count > 0) lua_close(kept[--kept_count]);
  return 0;
}

struct work {
  const char *chunk, *argument;
  long count;
  char error[512];
};

static void *work(void *data) {
  struct work *w = data;
  for (long i = 0; i < w->count && !w->error[0]; i++)
    one_state(w->chunk, w->argument, w->error, sizeof w->error);
  return NULL;
}

/* threads(number, count, chunk, argument): each thread opens and closes `count` states. */
static int host_threads(lua_State *L) {
  pthread_t threads[64];
  struct work each[64];
  int number = (int)luaL_checkinteger(L, 1);
  luaL_argcheck(L, number >= 1 && number <= 64, 1, "1..64 expected");
  for (int i = 0; i < number; i++) {
    each[i].count = (long)luaL_checkinteger(L, 2);
    each[i].chunk = luaL_checkstring(L, 3);
    each[i].argument = luaL_optstring(L, 4, "");
    each[i].error[0] = 0;
    pthread_create(&threads[i], NULL, work, &each[i]);
  }
  for (int i = 0; i < number; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < number; i++)
    if (each[i].error[0]) return luaL_error(L, "%s", each[i].error);
  return 0;
}

static pthread_barrier_t barrier;

struct racer {
  const char *prepare, *chunk, *argument;
  char error[512];
};

static void *race(void *data) {
  struct racer *r = data;
  lua_State *L = luaL_newstate();
  int failed = !L;
  if (L) {
    luaL_openlibs(L);
    open_host(L);
    lua_pushstring(L, r->argument);
    lua_setglobal(L, "argument");
    failed = luaL_loadstring(L, r->prepare) || lua_pcall(L, 0, 0, 0) || luaL_loadstring(L, r->chunk);
  }
  pthread_barrier_wait(&barrier);
  if (L && !failed) failed = lua_pcall(L, 0, 0, 0);
  if (failed) {
    const char *text = L ? lua_tostring(L, -1) : NULL;
    snprintf(r->error, sizeof r->error, "%s", text ? text : "no state, or an error that is no string");
  }
  if (L) lua_close(L);
  return NULL;
}

/* race(number, prepare, chunk, argument): so many threads prepare a state each, and then run the
 * chunk all at the same time. */
static int host_race(lua_State *L) {
  pthread_t threads[64];
  static struct racer each[64];
  int number = (int)luaL_checkinteger(L, 1);
  luaL_argcheck(L, number >= 1 && number <= 64, 1, "1..64 expected");
  pthread_barrier_init(&barrier, NULL, (unsigned)number);
  for (int i = 0; i < number; i++) {
    each[i].prepare = luaL_checkstring(L, 2);
    each[i].chunk = luaL_checkstring(L, 3);
    each[i].argument = luaL_optstring(L, 4, "");
    each[i].error[0] = 0;
    pthread_create(&threads[i], NULL, race, &each[i]);
  }
  for (int i = 0; i < number; i++) pthread_join(threads[i], NULL);
  pthread_barrier_destroy(&barrier);
  for (int i = 0; i < number; i++)
    if (each[i].error[0]) return luaL_error(L, "%s", each[i].error);
  return 0;
}

static void *work_to_the_end(void *data) {
  struct work *w = data;
  if (one_state(w->chunk, w->argument, w->error, sizeof w->error)) {
    printf("not ok - in the background: %s\n", w->error);
    fflush(stdout);
  }
  free(w);
  return NULL;
}

/* background(chunk, argument): runs on a thread of its own while the script goes on. The two
 * strings must outlive it. */
static int host_background(lua_State *L) {
  struct work *w = calloc(1, sizeof *w);
  pthread_t thread;
  if (!w) return luaL_error(L, "no memory");
  w->chunk = luaL_checkstring(L, 1);
  w->argument = luaL_checkstring(L, 2);
  if (pthread_create(&thread, NULL, work_to_the_end, w)) return luaL_error(L, "no thread");
  pthread_detach(thread);
  return 0;
}

static const struct {
  const char *name;
  lua_CFunction function;
} functions[] = {
    {"now", host_now},         {"nap", host_nap},       {"fork", host_fork},
    {"wait", host_wait},       {"kill", host_kill},     {"exit_now", host_exit_now},
    {"count", host_count},     {"listen", host_listen}, {"fill", host_fill},
    {"close", host_close},     {"states", host_states}, {"threads", host_threads},
    {"limit_files", host_limit_files}, {"accept", host_accept}, {"close_all", host_close_all},
    {"background", host_background}, {"alarm", host_alarm},
    {"change_root", host_change_root}, {"user", host_user},
    {"race", host_race},       {"readable", host_readable},
    {"holds_engine", host_holds_engine},
    {"limit_file_size", host_limit_file_size}, {"break_stderr", host_break_stderr},
    {"limit_memory", host_limit_memory}, {"unlimit_memory", host_unlimit_memory},
    {"tally", host_tally},     {"failing", host_failing},
    {"refuse_openssl", host_refuse_openssl}, {"wait_a_moment", host_wait_a_moment},
    {"keep", host_keep},       {"in_kept", host_in_kept}, {"close_kept", host_close_kept},
};

static void open_host(lua_State *L) {
  lua_newtable(L);
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
    lua_pushcfunction(L, functions[i].function);
    lua_setfield(L, -2, functions[i].name);
  }
  lua_setglobal(L, "host");
}

int main(int argc, char **argv) {
  lua_State *L = luaL_newstate();
  if (argc < 2 || !L) {
    fprintf(stderr, "usage: host script.lua [argument ...]\n");
    return 2;
  }
  luaL_openlibs(L);
  open_host(L);
  lua_newtable(L);
  for (int i = 1; i < argc; i++) {
    lua_pushstring(L, argv[i]);
    lua_rawseti(L, -2, i - 1);
  }
  lua_setglobal(L, "arg");
  if (luaL_loadfile(L, argv[1]) || lua_pcall(L, 0, 0, 0)) {
    const char *text = lua_tostring(L, -1);
    printf("not ok - %s: %s\n", argv[1], text ? text : "an error that is no string");
    return 1;
  }
  lua_close(L);
  return 0;
}
