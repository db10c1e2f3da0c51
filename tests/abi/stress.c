/* Makes and drops handles on many threads, each with a Lua state of its own that is opened anew
 * again and again, and counts the blocks of memory that are left: none.
 *
 *     stress iterations      of each thread; each makes four handles
 *
 * Linked to a module. The allocator is wrapped here, in the program, so that Rust, Lua and libc
 * are all counted.
 */
#define _XOPEN_SOURCE 700 /* Barriers. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include "tap.h"

#define THREADS 8
/* Iterations that one Lua state lives for. */
#define LIFE 2000
/* Threads that come and go one after the other. */
#define VISITS 50

int luaopen_nauthilus_backend(lua_State *L);

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *block, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *block);

static atomic_long blocks;

static void *counted(void *block) {
  if (block)
    atomic_fetch_add_explicit(&blocks, 1, memory_order_relaxed);
  return block;
}

void *malloc(size_t size) { return counted(__libc_malloc(size)); }
void *calloc(size_t count, size_t size) { return counted(__libc_calloc(count, size)); }
void *aligned_alloc(size_t alignment, size_t size) { return counted(__libc_memalign(alignment, size)); }
void *memalign(size_t alignment, size_t size) { return counted(__libc_memalign(alignment, size)); }

int posix_memalign(void **block, size_t alignment, size_t size) {
  *block = counted(__libc_memalign(alignment, size));
  return *block ? 0 : ENOMEM;
}

void free(void *block) {
  if (block)
    atomic_fetch_sub_explicit(&blocks, 1, memory_order_relaxed);
  __libc_free(block);
}

void *realloc(void *block, size_t size) {
  if (!block)
    return malloc(size);
  if (size == 0) {
    free(block);
    return NULL;
  }
  return __libc_realloc(block, size);
}

static atomic_long failures, handles;
/* Threads of a round wait here for each other, so that all of them are in the library at once. */
static pthread_barrier_t together;
/* One of each that all threads use. */
static nauthilus_backend_result *shared_result;
static nauthilus_backend_context *shared_context;

static void expect(nauthilus_backend_status status) {
  if (status != NAUTHILUS_BACKEND_OK)
    atomic_fetch_add(&failures, 1);
}

static lua_State *open_state(void) {
  lua_State *L = luaL_newstate();
  luaL_openlibs(L);
  lua_pushcfunction(L, luaopen_nauthilus_backend);
  lua_call(L, 0, 1);
  lua_setglobal(L, "nb");
  if (luaL_dostring(L, "return function() local r = nauthilus_backend_result.new(); r:attributes({ n = 1 });"
                       "nb.apply_backend_result(r); nb.select_backend_server('127.0.0.1', 993); return r end"))
    atomic_fetch_add(&failures, 1);
  return L;
}

static void iterate(lua_State *L) {
  nauthilus_backend_result *made = NULL, *from_lua = NULL, *final = NULL;
  nauthilus_backend_context *context = NULL;
  nauthilus_backend_string name = NAUTHILUS_BACKEND_STRING_EMPTY, value = NAUTHILUS_BACKEND_STRING_EMPTY;
  nauthilus_backend_string why_not = NAUTHILUS_BACKEND_STRING_EMPTY;
  size_t count = 0;

  expect(nauthilus_backend_result_new(&made, NULL));
  expect(nauthilus_backend_result_set_attribute(made, LIT("uid"), LIT("jane"), NULL));
  expect(nauthilus_backend_result_retain(made, NULL));
  nauthilus_backend_result_release(made);
  expect(nauthilus_backend_result_push_lua(L, made, NULL));
  lua_pop(L, 1);

  expect(nauthilus_backend_context_new(&context, NULL));
  expect(nauthilus_backend_context_set_base(context, made, NULL));
  expect(nauthilus_backend_context_bind_lua(L, context, NULL));
  lua_pushvalue(L, -1);
  if (lua_pcall(L, 0, 1, 0) != 0)
    atomic_fetch_add(&failures, 1);
  expect(nauthilus_backend_result_from_lua(L, -1, &from_lua, NULL));
  lua_pop(L, 1);
  expect(nauthilus_backend_context_header_count(context, &count, NULL));
  if (count != 4)
    atomic_fetch_add(&failures, 1);
  expect(nauthilus_backend_context_header_at(context, 2, &name, &value, NULL));
  nauthilus_backend_string_release(&name);
  nauthilus_backend_string_release(&value);
  if (nauthilus_backend_context_header_at(context, 4, &name, &value, &why_not) != NAUTHILUS_BACKEND_OUT_OF_RANGE)
    atomic_fetch_add(&failures, 1);
  nauthilus_backend_string_release(&why_not);

  /* What all threads change at once. */
  expect(nauthilus_backend_result_retain(shared_result, NULL));
  expect(nauthilus_backend_result_set_attribute_integer(shared_result, LIT("n"), (int64_t)count, NULL));
  expect(nauthilus_backend_context_apply(shared_context, shared_result, NULL));
  expect(nauthilus_backend_context_header_count(shared_context, &count, NULL));
  expect(nauthilus_backend_context_reset(shared_context, NULL));
  nauthilus_backend_result_release(shared_result);
  expect(nauthilus_backend_context_result(shared_context, &final, NULL));
  nauthilus_backend_result_release(final);

  nauthilus_backend_result_release(from_lua);
  nauthilus_backend_context_release(context);
  nauthilus_backend_result_release(made);
  atomic_fetch_add_explicit(&handles, 4, memory_order_relaxed);
}

static void *work(void *argument) {
  long iterations = *(long *)argument, i;
  lua_State *L = open_state();
  for (i = 0; i < iterations; i++) {
    if (i % LIFE == LIFE - 1) {
      lua_close(L);
      L = open_state();
    }
    iterate(L);
    if (i == 0)
      pthread_barrier_wait(&together);
  }
  lua_close(L);
  return NULL;
}

/* A thread that never meets another. */
static void *visit(void *unused) {
  lua_State *L = open_state();
  iterate(L);
  lua_close(L);
  return unused;
}

static void round_of(long iterations) {
  pthread_t threads[THREADS];
  int i;
  for (i = 0; i < THREADS; i++)
    pthread_create(&threads[i], NULL, work, &iterations);
  for (i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
}

static void visits(int count) {
  pthread_t thread;
  while (count-- > 0) {
    pthread_create(&thread, NULL, visit, NULL);
    pthread_join(thread, NULL);
  }
}

int main(int argc, char **argv) {
  long iterations = argc > 1 ? atol(argv[1]) : 1000;
  long before, after_round, after_visits;
  nauthilus_backend_result *left = NULL;
  char name[128];
  pthread_barrier_init(&together, NULL, THREADS);
  nauthilus_backend_result_new(&shared_result, NULL);
  nauthilus_backend_context_new(&shared_context, NULL);
  /* What stays is made in the first round: statics, tables of libc for its threads, and a node of
   * arc_swap for each thread that is inside while others are, which later threads use again. */
  round_of(LIFE + 1);
  atomic_store(&handles, 0);
  before = atomic_load(&blocks);
  round_of(iterations);
  after_round = atomic_load(&blocks);
  visits(VISITS);
  after_visits = atomic_load(&blocks);
  /* Nothing is printed before this: the first line makes a buffer. */
  snprintf(name, sizeof name, "%ld handles on %d threads: no error", atomic_load(&handles), THREADS);
  CHECK(name, atomic_load(&failures) == 0);
  CHECK("the blocks of memory are counted", before > 0);
  CHECK("none is left", after_round == before);
  CHECK("threads that come and go leave none", after_visits == before);
  printf("# blocks before %ld, after %ld and %ld\n", before, after_round, after_visits);
  /* The check can fail. */
  nauthilus_backend_result_new(&left, NULL);
  CHECK("one that is left would be seen", atomic_load(&blocks) > after_visits);
  nauthilus_backend_result_release(left);
  nauthilus_backend_context_release(shared_context);
  nauthilus_backend_result_release(shared_result);
  return tap_finish();
}
